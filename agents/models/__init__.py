"""Base models, adapters, copies and critics."""
