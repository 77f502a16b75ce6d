"""What judges of finished answers are worth, and a gate that asks them."""

from __future__ import annotations

import json
from itertools import product
from math import isnan

import numpy as np
import pytest
import torch
from rich.console import Console

from agents.training.loop import train
from benchmarks.gate import Arguments, auc, before_last, figures, gated, main


def test_the_first_answer_that_passes_counts_or_else_the_best():
    values = np.array([[0.7, 0.1, 0.1], [0.9, 0.6, 0.4], [0.8, 0.9, 0.2]])
    chosen, used = gated(values, 0.5)
    assert chosen.tolist() == [0, 1, 1]
    assert used.tolist() == [1, 2, 3]


def test_a_gate_equals_trying_one_answer_after_the_other():
    values = np.random.default_rng(0).integers(0, 5, (4, 200)) / 4  # with ties
    for threshold in (0.0, 0.5, 0.75, 2.0):
        chosen, used = gated(values, threshold)
        for n in range(values.shape[1]):
            tried: list[float] = []
            for value in values[:, n]:
                tried.append(value)
                if value >= threshold:
                    break
            best = tried.index(max(tried)) if max(tried) < threshold else len(tried) - 1
            assert (chosen[n], used[n]) == (best, len(tried))


def test_auc_counts_pairs_of_a_right_and_a_wrong_answer():
    assert auc(np.array([1, 0, 1, 0]), np.array([3.0, 2.0, 1.0, 1.0])) == pytest.approx(2.5 / 4)
    assert isnan(auc(np.ones(3), np.arange(3.0)))
    rng = np.random.default_rng(1)
    rewards, values = rng.integers(0, 2, 60), rng.integers(0, 6, 60).astype(float)
    pairs = [
        float(a > b) + 0.5 * float(a == b)
        for (r, a), (s, b) in product(zip(rewards, values, strict=True), repeat=2)
        if r == 1 and s == 0
    ]
    assert auc(rewards, values) == pytest.approx(sum(pairs) / len(pairs))


def test_values_that_know_queries_alone_tell_no_answers_apart():
    rewards = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    hard = np.array([[0.5, 0.1, 0.9], [0.5, 0.1, 0.9]])
    found = figures("critic", rewards, hard, 0.0, seed=0)
    assert found.queries_that_differ == 1
    assert found.auc_within[0] == 0.5
    assert found.auc_pooled == pytest.approx((2 * 3 + 1 * 2 + 0.5) / 9)
    known = figures("critic", rewards[::-1], rewards[::-1], 0.5, seed=0)
    assert known.auc_within[0] == 1.0
    assert known.one_try == pytest.approx(1 / 3)
    assert known.gate == known.best == known.any_right == pytest.approx(2 / 3)
    assert known.gain[0] == pytest.approx(1 / 3)
    assert known.used == pytest.approx((2 + 2 + 1) / 3)


def test_a_value_is_that_before_the_last_token():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    assert before_last(values, mask).tolist() == [2.0, 6.0]


def test_a_run_is_measured_by_both_judges(toy_config, tmp_path):
    base = {"model": "embedded", "task": "arithmetic", "task_options": "difficulty=1"}
    config = toy_config(**base, adapter="lora", observers=0, iterations=1, dtype="float32")
    folder = train(config, console=Console(quiet=True)).folder
    out = tmp_path / "gate.json"
    arguments = Arguments(run=folder, out=out, queries=24, fitted=24)
    rows = main(arguments, Console(quiet=True))
    assert [row.judge for row in rows] == ["critic", "verifier"]
    assert [row["judge"] for row in json.loads(out.read_text())] == ["critic", "verifier"]
    for row in rows:
        assert 1 <= row.used <= 4
        assert row.one_try <= row.any_right
        assert row.gate <= row.any_right
