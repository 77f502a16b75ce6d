"""When a learner has learnt, on any processor.

Processors round differently, and after a few steps two of them draw different tokens: what becomes
of one seed here says nothing of that seed elsewhere. The criterion is therefore one over seeds. A
seed *learns* if every policy's mean reward over `WINDOW` iterations in a row passes a bound which
habit and luck don't reach, within `ITERATIONS`. A learner passes if `NEEDED` of `MOST` seeds learn.
They are played one after the other, and no more of them than it takes.

The chance of failing a sound learner: of at least seven seeds of each algorithm and game that the
tests play, 180 in all, with and without vector instructions, every one learnt, after 6 to 27 of the
48 iterations (the slowest, GSPO on sums, after 22 with a standard deviation of 3.3). So, whatever
the distribution, a seed misses with a chance below 0.35 (at 95 %: 0.65 ** 7 < 0.05), and fewer than
2 of 12 seeds learn with one below 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

from agents import TrainConfig
from agents.training.trainer import Trainer

WINDOW = 5
ITERATIONS = 48
NEEDED, MOST = 2, 12

FAST = {"batch_size": 128, "minibatch_size": 64, "epochs": 2, "learning_rate": 4e-3}
"""A few large steps per batch, with which small games are learnt within seconds. At 6e-3 some
seeds stop at a habit."""


def chance_of_failing(miss: float) -> float:
    """Return the chance that too few seeds learn, where `miss` is the chance that one does not."""
    return sum(comb(MOST, k) * (1 - miss) ** k * miss ** (MOST - k) for k in range(NEEDED))


def seed_learns(trainer: Trainer, bound: float, iterations: int = ITERATIONS) -> bool:
    """Train until every policy has passed the bound, and return whether it did so in time."""
    keys = [f"{name}/task_reward" for name in trainer.policies]
    rows = []
    for iteration in range(iterations):
        rows.append(trainer.iterate(iteration))
        if iteration + 1 >= WINDOW and all(
            sum(float(row[key]) for row in rows[-WINDOW:]) > WINDOW * bound for key in keys
        ):
            return True
    return False


def assert_learns(
    config: TrainConfig, bound: float, make: Callable[[TrainConfig], Trainer] = Trainer
) -> None:
    """Check that a learner passes the criterion."""
    learnt = missed = 0
    while learnt < NEEDED:
        seed = learnt + missed
        if seed_learns(make(config.replace(seed=seed)), bound):
            learnt += 1
        else:
            missed += 1
        assert missed <= MOST - NEEDED, f"{missed} of {seed + 1} seeds did not pass {bound}"
