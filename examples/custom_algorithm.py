"""An algorithm of your own: REINFORCE with the critic as its baseline, without a clipped ratio.

It inherits what MAPPO prepares (advantages, direct KL term, central critic) and replaces the loss.

    python examples/custom_algorithm.py [--smoke]
"""

import sys

from agents import TrainConfig, train
from agents.algorithms import MAPPO, register_algorithm
from agents.functional import clipped_value_loss, explained_variance, masked_mean
from agents.presets import preset_values
from agents.types import LossOutput, TrainBatch


@register_algorithm("reinforce")
class Reinforce(MAPPO):
    """∇log π(a|s) · A, one pass over each batch."""

    def loss(self, policy: str, batch: TrainBatch) -> LossOutput:
        """Return the loss of one policy and of the critic."""
        mask, count = batch.response_mask, len(batch) * self.max_new_tokens
        scores = self.policies[policy].score(batch, batch.ref_hidden)
        loss = -(scores.log_probs * batch.advantages).sum() / count
        direct = (scores.kls / batch.advantage_scale[:, None]).sum() / count
        values = self.critics[policy](batch.features, batch.seats)
        errors = clipped_value_loss(values, batch.old_values, batch.returns, None)
        metrics = {"explained_variance": explained_variance(batch.old_values, batch.returns, mask)}
        loss = loss + self.controllers[policy].coef * direct + masked_mean(errors, mask)
        return LossOutput(loss, metrics)


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    size = {"iterations": 1, "evaluation_queries": 8} if smoke else {}
    values = {
        **preset_values("toy"),
        "algorithm": "reinforce",
        "epochs": 1,
        "out": "runs/reinforce",
    }
    train(TrainConfig(**{**values, **size}))
