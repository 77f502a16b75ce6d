"""Policies scored on held-out queries."""
