"""Batches of episodes, and the credit of each agent."""
