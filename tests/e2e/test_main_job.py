"""The main job keeps its promise, for three seeds: `pytest -m slow`, about four minutes a seed."""

from __future__ import annotations

import pytest

from agents import TrainConfig, train
from agents.presets import preset_values


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_policy_alone_gains_three_points_within_fifteen_nats(tmp_path, seed):
    config = TrainConfig(**{**preset_values("imdb"), "seed": seed, "out": str(tmp_path / "run")})
    evaluation = train(config).evaluation
    assert evaluation is not None
    rows = {row["name"]: row for row in evaluation["rows"]}
    reference = rows["reference"]
    for name in config.policy_names:
        alone = rows[name]
        assert alone["reward"][0] >= reference["reward"][0] + 3.0
        assert alone["kl"][0] <= 15
        assert alone["combined"][0] > reference["combined"][0]
        assert alone["distinct_2"][0] >= 0.7 * reference["distinct_2"][0]
