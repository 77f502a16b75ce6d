"""Rewards that need torch."""
