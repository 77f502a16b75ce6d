"""Policies go on from the mean of their updates where they exchange roles."""

from __future__ import annotations

import pytest
import torch

from agents.config.train import TrainConfig
from agents.distributed.world import World
from agents.models.averaging import Update
from agents.policies.llm import LLMPolicy
from agents.policies.merging import meet, merge
from agents.training.trainer import Trainer
from tests.agents.small_models import model_backbone

TEAM = ("llm_0", "llm_1")


def updates(*, apart: float, rank=3, size=7):
    """Two updates whose As are `apart`."""
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(rank, size, generator=generator)
    return [
        Update(
            up=torch.randn(size + 2, rank, generator=generator),
            down=down + apart * torch.randn(rank, size, generator=generator),
        )
        for _ in range(2)
    ]


def dense(update):
    return (update.up @ update.down).double()


def test_updates_with_one_a_meet_in_their_mean_exactly():
    first, second = updates(apart=0.0)
    merged, lost = meet([first, second])
    torch.testing.assert_close(dense(merged), (dense(first) + dense(second)) / 2, atol=1e-5, rtol=0)
    assert torch.equal(merged.down, (first.down + second.down) / 2)
    assert lost < 1e-6


def test_no_other_b_is_nearer_to_the_mean():
    first, second = updates(apart=0.3)
    merged, lost = meet([first, second])
    mean = (dense(first) + dense(second)) / 2
    assert lost == pytest.approx(float((mean - dense(merged)).norm() / mean.norm()), rel=1e-4)
    slow = torch.linalg.lstsq(merged.down.double().T, mean.T).solution.T
    torch.testing.assert_close(merged.up.double(), slow, atol=1e-5, rtol=1e-5)


def test_what_is_lost_is_of_second_order_in_how_far_the_as_have_parted():
    """Twice as far apart, the loss of products with random Bs doubles; with near ones it is 4 x."""
    lost = []
    for apart in (0.01, 0.02):
        first, second = updates(apart=apart)
        near = Update(up=first.up + apart * second.up, down=second.down)
        lost.append(meet([first, near])[1])
    assert lost[1] / lost[0] == pytest.approx(4, rel=0.1)


def test_before_anything_is_learnt_all_take_the_a_of_the_first():
    first, second = (Update(up=0 * u.up, down=u.down) for u in updates(apart=1.0))
    merged, lost = meet([first, second])
    assert merged is first
    assert lost == 0


def policies_of(adapter):
    backbone = model_backbone("llama", adapter=adapter, names=TEAM, moved=0.02)
    return {name: LLMPolicy(name=name, backbone=backbone) for name in TEAM}


@pytest.mark.parametrize("adapter", ["lora", "dora", "full"])
def test_both_policies_have_the_same_weights_behind_it(adapter):
    policies = policies_of(adapter)
    before = [
        {key: parameter.detach().clone() for key, parameter in own.parameters().items()}
        for own in policies.values()
    ]
    merge(policies, World())
    first, second = (own.parameters() for own in policies.values())
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key])
        if "lora_B" not in key:
            mean = (before[0][key] + before[1][key]) / 2
            torch.testing.assert_close(value.detach(), mean)
    assert any(not torch.equal(before[0][key], value) for key, value in first.items())


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_merges_at_every_exchange_and_goes_on_to_the_bit(toy_config, adapter):
    config = toy_config(adapter=adapter, swap="merge", swap_every=2, iterations=4)
    whole = Trainer(config)
    rows = [whole.iterate(i) for i in range(4)]
    assert [row["llm_0/role"] for row in rows] == ["pioneer_0"] * 2 + ["observer_0"] * 2
    lossy = [row["llm_0/merge_error"] > 0 for row in rows]
    assert lossy == [False, False, adapter == "lora", False]
    assert rows[2]["llm_0/merge_error"] < 0.5
    cut = Trainer(config)
    for i in range(2):
        cut.iterate(i)
    again = Trainer(config)
    tensors, meta = cut.state()
    again.load_state({key: t.clone() for key, t in tensors.items()}, meta)
    for i in range(2, 4):
        assert again.iterate(i)["llm_1/kl"] == rows[i]["llm_1/kl"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"observers": 0}, "several policies"),
        ({"shared_policy": True}, "several policies"),
        ({"freeze": "llm_1"}, "no frozen policy"),
        ({"model": "embedded,tiny"}, "one model for all policies"),
        ({"lora_prune": 0.5}, "lora_prune 0"),
    ],
)
def test_what_cannot_be_merged_is_refused(changes, says):
    with pytest.raises(ValueError, match=f"Expected {says} with swap merge"):
        TrainConfig(swap="merge", **changes)
