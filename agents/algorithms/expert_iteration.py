"""Expert iteration: good responses are collected and imitated, round by round.

Source: Havrilla et al. 2024, "Teaching Large Language Models to Reason with Reinforcement Learning"
(arXiv 2403.04642); the idea: Anthony et al. 2017 (arXiv 1705.08439).
"""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.configs import ExpertIterationConfig
from agents.algorithms.imitation import Imitation


class ExpertIteration(Imitation):
    """min −Σ log π(response | prompt) over the good responses of all rounds so far.

    With `restart="beginning"` every round fits the weights that the run began with to them anew.
    """

    Config = ExpertIterationConfig

    def wanted(self, good: Tensor, ended: Tensor) -> Tensor:
        """Return which responses are good and whole."""
        return good & ended
