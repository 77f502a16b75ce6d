"""RCRL: all responses are imitated, behind a label that says which of them are good.

After Havrilla et al. 2024, "Teaching Large Language Models to Reason with Reinforcement Learning"
(arXiv 2403.04642), whose return-conditioned RL labels the steps of a solution by a rule that is not
published. Ours labels whole responses, in words before the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from agents.algorithms.configs import RCRLConfig
from agents.algorithms.imitation import Imitation


class RCRL(Imitation):
    """min −Σ log π(response | label, prompt) over all whole responses so far.

    A policy is always asked behind the good label, and a bad response that it gives there is learnt
    behind the bad one.
    """

    Config = RCRLConfig
    config: RCRLConfig  # pyright: ignore[reportIncompatibleVariableOverride] # never set anew

    # Characters that the alphabets of those games have in common.
    smoke: ClassVar[Mapping[str, Any]] = {
        **Imitation.smoke,
        **{"good_label": ",", "bad_label": "="},
    }

    def wanted(self, good: Tensor, ended: Tensor) -> Tensor:
        """Return which responses are whole."""
        return ended

    def label(self, good: bool) -> str:
        """Return the label of a good or a bad response."""
        return self.config.good_label if good else self.config.bad_label
