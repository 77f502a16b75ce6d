"""What is learnt of turns, one or several a policy, or none; and what checkpoints keep of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from agents.training.trainer import Trainer
from agents.types import TrainBatch


def one_policy_in_both_seats(config):
    trainer = Trainer(config)
    rollout = trainer.collect(dict.fromkeys(trainer.games.agents, "llm_0"))
    return trainer, rollout, trainer.prepare(rollout)


@pytest.mark.parametrize("algorithm", ["mappo", "happo", "grpo"])
def test_a_policy_learns_from_all_of_its_turns_in_one_update(toy_config, algorithm):
    trainer, rollout, prepared = one_policy_in_both_seats(toy_config(algorithm=algorithm))
    learned = trainer.learn(rollout, prepared, 0)
    assert learned.keys() == {"llm_0"}
    steps = {int(s["step"]) for s in trainer.learner.optimizers["llm_0"].state.values()}
    assert steps == {2 * 8 // 4}
    row = trainer.row(rollout, prepared, learned)
    assert row["llm_0/role"] == "pioneer_0+observer_0"
    rewards = torch.cat([turn.task_rewards for turn in rollout.turns])
    assert row["llm_0/task_reward"] == pytest.approx(float(rewards.mean()), abs=1e-6)


def test_joined_turns_have_the_gradient_of_both(toy_config):
    trainer, _, prepared = one_policy_in_both_seats(toy_config(algorithm="ippo"))
    batches = [turn.batch for turn in prepared]
    wider = {key: pad(getattr(batches[1], key), (3, 0)) for key in ("prompt_ids", "prompt_mask")}
    batches[1] = replace(batches[1], **wider)  # so that the other one must be padded
    parameters = list(trainer.policies["llm_0"].parameters().values())

    def gradient(batch):
        loss = trainer.algorithm.loss("llm_0", batch).loss
        return torch.autograd.grad(loss, parameters, allow_unused=True)

    # The loss is a mean over rows with the normalization "constant", except for the critic's, whose
    # features are frozen: it gives no gradient to these parameters.
    apart = [gradient(batch) for batch in batches]
    joined = gradient(TrainBatch.join(batches))
    for one, other, both in zip(*apart, joined, strict=True):
        if both is not None:
            torch.testing.assert_close(both, (one + other) / 2, rtol=1e-4, atol=1e-7)


def test_a_turn_that_teaches_nothing_is_logged_and_changes_nothing(toy_config):
    trainer = Trainer(toy_config())
    rollout = trainer.collect(trainer.assign(0))
    prepared = [replace(turn, batch=None) for turn in trainer.prepare(rollout)]
    before = {name: value.clone() for name, value in trainer.learner.state()[0].items()}
    learned = trainer.learn(rollout, prepared, 0)
    assert set(learned["llm_0"].values()) == {0.0}
    after = trainer.learner.state()[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    row = trainer.row(rollout, prepared, learned)
    assert row["llm_0/kl"] == pytest.approx(0, abs=1e-5)
    assert row["llm_0/approx_kl"] == 0


def test_tensors_of_an_algorithm_are_in_the_state(toy_config, monkeypatch):
    first, second = Trainer(toy_config()), Trainer(toy_config())
    monkeypatch.setattr(first.algorithm, "tensors", lambda: {"buffer": torch.arange(3)})
    loaded = {}
    monkeypatch.setattr(second.algorithm, "load_tensors", loaded.update)
    second.load_state(*first.state())
    assert loaded.keys() == {"buffer"}
    assert loaded["buffer"].tolist() == [0, 1, 2]


def test_critics_have_names_of_their_own_and_one_optimizer_each(toy_config):
    central = Trainer(toy_config(algorithm="mappo")).learner
    local = Trainer(toy_config(algorithm="ippo")).learner
    assert {critic.name for critic in central.critics.values()} == {"critic"}
    assert list(central.critic_optimizers) == ["llm_0"]
    assert [critic.name for critic in local.critics.values()] == ["critic_llm_0", "critic_llm_1"]
    assert list(local.critic_optimizers) == ["llm_0", "llm_1"]
