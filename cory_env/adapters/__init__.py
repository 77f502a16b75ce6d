"""The game in the trainers of others: a module for each, which imports that trainer's package."""
