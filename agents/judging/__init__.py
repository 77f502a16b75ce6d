"""Preferences of a judge, and the reward model that fits them."""
