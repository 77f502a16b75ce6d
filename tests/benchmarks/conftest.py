"""Runs of seconds, as the tests of the learner configure them."""

from tests.agents.conftest import toy_config

__all__ = ["toy_config"]
