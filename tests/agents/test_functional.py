"""Literal tables, and brute-force twins, of the learner's mathematics."""

from __future__ import annotations

import math

import pytest
import torch

from agents import functional as F

MASK = torch.tensor([[True, True, True], [True, True, False]])


def close(found: torch.Tensor, expected, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=atol, rtol=0)


def test_masked_mean_leaves_out_masked_entries():
    close(F.masked_mean(torch.tensor([[1.0, 2, 3], [4, 5, 999]]), MASK), 3.0)
    close(F.masked_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)), 0.0)


def test_whitening_gives_mean_zero_and_variance_one_and_its_scale():
    values = torch.tensor([[1.0, 2, 3], [4, 5, 999]])
    white, std = F.whiten(values, MASK)
    kept = white[MASK]
    close(kept.mean(), 0.0)
    close(kept.var(unbiased=False), 1.0)
    close(std, math.sqrt(2.0))
    close(kept[0], -math.sqrt(2.0))
    assert white[1, 2] == 0


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p():
    logits = torch.tensor([0.1, 0.5, 0.4]).log()
    assert F.nucleus_mask(logits, 0.45).tolist() == [False, True, False]
    assert F.nucleus_mask(logits, 0.6).tolist() == [False, True, True]
    assert F.nucleus_mask(logits, 0.95).tolist() == [True, True, True]


def test_sampling_log_probs_by_hand():
    logits = torch.tensor([0.0, math.log(3.0)])
    close(F.sampling_log_probs(logits).exp(), [0.25, 0.75])
    # 3^(1/2) = 1.7320508: 1 / 2.7320508
    close(F.sampling_log_probs(logits, temperature=2.0).exp(), [0.3660254, 0.6339746])
    close(F.sampling_log_probs(logits, top_p=0.5).exp(), [0.0, 1.0])


def test_a_drawn_token_stays_possible_when_the_nucleus_moves_away():
    logits = torch.tensor([0.0, math.log(3.0)])
    kept = F.sampling_log_probs(logits, top_p=0.5, kept_ids=torch.tensor(0))
    close(kept.exp(), [0.25, 0.75])


def test_entropy_and_exact_kl_by_hand():
    p, q = torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]).log()
    close(F.entropy(p), 0.5623351)
    close(F.exact_kl(p, q), 0.1308120)  # 0.25 ln 0.5 + 0.75 ln 1.5
    close(F.exact_kl(q, p), 0.1438410)
    close(F.exact_kl(p, p), 0.0)


def test_impossible_tokens_contribute_nothing_and_no_nan_gradient():
    logits = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    log_probs = F.sampling_log_probs(logits, top_p=0.5)
    total = F.entropy(log_probs) + F.exact_kl(log_probs, torch.full((3,), math.log(1 / 3)))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


def test_exact_kl_is_the_mean_of_the_sampled_log_ratio():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 5, generator=generator).log_softmax(-1)
    drawn = torch.multinomial(p.exp(), 200_000, replacement=True, generator=generator)
    k1 = (p - q)[drawn]
    error = float(k1.std() / math.sqrt(len(k1)))
    assert (
        abs(float(k1.mean() - F.exact_kl(p, q))) < 5 * error
    )  # 5 sigma: fails once in 1.7 million seeds


def test_the_reward_comes_with_the_last_token_that_counts():
    rewards = F.token_rewards(
        torch.tensor([10.0, 20]), torch.tensor([[1.0, 2, 3], [4, 5, 6]]), MASK
    )
    close(rewards, [[-1.0, -2, 7], [-4, 15, 0]])


def test_next_step_shifts_and_stops_at_the_end():
    close(F.next_step(torch.tensor([[1.0, 2, 3], [4, 5, 6]]), MASK), [[2.0, 3, 0], [5, 0, 0]])


def test_gae_by_hand():
    # deltas: 1 + .9*.5 - 1 = .45; 0 + .9*2 - .5 = 1.3; 3 - 2 = 1. lam*gamma = .45
    advantages, returns = F.gae(
        torch.tensor([[1.0, 0, 3]]), torch.tensor([[1.0, 0.5, 2]]), torch.ones(1, 3,
        dtype=torch.bool), gamma=0.9, lam=0.5
    )  # fmt: skip
    close(advantages, [[1.2375, 1.75, 1.0]])
    close(returns, [[2.2375, 2.25, 3.0]])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_gae_equals_its_double_sum(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 7, generator=generator)
    lengths = torch.tensor([7, 1, 4, 6])
    mask = torch.arange(7)[None] < lengths[:, None]
    advantages, _ = F.gae(rewards * mask, values, mask, gamma=gamma, lam=lam)
    for b, length in enumerate(lengths.tolist()):
        for t in range(7):
            total = 0.0
            for k in range(t, length):
                after = float(values[b, k + 1]) if k + 1 < length else 0.0
                delta = float(rewards[b, k]) + gamma * after - float(values[b, k])
                total += (gamma * lam) ** (k - t) * delta
            assert float(advantages[b, t]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8), (1.1, 2.0, 2.2)],
)
def test_the_surrogate_is_clipped_on_the_side_that_would_gain(ratio, advantage, expected):
    close(F.clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), 0.2), expected)


@pytest.mark.parametrize(("ratio", "advantage", "expected"), [(1.5, 1.0, 1.4), (1.5, -1.0, -1.5)])
def test_the_upper_bound_may_be_higher(ratio, advantage, expected):
    found = F.clipped_surrogate(torch.tensor(ratio), torch.tensor(advantage), 0.2, 0.4)
    close(found, expected)


