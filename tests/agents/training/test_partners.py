"""Partners that stay as they are, and partners of the past."""

from __future__ import annotations

import pytest
import torch

from agents.config.train import TrainConfig
from agents.training.trainer import Trainer
from tests.agents.training.test_trainer import assert_resuming_is_exact

SEATS = {"pioneer_0": "llm_0", "observer_0": "llm_1"}


def weights(trainer: Trainer, prefix: str) -> dict[str, torch.Tensor]:
    found = trainer.state()[0].items()
    return {key: tensor.clone() for key, tensor in found if key.startswith(prefix)}


@pytest.mark.parametrize("algorithm", ["mappo", "grpo"])
def test_a_frozen_policy_stays_and_its_critic_learns(toy_config, algorithm):
    trainer = Trainer(toy_config(freeze="llm_1", algorithm=algorithm, practice="all"))
    before = {name: weights(trainer, f"policy/{name}/") for name in trainer.policies}
    critic = weights(trainer, "critic/")
    for iteration in range(2):
        trainer.iterate(iteration)
    after = {name: weights(trainer, f"policy/{name}/") for name in trainer.policies}
    assert all(torch.equal(before["llm_1"][key], after["llm_1"][key]) for key in after["llm_1"])
    assert not all(torch.equal(before["llm_0"][key], after["llm_0"][key]) for key in after["llm_0"])
    assert not critic or any(
        not torch.equal(critic[key], tensor) for key, tensor in weights(trainer, "critic/").items()
    )


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_partners_play_as_snapshots_and_get_their_weights_back(toy_config, adapter):
    trainer = Trainer(toy_config(partners="pool:2", adapter=adapter, swap_every=1))
    first = weights(trainer, "policy/llm_1/")
    trainer.iterate(0)  # nobody has a snapshot yet; then both have one
    second = weights(trainer, "policy/llm_1/")
    key = max(first, key=lambda key: float((first[key] - second[key]).abs().sum()))
    name = key.removeprefix("policy/llm_1/")
    trainer.iterate(1)
    third = weights(trainer, "policy/llm_1/")
    kept = [snapshot[name] for snapshot in trainer.pool.snapshots["llm_1"]]
    assert torch.equal(kept[0], second[key])
    assert torch.equal(kept[1], third[key])
    played = set()
    for iteration in range(0, 20, 2):  # iterations in which llm_0 plays as it is
        own = weights(trainer, "policy/llm_0/")
        with trainer.pool.playing(iteration):
            now = weights(trainer, "policy/")
            assert all(torch.equal(own[k], now[k]) for k in own)
            played.add([torch.equal(now[key], snapshot) for snapshot in kept].index(True))
        assert all(torch.equal(third[k], t) for k, t in weights(trainer, "policy/llm_1/").items())
    assert played == {0, 1}


def test_the_oldest_snapshot_goes(toy_config):
    trainer = Trainer(toy_config(partners="pool:2", swap_every=2))
    counts = []
    for iteration in range(7):
        trainer.iterate(iteration)
        counts.append(len(trainer.pool.snapshots["llm_0"]))
    assert counts == [0, 1, 1, 2, 2, 2, 2]


def test_weights_come_back_when_a_reward_fails(toy_config):
    trainer = Trainer(toy_config(partners="pool:1", swap_every=1))
    trainer.iterate(0)
    with torch.no_grad():
        for tensor in trainer.policies["llm_1"].parameters().values():
            tensor += 1
    before = weights(trainer, "policy/")
    with pytest.raises(RuntimeError), trainer.pool.playing(2):
        raise RuntimeError
    assert all(torch.equal(before[k], t) for k, t in weights(trainer, "policy/").items())


def test_a_partner_of_the_past_learns_with_truncated_weights(toy_config):
    assert toy_config(partners="pool:2").algorithm_config.importance_cap == 2.0
    assert toy_config().algorithm_config.importance_cap is None
    assert toy_config(partners="pool:2", importance_cap=1.5).algorithm_config.importance_cap == 1.5


def test_a_pool_resumes_to_the_bit(toy_config, tmp_path):
    options = {"adapter": "lora", "partners": "pool:3", "practice": "all", "swap_every": 1}
    assert_resuming_is_exact(toy_config, tmp_path, **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze": "lm_1"}, r"a policy to freeze.*llm_1"),
        ({"freeze": "llm_0,llm_1"}, "a policy that learns, got freeze llm_0,llm_1: leave one out"),
        ({"partners": "pool"}, r"current or pool:K .*got 'pool': try --partners pool:4"),
        ({"partners": "pool:0"}, "pool:K with K at least 1"),
        ({"partners": "pool:2", "observers": 0}, "current with a single policy"),
    ],
)
def test_what_makes_no_partner_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)
