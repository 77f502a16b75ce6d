"""An algorithm of your own: REINFORCE against a running mean of a policy's rewards.

A subclass says what rewards are measured against. Scoring, the KL penalty and the loss are those of
every algorithm; `surrogate` may be replaced as well. `Config` brings a hyper-parameter of its own.

    python examples/custom_algorithm.py [--smoke]
    python -m agents train toy --import examples/custom_algorithm.py --algorithm reinforce \
        --baseline-share 0.5
"""

import sys
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from agents import TrainConfig, train
from agents.algorithms import Algorithm, register_algorithm
from agents.config import preset_values
from agents.config.algorithm import AlgorithmConfig
from agents.config.options import Between
from agents.maths.advantages import returns_to_go


@register_algorithm("reinforce")
class Reinforce(Algorithm):
    """∇log π(a|s) · (R − c b), one pass over each batch."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """What REINFORCE has beside what all algorithms have."""

        baseline_share: Annotated[float, Between(0, 1)] = 1.0
        """c, how much of the mean of the batch is subtracted."""

    config: Config  # type: ignore[assignment]  # never set anew

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Measure rewards to go against the mean of the batch."""
        returns = returns_to_go(rewards, mask, gamma=self.config.gamma)
        mean = self.config.baseline_share * returns[mask].mean() * mask
        return returns - mean, returns, mean

    def surrogate(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Leave the step unclipped: ∇ratio is ∇log π where nothing has moved yet."""
        return ratio * advantages


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    size = {"iterations": 1, "evaluation_queries": 8} if smoke else {}
    values = {**preset_values("toy"), "algorithm": "reinforce", "epochs": 1, "learning_rate": 5e-3}
    train(TrainConfig(**{**values, "out": "runs/reinforce", **size}))
