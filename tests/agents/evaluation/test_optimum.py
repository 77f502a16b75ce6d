"""What no policy of `toy` alone can pass: by hand, and of a policy that has learnt."""

from __future__ import annotations

import numpy as np
import pytest

from agents.evaluation.optimum import lone_optimum
from agents.evaluation.samples import references
from agents.evaluation.toy_tables import pioneer_table
from agents.maths.exact_solver import solve_alone
from agents.training.trainer import Trainer
from cory_env import Example, make_reward

SMALL = {"task_options": "length=1,symbols=2", "observers": 0, "algorithm": "ppo", "seed": 3}


def test_it_is_the_tilted_reference_at_every_price(toy_config):
    trainer = Trainer(toy_config(**SMALL))
    curve = lone_optimum(trainer.config)
    (reference,) = references(trainer.policies).values()
    vocabulary = trainer.games.rules.task.tokenizer
    texts = [vocabulary.decode([i], begin=False) for i in range(vocabulary.vocab_size)]
    base = np.exp(pioneer_table(reference, trainer.games.rules.task))
    # One token at most, and the end token first: so are the responses listed.
    end = vocabulary.eos_token_id
    order = [end, *(i for i in range(vocabulary.vocab_size) if i != end)]
    reward, points = make_reward("match"), []
    for eta in np.geomspace(3e-3, 10, 40):
        kls, rewards = [], []
        for row, query in enumerate("ab"):
            paid = reward([Example(query, query)] * len(order), [texts[i] for i in order])
            weights = [base[row, i] * np.exp((paid[i] - 1) / eta) for i in range(len(order))]
            chances = [weight / sum(weights) for weight in weights]
            pairs = [(c, c / b) for c, b in zip(chances, base[row], strict=True) if c > 0]
            kls.append(sum(c * np.log(ratio) for c, ratio in pairs))
            rewards.append(sum(c * p for c, p in zip(chances, paid, strict=True)))
        points.append((np.mean(kls), np.mean(rewards)))
    assert np.array(curve) == pytest.approx(np.array(points), abs=1e-6)
    assert curve[0][1] > 0.999  # all but always right
    assert curve[-1][0] < 1e-3  # the reference


def test_a_policy_that_learns_stays_below_it(toy_config):
    options = {"iterations": 12, "batch_size": 64, "minibatch_size": 32, "learning_rate": 4e-3}
    trainer = Trainer(toy_config(**{**SMALL, **options}, kl_coef=0.05))
    task, curve = trainer.games.rules.task, lone_optimum(trainer.config)
    (reference,) = references(trainer.policies).values()
    base = pioneer_table(reference, task)
    seen = []
    for iteration in range(12):
        trainer.iterate(iteration)
        table = pioneer_table(trainer.policies["llm_0"], task)
        reward, kl = exactly(table, base)
        seen.append(reward)
        most = np.interp(kl, *np.array(sorted(curve)).T)
        assert reward < most + 1e-3  # between two prices the line is below the curve
    assert seen[-1] > seen[0] + 0.2


def exactly(table: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Return reward and KL of a policy of one letter: the right answer is the query itself."""
    right = [1, 2]  # behind the end token, in the order of the alphabet
    chances = np.exp(table)
    reward = np.mean([chances[row, column] for row, column in enumerate(right)])
    return float(reward), float((chances * (table - base)).sum(1).mean())


def test_prices_fall_along_the_line(toy_config):
    curve = np.array(lone_optimum(toy_config(**SMALL)))
    assert (np.diff(curve[:, 0]) <= 1e-12).all()
    assert (np.diff(curve[:, 1]) <= 1e-12).all()
    assert solve_alone(np.log([[0.5, 0.5]]), np.array([[1.0, 0.0]]), 1.0)[0] == pytest.approx(
        np.e / (1 + np.e)
    )