def test_a_sequence_has_one_ratio_the_geometric_mean_of_its_tokens():
    log_ratio = torch.tensor([[0.3, 0.0, -0.6], [0.2, 0.4, 0.0]])
    close(F.sequence_log_ratio(log_ratio, MASK), [[-0.1, -0.1, -0.1], [0.3, 0.3, 0.0]])


def test_importance_weights_are_capped_and_one_without_a_cap():
    log_probs, sampled = torch.zeros(2, 3), torch.tensor([[0.0, -1, 1], [0, 0, -9]])
    close(F.importance_weights(log_probs, sampled, MASK, 2.0), [[1, 2, 0.3678794], [1, 1, 1]])
    close(F.importance_weights(log_probs, sampled, MASK, 0.0), [[1.0, 1, 1], [1, 1, 1]])


def test_k2_and_k3_by_hand():
    p, q = torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]).log()
    close(F.k2(p, q), [0.2402265, 0.0822008])  # half of (ln 2)^2 and of (ln 1.5)^2
    close(F.k3(p, q), [0.3068528, 0.0721318])  # 2 - 1 - ln 2 and 2/3 - 1 + ln 1.5
    assert float((F.k3(p, q) * p.exp()).sum()) == pytest.approx(float(F.exact_kl(p, q)), abs=1e-6)


@pytest.mark.parametrize(
    ("normalization", "expected"), [("constant", 15 / 8), ("token", 3.0), ("sequence", 3.25)]
)
def test_what_sums_over_tokens_are_divided_by(normalization, expected):
    values = torch.tensor([[1.0, 2, 3], [4, 5, 999]])
    close(F.aggregate(values, MASK, normalization, 4, F.Totals.of(MASK)), expected)


@pytest.mark.parametrize("normalization", ["constant", "token", "sequence"])
def test_shares_of_the_parts_of_a_step_add_up_to_the_whole(normalization):
    values = torch.tensor([[1.0, 2, 3], [4, 5, 999]])
    totals = F.Totals.of(MASK)
    parts = [
        F.aggregate(values[i : i + 1], MASK[i : i + 1], normalization, 4, totals) for i in (0, 1)
    ]
    close(sum(parts), F.aggregate(values, MASK, normalization, 4, totals))


def test_whitening_together_uses_the_moments_of_all():
    values, mask = torch.tensor([[1.0, 3, 99]]), torch.tensor([[True, True, False]])
    whitened, std = F.whiten(values, mask, torch.tensor([1.0, 3, 5, 7]))  # mean 4, variance 5
    close(std, 5**0.5)
    close(whitened, [[-3 / 5**0.5, -1 / 5**0.5, 0]])


def test_every_minibatch_has_one_row_of_each_stratum():
    order = F.stratified_order(12, 4, torch.Generator().manual_seed(0))
    assert order.shape == (3, 4)
    assert sorted(order.flatten().tolist()) == list(range(12))
    assert torch.equal(order // 3, torch.arange(4).expand(3, 4))
    counts = torch.zeros(3)
    for seed in range(600):
        counts[F.stratified_order(12, 4, torch.Generator().manual_seed(seed))[0, 0]] += 1
    assert (counts - 200).abs().max() < 60  # 5 standard deviations of a fair draw


def test_groups_by_hand():
    values = torch.tensor([1.0, 3, 8, 2, 2, 2])
    close(F.group_mean(values, 3), [4.0, 4, 4, 2, 2, 2])
    close(F.group_std(values, 3), [3.6055513] * 3 + [0.0] * 3)
    close(F.leave_one_out_mean(values, 3), [5.5, 4.5, 2.0, 2, 2, 2])
    close(F.group_std(values, 1), [0.0] * 6)
    close(F.leave_one_out_mean(values, 1), [0.0] * 6)


def test_the_mean_of_the_others_is_that_of_a_loop():
    values = torch.randn(12, generator=torch.Generator().manual_seed(0))
    for size in (2, 3, 4, 6):
        found = F.leave_one_out_mean(values, size)
        for i in range(12):
            start = i - i % size
            others = [float(values[j]) for j in range(start, start + size) if j != i]
            assert float(found[i]) == pytest.approx(sum(others) / len(others), abs=1e-6)


def test_learning_rates_rise_and_fall():
    factor = F.schedule_factor
    assert [factor("constant", i, 4, 0) for i in range(4)] == [1, 1, 1, 1]
    assert [factor("linear", i, 4, 0) for i in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [factor("linear", i, 6, 2) for i in range(3)] == [1 / 3, 2 / 3, 1]
    assert factor("cosine", 2, 4, 0) == pytest.approx(0.5)
    assert factor("cosine", 1, 4, 0) == pytest.approx(0.8535534)


def test_value_loss_by_hand():
    values, old, returns = (
        torch.tensor([2.0, 0.1]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([3.0, 1.0]),
    )
    close(F.clipped_value_loss(values, old, returns, None), [0.5, 0.405])
    # clipped to 1.2 and 0.1: errors 1.8 and 0.9; the larger counts
    close(F.clipped_value_loss(values, old, returns, 0.2), [1.62, 0.405])


def test_explained_variance_is_one_for_the_truth_and_zero_for_a_constant():
    targets = torch.tensor([1.0, 2, 3, 4, 5, 77])
    close(F.explained_variance(targets, targets), 1.0)
    close(F.explained_variance(torch.zeros(6), targets), 0.0)
    close(F.explained_variance(targets, torch.ones(6)), 0.0)
