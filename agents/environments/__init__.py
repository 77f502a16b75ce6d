"""Environments of Gymnasium and PettingZoo, as language models see them."""
