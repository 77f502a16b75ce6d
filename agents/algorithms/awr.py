"""AWR: advantage-weighted regression; a policy imitates its responses, the good ones more.

Source: Peng et al. 2019, arXiv 1910.00177, algorithm 1. ReAd (Zhang et al. 2024, arXiv 2405.14314)
fits the responses of several agents so, by the advantage of each given those before it; with
`credit="causal"` and `handover="value"` that is the advantage that is computed here.
"""

from __future__ import annotations

from torch import Tensor

from agents.algorithms.configs import AWRConfig
from agents.algorithms.mappo import MAPPO
from agents.maths.losses import advantage_weights


class AWR(MAPPO):
    """Maximise Σ w log π(a_t|s_t) with w = min(exp(A/β), cap), of responses just sampled."""

    # Differs from Peng et al.: responses are those of this iteration, not of a buffer, advantages
    # are generalised ones, whitened unless configured otherwise, and the KL of the objective stays.
    Config = AWRConfig
    config: AWRConfig  # pyright: ignore[reportIncompatibleVariableOverride] # never set anew

    def surrogate(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Return (B, T) the weighted log-ratio, which has the gradient of the log-prob."""
        config = self.config
        weights = advantage_weights(advantages, config.beta, config.weight_cap, config.hard)
        return weights * ratio.log()
