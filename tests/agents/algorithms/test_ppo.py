"""What PPO prepares and what its loss is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agents.policies.llm import response_hidden
from agents.training.trainer import Trainer
from tests.agents.fakes import batches_of, scored_of


def prepared(config):
    """Return a trainer after one update, a fresh rollout, what is learnt and what is logged."""
    trainer = Trainer(config)
    for critic in trainer.parts.critics.values():
        torch.nn.init.normal_(critic.out.weight, generator=torch.Generator().manual_seed(0))
    trainer.iterate(0)
    rollout = trainer.collect(trainer.assign(1))
    turns = trainer.prepare(rollout)
    return trainer, rollout, batches_of(rollout, turns), scored_of(rollout, turns)


def test_the_first_loss_has_ratio_one(toy_config):
    trainer, _, batches, _scored = prepared(toy_config())
    for name, batch in batches.items():
        metrics = trainer.algorithm.loss(name, batch).metrics
        assert float(metrics["clip_fraction"]) == 0
        # scored twice by the same code on the same batch: equal to the bit
        assert float(metrics["approx_kl"]) == 0


def test_the_sampled_handover_pays_the_partners_reward(toy_config):
    config = toy_config(handover="sampled", kl_coef=0.0, gae_lambda=1.0, swap="never")
    _, rollout, batches, _scored = prepared(config)
    pioneer, observer = rollout.turns
    paid = pioneer.task_rewards + observer.task_rewards
    torch.testing.assert_close(batches["llm_0"].returns[:, 0], paid)
    torch.testing.assert_close(batches["llm_1"].returns[:, 0], observer.task_rewards)


def test_the_value_handover_bootstraps_from_the_observers_first_state(toy_config):
    config = toy_config(handover="value", kl_coef=0.0, gae_lambda=1.0, swap="never")
    _, rollout, batches, _scored = prepared(config)
    expected = rollout.turns[0].task_rewards + batches["llm_1"].baselines[:, 0]
    torch.testing.assert_close(batches["llm_0"].returns[:, 0], expected)
    assert float(batches["llm_1"].baselines.abs().max()) > 0.01


@pytest.mark.parametrize(("algorithm", "sees"), [("mappo", True), ("ippo", False)])
def test_only_the_central_critic_sees_the_query_that_is_hidden_from_the_observer(
    toy_config, algorithm, sees
):
    trainer, rollout, _, _ = prepared(toy_config(algorithm=algorithm, swap="never"))
    pioneer = rollout.turns[0]
    changed = replace(pioneer, prompts=["hhh>"] * len(pioneer.prompts))
    other = replace(rollout, turns=(changed, rollout.turns[1]))
    features = [batches_of(r, trainer.prepare(r))["llm_1"].features for r in (rollout, other)]
    assert torch.equal(features[0], features[1]) is not sees


@pytest.mark.parametrize("algorithm", ["mappo", "ippo"])
def test_a_reference_that_reads_the_query_alone_changes_the_kl_of_observers_and_nothing_else(
    toy_config, algorithm
):
    trainer, rollout, own, own_scored = prepared(toy_config(algorithm=algorithm, swap="never"))
    trainer.algorithm.config = replace(trainer.algorithm.config, kl_prompt="solo")
    turns = trainer.prepare(rollout)
    solo, solo_scored = batches_of(rollout, turns), scored_of(rollout, turns)
    assert torch.equal(own_scored["llm_0"].kls, solo_scored["llm_0"].kls)
    assert not torch.allclose(own_scored["llm_1"].kls, solo_scored["llm_1"].kls)
    assert torch.equal(own["llm_1"].features, solo["llm_1"].features)
    for field in ("log_probs", "baselines", "entropies"):
        same = (getattr(s["llm_1"], field) for s in (own_scored, solo_scored))
        assert torch.equal(*same), field
    # The twin: the pioneer's prompts, written before the observer's responses.
    policy, turn = trainer.policies["llm_1"], rollout.turns[1]
    ids, mask = policy.encode(rollout.turns[0].prompts, turn.tokens.response_ids.shape[1])
    read = replace(turn.tokens, prompt_ids=ids, prompt_mask=mask)
    with torch.no_grad():
        kls = policy.score(turn.tokens, response_hidden(policy.backbone, None, read)).kls
    assert torch.equal(solo_scored["llm_1"].kls, kls)


def test_advantages_are_whitened_per_role_and_the_kl_term_is_scaled_alike(toy_config):
    trainer, _, batches, scored = prepared(toy_config(swap="never"))
    batch = batches["llm_0"]
    kept = batch.advantages[batch.response_mask]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-5)
    assert float(kept.var(unbiased=False)) == pytest.approx(1, abs=1e-4)

    def loss(scale: float) -> float:
        scaled = replace(
            batch,
            advantages=torch.zeros_like(batch.advantages),
            advantage_scale=batch.advantage_scale * scale,
            returns=batch.baselines,
        )
        return float(trainer.algorithm.loss("llm_0", scaled).loss.detach())

    expected = 0.1 * float(scored["llm_0"].kls.sum()) / (8 * 3) / float(batch.advantage_scale[0])
    assert loss(1) == pytest.approx(expected, rel=1e-4)
    assert loss(4) == pytest.approx(expected / 4, rel=1e-4)


@pytest.mark.parametrize("kl", ["exact", "k1", "detached"])
def test_returns_charge_each_form_of_kl_to_the_right_actions(toy_config, kl):
    config = toy_config(kl=kl, kl_coef=0.5, gae_lambda=1.0, swap="never")
    _, rollout, _batches, scored = prepared(config)
    batch, observer = scored["llm_1"], rollout.turns[1]
    rewards = observer.task_rewards
    found = (rewards - batch.returns[:, 0]) / 0.5
    if kl == "exact":  # the first action pays for the KL of later states only
        expected = batch.kls[:, 1:].sum(1)
    elif kl == "detached":
        expected = batch.kls.sum(1)
    else:
        assert not torch.allclose(found, batch.kls.sum(1), atol=1e-3)
        return
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("body", "policy_learns", "own_learns"),
    [("reference", False, False), ("policy", True, False), ("own", False, True)],
)
@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("algorithm", ["mappo", "ippo"])
def test_the_value_loss_reaches_the_body_that_the_critic_reads(
    toy_config, adapter, body, policy_learns, own_learns, algorithm
):
    config = toy_config(adapter=adapter, critic_body=body, algorithm=algorithm, swap="never")
    trainer, _, batches, _scored = prepared(config)
    for name, batch in batches.items():  # as pioneer and as observer
        policy, critic = trainer.policies[name], trainer.parts.critics[name]
        reached = {
            "policy": policy.parameters(),
            "head": dict(critic.named_parameters()),
            "own": policy.backbone.parameters(critic.name) if body == "own" else {},
        }
        for parameter in (p for part in reached.values() for p in part.values()):
            parameter.grad = None
        still = replace(batch, weights=torch.zeros_like(batch.weights))
        trainer.algorithm.loss(name, still).loss.backward()
        moved = {
            part: any(p.grad is not None and bool(p.grad.any()) for p in parameters.values())
            for part, parameters in reached.items()
        }
        assert moved == {"policy": policy_learns, "head": True, "own": own_learns}


@pytest.mark.parametrize("algorithm", ["mappo", "ippo"])
def test_a_policys_own_trunk_is_read_in_the_pass_that_scores_it(toy_config, algorithm):
    config = toy_config(critic_body="policy", algorithm=algorithm, swap="never")
    trainer, _, batches, _scored = prepared(config)
    for name, batch in batches.items():
        critic, backbone = trainer.parts.critics[name], trainer.policies[name].backbone
        values = critic(response_hidden(backbone, name, batch.history).float(), batch.seats)
        # The weights have not moved since: what was predicted then is predicted now.
        expected = batch.baselines
        torch.testing.assert_close(values * batch.response_mask, expected, atol=1e-5, rtol=1e-5)
        error = 0.5 * ((values - batch.returns) ** 2 * batch.response_mask).sum()
        alone = replace(batch, weights=torch.zeros_like(batch.weights))
        found = trainer.algorithm.loss(name, alone).loss
        torch.testing.assert_close(found, error / batch.response_mask.sum(), rtol=1e-5, atol=1e-6)
