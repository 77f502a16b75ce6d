"""Literal tables, and brute-force twins, of what a step minimises."""

from __future__ import annotations

import pytest
import torch

from agents.maths.losses import (
    Totals,
    advantage_weights,
    aggregate,
    clipped_surrogate,
    clipped_value_loss,
    importance_weights,
    sequence_log_ratio,
)

MASK = torch.tensor([[True, True, True], [True, True, False]])


def close(found: torch.Tensor, expected, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8), (1.1, 2.0, 2.2)],
)
def test_the_surrogate_is_clipped_on_the_side_that_would_gain(ratio, advantage, expected):
    close(clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), 0.2), expected)


@pytest.mark.parametrize(("ratio", "advantage", "expected"), [(1.5, 1.0, 1.4), (1.5, -1.0, -1.5)])
def test_the_upper_bound_may_be_higher(ratio, advantage, expected):
    found = clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), 0.2, 0.4)
    close(found, expected)


def test_advantages_become_weights_that_are_capped_or_one_and_zero():
    advantages = torch.tensor([[0.0, 1.0], [-2.0, 5.0]])
    close(advantage_weights(advantages, 1.0, 20.0), [[1.0, 2.71828], [0.135335, 20.0]])
    close(advantage_weights(advantages, 2.0, 9.0), [[1.0, 1.648721], [0.367879, 9.0]])
    close(advantage_weights(advantages, 1.0, 20.0, hard=0.0), [[0.0, 1.0], [0.0, 1.0]])
    close(advantage_weights(advantages, 1.0, 20.0, hard=1.0), [[0.0, 0.0], [0.0, 1.0]])


def test_a_sequence_has_one_ratio_the_geometric_mean_of_its_tokens():
    log_ratio = torch.tensor([[0.3, 0.0, -0.6], [0.2, 0.4, 0.0]])
    close(sequence_log_ratio(log_ratio, MASK), [[-0.1, -0.1, -0.1], [0.3, 0.3, 0.0]])


def test_importance_weights_are_capped_and_one_without_a_cap():
    log_probs, sampled = torch.zeros(2, 3), torch.tensor([[0.0, -1, 1], [0, 0, -9]])
    close(importance_weights(log_probs, sampled, MASK, 2.0), [[1, 2, 0.3678794], [1, 1, 1]])
    close(importance_weights(log_probs, sampled, MASK, None), [[1.0, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("normalization", "expected"), [("constant", 15 / 8), ("token", 3.0), ("sequence", 3.25)]
)
def test_what_sums_over_tokens_are_divided_by(normalization, expected):
    values = torch.tensor([[1.0, 2, 3], [4, 5, 999]])
    close(aggregate(values, MASK, normalization, 4, Totals.of(MASK)), expected)


@pytest.mark.parametrize("normalization", ["constant", "token", "sequence"])
def test_shares_of_the_parts_of_a_step_add_up_to_the_whole(normalization):
    values = torch.tensor([[1.0, 2, 3], [4, 5, 999]])
    totals = Totals.of(MASK)
    parts = [
        aggregate(values[i : i + 1], MASK[i : i + 1], normalization, 4, totals) for i in (0, 1)
    ]
    close(sum(parts), aggregate(values, MASK, normalization, 4, totals))


def test_value_loss_by_hand():
    values, old, returns = (
        torch.tensor([2.0, 0.1]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([3.0, 1.0]),
    )
    close(clipped_value_loss(values, old, returns, None), [0.5, 0.405])
    # clipped to 1.2 and 0.1: errors 1.8 and 0.9; the larger counts
    close(clipped_value_loss(values, old, returns, 0.2), [1.62, 0.405])
