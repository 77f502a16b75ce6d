"""Literal tables, and brute-force twins, of orders and schedules."""

from __future__ import annotations

import pytest
import torch

from agents.maths.schedules import schedule_factor, stratified_order


def test_every_minibatch_has_one_row_of_each_stratum():
    order = stratified_order(12, 4, torch.Generator().manual_seed(0))
    assert order.shape == (3, 4)
    assert sorted(order.flatten().tolist()) == list(range(12))
    assert torch.equal(order // 3, torch.arange(4).expand(3, 4))
    counts = torch.zeros(3)
    for seed in range(600):
        counts[stratified_order(12, 4, torch.Generator().manual_seed(seed))[0, 0]] += 1
    assert (counts - 200).abs().max() < 60  # 5 standard deviations of a fair draw


def test_learning_rates_rise_and_fall():
    factor = schedule_factor
    assert [factor("constant", i, 4, 0) for i in range(4)] == [1, 1, 1, 1]
    assert [factor("linear", i, 4, 0) for i in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [factor("linear", i, 6, 2) for i in range(3)] == [1 / 3, 2 / 3, 1]
    assert factor("cosine", 2, 4, 0) == pytest.approx(0.5)
    assert factor("cosine", 1, 4, 0) == pytest.approx(0.8535534)
