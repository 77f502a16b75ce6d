"""The main job keeps its promise: `pytest -m slow`, about four minutes a seed."""

from __future__ import annotations

import pytest

from agents import TrainConfig, train
from agents.config.presets import preset_values

SEEDS = 3


@pytest.mark.slow
def test_policies_alone_gain_within_fifteen_nats(tmp_path):
    """In the mean of three seeds of a pair.

    The README's three have gained 3.7. Seeds of one configuration differ by a standard deviation
    of 0.31 (64 degrees of freedom: the sixteen variants of five seeds in docs/results/matched), so
    that two means of three differ by one of 0.26. The bound is 4.2 of these below: a sound learner
    falls short of it four times in 100,000.
    """
    rows = []
    for seed in range(SEEDS):
        out = str(tmp_path / str(seed))
        config = TrainConfig(**{**preset_values("imdb"), "seed": seed, "out": out})
        evaluation = train(config).evaluation
        assert evaluation is not None
        rows += evaluation["rows"]

    def mean(figure: str, *names: str) -> float:
        values = [row[figure][0] for row in rows if row["name"] in names]
        assert len(values) == SEEDS * len(names)
        return sum(values) / len(values)

    policies = config.policy_names
    assert mean("reward", *policies) > mean("reward", "reference") + 2.6
    assert mean("kl", *policies) < 15
    assert mean("combined", *policies) > mean("combined", "reference")
    assert mean("distinct_2", *policies) > 0.7 * mean("distinct_2", "reference")
