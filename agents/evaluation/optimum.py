"""The exact optimum of `toy` for one policy alone: what no run of a comparison can pass.

All responses of `toy` can be listed. At the price η of a nat the best policy alone is π₀ exp(r/η),
normalised: nobody earns more at its KL. The policies of a pair count alone, too, whoever has taught
them.
"""

from __future__ import annotations

import numpy as np

from agents.config.train import TrainConfig
from agents.evaluation.samples import references
from agents.evaluation.toy_tables import pioneer_table, toy_rewards
from agents.maths.exact_solver import solve_alone
from agents.parts import Parts
from cory_env.tasks.toy import ToyTask

_PRICES = np.geomspace(3e-3, 10, 40)
"""η, from a policy that is all but always right to the reference itself."""


def lone_optimum(config: TrainConfig) -> list[tuple[float, float]]:
    """Return KL in nats and task reward of the best policies alone, the cheapest price first.

    Args:
        config: of a run of `toy`; its reference goes by its seed.
    """
    parts = Parts.build(config, learns=False)
    task = parts.games.rules.task
    assert isinstance(task, ToyTask)
    reference = next(iter(references(parts.policies).values()))
    log_probs, rewards = pioneer_table(reference, task), toy_rewards(task)
    found = [solve_alone(log_probs, rewards, float(price)) for price in _PRICES]
    return [(kl, reward) for reward, kl in found]
