"""Rewards that need a model."""
