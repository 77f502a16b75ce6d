"""Literal tables, and brute-force twins, of distributions over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from agents.maths.distributions import entropy, exact_kl, k2, k3, nucleus_mask, sampling_log_probs


def close(found: torch.Tensor, expected, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=atol, rtol=0)


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p():
    logits = torch.tensor([0.1, 0.5, 0.4]).log()
    assert nucleus_mask(logits, 0.45).tolist() == [False, True, False]
    assert nucleus_mask(logits, 0.6).tolist() == [False, True, True]
    assert nucleus_mask(logits, 0.95).tolist() == [True, True, True]


def test_sampling_log_probs_by_hand():
    logits = torch.tensor([0.0, math.log(3.0)])
    close(sampling_log_probs(logits).exp(), [0.25, 0.75])
    # 3^(1/2) = 1.7320508: 1 / 2.7320508
    close(sampling_log_probs(logits, temperature=2.0).exp(), [0.3660254, 0.6339746])
    close(sampling_log_probs(logits, top_p=0.5).exp(), [0.0, 1.0])


def test_a_drawn_token_stays_possible_when_the_nucleus_moves_away():
    logits = torch.tensor([0.0, math.log(3.0)])
    kept = sampling_log_probs(logits, top_p=0.5, kept_ids=torch.tensor(0))
    close(kept.exp(), [0.25, 0.75])


def test_entropy_and_exact_kl_by_hand():
    p, q = torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]).log()
    close(entropy(p), 0.5623351)
    close(exact_kl(p, q), 0.1308120)  # 0.25 ln 0.5 + 0.75 ln 1.5
    close(exact_kl(q, p), 0.1438410)
    close(exact_kl(p, p), 0.0)


def test_impossible_tokens_contribute_nothing_and_no_nan_gradient():
    logits = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    log_probs = sampling_log_probs(logits, top_p=0.5)
    total = entropy(log_probs) + exact_kl(log_probs, torch.full((3,), math.log(1 / 3)))
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
        abs(float(k1.mean() - exact_kl(p, q))) < 5 * error
    )  # 5 sigma: fails once in 1.7 million seeds


def test_k2_and_k3_by_hand():
    p, q = torch.tensor([0.25, 0.75]).log(), torch.tensor([0.5, 0.5]).log()
    close(k2(p, q), [0.2402265, 0.0822008])  # half of (ln 2)^2 and of (ln 1.5)^2
    close(k3(p, q), [0.3068528, 0.0721318])  # 2 - 1 - ln 2 and 2/3 - 1 + ln 1.5
    assert float((k3(p, q) * p.exp()).sum()) == pytest.approx(float(exact_kl(p, q)), abs=1e-6)
