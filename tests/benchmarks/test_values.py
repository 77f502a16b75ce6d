"""What is measured of states inside responses."""

from __future__ import annotations

import json
from math import isnan

import pytest
import torch
from rich.console import Console

from agents.training.loop import train
from benchmarks.values import Arguments, errors, inner_states, main, picks


def test_errors_and_correlations_by_hand():
    worth = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 1.0], [0.25, 1.0, 0.5]])
    found = errors(worth, torch.tensor([0.5, 0.0, 0.5]))
    assert found["constant_error"] == pytest.approx(1 / 3)
    assert found["critic_error"] == pytest.approx(0.5)
    assert found["few_error"] == pytest.approx(0.5 / 3)
    assert found["more_error"] == pytest.approx(0.25 / 3)
    assert found["critic_correlation"] == pytest.approx(-(3**0.5) / 2, abs=1e-6)
    assert found["few_correlation"] == pytest.approx(3**0.5 / 2, abs=1e-6)


def test_the_best_of_alternatives_that_differ_is_looked_for():
    truth = [0.0, 0.5, 1.0, 0.5, 0.5, 0.6, 0.9, 0.1, 0.9]
    few = [0.0, 1.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    more = [0.0, 0.4, 1.0, 1.0, 0.0, 0.0, 1.0, 0.1, 0.9]
    critic = [0.9, 0.5, 0.1, 0.1, 0.2, 0.3, 0.1, 0.9, 0.1]
    found = picks(torch.tensor([truth, few, more]), torch.tensor(critic))
    assert found == {"groups": 2, "critic_right": 0.0, "few_right": 0.5, "more_right": 1.0}
    nothing = picks(torch.zeros(3, 0), torch.zeros(0))
    assert nothing["groups"] == 0
    assert isnan(nothing["few_right"])


def test_every_checkpoint_of_a_run_is_measured(toy_config, tmp_path):
    config = toy_config(observers=0, iterations=2, save_every=1, batch_size=16)
    folder = train(config, console=Console(quiet=True)).folder
    out = tmp_path / "values.json"
    arguments = Arguments(run=folder, out=out, states=16, truth=16)
    rows = main(arguments, Console(quiet=True))
    assert [row.step for row in rows] == [1, 2]
    assert [row["step"] for row in json.loads(out.read_text())] == [1, 2]
    for row in rows:
        assert 0 < row.states <= 16
        # An untrained model earns nearly nothing, wherever it stands.
        assert row.few_error < 0.5
        assert row.critic_error >= 0


def test_states_are_inside_responses():
    class Tokens:
        response_mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()

    class Turn:
        tokens = Tokens

    class Played:
        turns = (Turn,)

    for seed in range(20):
        found = inner_states(Played, seed)
        assert [prefix.row for prefix in found] == [0, 2]
        assert 1 <= found[0].cut <= 3
        assert found[1].cut == 1
