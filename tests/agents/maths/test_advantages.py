"""Literal tables, and brute-force twins, of what tokens have earned."""

from __future__ import annotations

import math

import pytest
import torch

from agents.maths.advantages import (
    explained_variance,
    gae,
    group_mean,
    group_std,
    leave_one_out_mean,
    next_step,
    returns_to_go,
    token_rewards,
    whiten,
)

MASK = torch.tensor([[True, True, True], [True, True, False]])


def close(found: torch.Tensor, expected, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=atol, rtol=0)


def test_whitening_gives_mean_zero_and_variance_one_and_its_scale():
    values = torch.tensor([[1.0, 2, 3], [4, 5, 999]])
    white, std = whiten(values, MASK)
    kept = white[MASK]
    close(kept.mean(), 0.0)
    close(kept.var(unbiased=False), 1.0)
    close(std, math.sqrt(2.0))
    close(kept[0], -math.sqrt(2.0))
    assert white[1, 2] == 0


def test_the_reward_comes_with_the_last_token_that_counts():
    rewards = token_rewards(torch.tensor([10.0, 20]), torch.tensor([[1.0, 2, 3], [4, 5, 6]]), MASK)
    close(rewards, [[-1.0, -2, 7], [-4, 15, 0]])


def test_next_step_shifts_and_stops_at_the_end():
    close(next_step(torch.tensor([[1.0, 2, 3], [4, 5, 6]]), MASK), [[2.0, 3, 0], [5, 0, 0]])


def test_returns_to_go_by_hand():
    # 3; 0 + .5*3; 1 + .5*1.5 and, where a response ends earlier, what is masked counts for nothing
    rewards = torch.tensor([[1.0, 0, 3], [2.0, 4, 999]])
    close(returns_to_go(rewards, MASK, gamma=0.5), [[1.75, 1.5, 3.0], [4.0, 4.0, 0.0]])


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
def test_returns_to_go_equal_their_sum(gamma):
    rewards = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    lengths = [7, 1, 4, 6]
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    found = returns_to_go(rewards, mask, gamma=gamma)
    for b, length in enumerate(lengths):
        for t in range(7):
            total = sum(gamma ** (k - t) * float(rewards[b, k]) for k in range(t, length))
            assert float(found[b, t]) == pytest.approx(total, abs=1e-5)


def test_gae_by_hand():
    # deltas: 1 + .9*.5 - 1 = .45; 0 + .9*2 - .5 = 1.3; 3 - 2 = 1. lam*gamma = .45
    advantages, returns = gae(
        torch.tensor([[1.0, 0, 3]]), torch.tensor([[1.0, 0.5, 2]]), torch.ones(1, 3,
        dtype=torch.bool), gamma=0.9, lam=0.5
    )  # fmt: skip
    close(advantages, [[1.2375, 1.75, 1.0]])
    close(returns, [[2.2375, 2.25, 3.0]])


def test_an_episode_that_was_cut_goes_on_at_its_last_value():
    # deltas: 1 + .9*2 - 1 = 1.8; 0 + .9*10 - 2 = 7, and in the second row 1 + .9*10 - 1 = 9
    advantages, returns = gae(
        torch.tensor([[1.0, 0], [1, 99]]), torch.tensor([[1.0, 2], [1, 99]]),
        torch.tensor([[True, True], [True, False]]), gamma=0.9, lam=0.5,
        last_values=torch.tensor([10.0, 10]),
    )  # fmt: skip
    close(advantages, [[1.8 + 0.45 * 7, 7.0], [9.0, 0.0]])
    close(returns, [[1.8 + 0.45 * 7 + 1, 9.0], [10.0, 0.0]])


@pytest.mark.parametrize("beyond", [0.0, 1.5])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_gae_equals_its_double_sum(gamma, lam, beyond):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 7, generator=generator)
    lengths = torch.tensor([7, 1, 4, 6])
    mask = torch.arange(7)[None] < lengths[:, None]
    last = torch.full((4,), beyond) if beyond else None
    advantages, _ = gae(rewards * mask, values, mask, gamma=gamma, lam=lam, last_values=last)
    for b, length in enumerate(lengths.tolist()):
        for t in range(7):
            total = 0.0
            for k in range(t, length):
                after = float(values[b, k + 1]) if k + 1 < length else beyond
                delta = float(rewards[b, k]) + gamma * after - float(values[b, k])
                total += (gamma * lam) ** (k - t) * delta
            assert float(advantages[b, t]) == pytest.approx(total, abs=1e-5)


def test_whitening_together_uses_the_moments_of_all():
    values, mask = torch.tensor([[1.0, 3, 99]]), torch.tensor([[True, True, False]])
    whitened, std = whiten(values, mask, torch.tensor([1.0, 3, 5, 7]))  # mean 4, variance 5
    close(std, 5**0.5)
    close(whitened, [[-3 / 5**0.5, -1 / 5**0.5, 0]])


def test_groups_by_hand():
    values = torch.tensor([1.0, 3, 8, 2, 2, 2])
    close(group_mean(values, 3), [4.0, 4, 4, 2, 2, 2])
    close(group_std(values, 3), [3.6055513] * 3 + [0.0] * 3)
    close(leave_one_out_mean(values, 3), [5.5, 4.5, 2.0, 2, 2, 2])
    close(group_std(values, 1), [0.0] * 6)
    close(leave_one_out_mean(values, 1), [0.0] * 6)


def test_the_mean_of_the_others_is_that_of_a_loop():
    values = torch.randn(12, generator=torch.Generator().manual_seed(0))
    for size in (2, 3, 4, 6):
        found = leave_one_out_mean(values, size)
        for i in range(12):
            start = i - i % size
            others = [float(values[j]) for j in range(start, start + size) if j != i]
            assert float(found[i]) == pytest.approx(sum(others) / len(others), abs=1e-6)


def test_explained_variance_is_one_for_the_truth_and_zero_for_a_constant():
    targets = torch.tensor([1.0, 2, 3, 4, 5, 77])
    close(explained_variance(targets, targets), 1.0)
    close(explained_variance(torch.zeros(6), targets), 0.0)
    close(explained_variance(targets, torch.ones(6)), 0.0)
