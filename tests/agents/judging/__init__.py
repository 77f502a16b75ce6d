"""Tests of `agents.judging`."""
