"""Running moments: batch by batch as all at once."""

from __future__ import annotations

import pytest
import torch

from agents.maths.moments import Moments


def test_moments_merged_batch_by_batch_are_those_of_all_values():
    values = 3 + 2 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for part in values.split([1, 20, 3, 26]):
        moments.update(part)
    assert moments.count == 50
    assert moments.mean == pytest.approx(float(values.mean()), abs=1e-6)
    assert moments.std == pytest.approx(float(values.std(unbiased=False)), abs=1e-6)


def test_by_hand():
    moments = Moments()
    moments.update(torch.tensor([1.0, 3.0]))
    moments.update(torch.tensor([8.0]))
    assert (moments.mean, moments.std) == (4.0, pytest.approx(2.9439203))
    assert moments.normalized(torch.tensor(4.0)) == 0
    assert float(moments.restored(torch.tensor(1.0))) == pytest.approx(6.9439203)


def test_nothing_and_constants_leave_values_their_scale():
    assert Moments().std == 1
    moments = Moments()
    moments.update(torch.full((5,), 2.0))
    assert moments.std == 1
