"""Language models that learn to act in environments of others, one action a step."""
