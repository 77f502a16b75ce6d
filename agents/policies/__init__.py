"""Policies: language models that sample responses and score them."""
