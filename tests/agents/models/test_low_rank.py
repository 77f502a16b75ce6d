"""The factors of all adapters, cast at once: equal to casts of each, and as many launches."""

from __future__ import annotations

import pytest
import torch

from agents.models.low_rank import _flat, _Narrow
from benchmarks.launches import Launches
from tests.agents.fakes import token_batch
from tests.agents.models.test_kernels import normal
from tests.agents.small_models import model_backbone


def test_the_second_half_is_scaled_before_it_is_rounded():
    parts = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [1.00390625]])]
    found = _flat(parts, (3.0,), torch.bfloat16)  # 3.01171875 is not one of bfloat16
    assert [piece.tolist() for piece in found] == [[[1.0, 2.0]], [[9.0], [3.015625]]]
    assert [part.tolist() for part in parts] == [[[1.0, 2.0]], [[3.0], [1.00390625]]]


@pytest.mark.parametrize("scalings", [(2.0, 2.0), (2.0, 0.5)])
@pytest.mark.parametrize("unused", [None, 0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_cast_of_all_equals_casts_of_each_to_the_bit(scalings, unused, dtype):
    factors = [normal(*shape, seed=n) for n, shape in enumerate([(2, 5), (3, 7), (6, 2), (5, 3)])]
    weights = [normal(*factor.shape, seed=9 + n).to(dtype) for n, factor in enumerate(factors)]
    results = []
    for at_once in (True, False):
        own = [factor.clone().requires_grad_() for factor in factors]
        if at_once:
            narrow = _Narrow.apply(scalings, dtype, *own)
        else:
            pairs = zip(own, (1.0, 1.0, *scalings), strict=True)
            narrow = [(factor * scaling).to(dtype) for factor, scaling in pairs]
        used = [(n, w) for i, (n, w) in enumerate(zip(narrow, weights, strict=True)) if i != unused]
        for _ in range(2):  # two microbatches
            sum((n * w).sum() for n, w in used).backward(retain_graph=True)
        results.append([*narrow, *(factor.grad for factor in own)])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def launches(backbone, name):
    """Count what a forward and a backward pass launch."""
    tokens = token_batch(backbone, ["Once upon a time", "Tim"], [[5, 6, 300, 9], [7, 2]])
    ids, mask = tokens.prompt_ids, tokens.prompt_mask
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    with Launches() as counted:
        backbone.hidden(name, ids, mask, positions).float().sum().backward()
    return counted.counts


def test_a_layer_with_an_adapter_launches_products_and_no_casts():
    backbones = [
        model_backbone(
            "stories260K",
            adapter=adapter,
            names=("llm_0", "llm_1"),
            moved=0.02,
            dtype=torch.bfloat16,
        )
        for adapter in ("lora", "full")
    ]
    for backbone in backbones:
        launches(backbone, "llm_0")  # all that is done once
    with torch.no_grad():  # a step
        for parameter in backbones[0].parameters("llm_0").values():
            parameter += 0.1
    lora, full = (launches(backbone, "llm_0") for backbone in backbones)
    assert lora["_to_copy"] <= full["_to_copy"] + 2, "all factors, and all gradients"
    assert lora["clone"] == full["clone"]
    adapted = len(backbones[0].parameters("llm_0")) // 2
    assert lora["addmm_"] == pytest.approx(2 * adapted, abs=adapted // 2)
    assert lora.total() < 1.15 * full.total()
