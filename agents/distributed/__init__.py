"""Ranks that share the work."""
