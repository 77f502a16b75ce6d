"""Base models and what is trained of them."""
