"""Revisions: which answers are distilled, the gradient of it, and one policy in both roles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agents.algorithms.revisions import revisions
from agents.config.train import TrainConfig
from agents.evaluation.score import evaluate_policies
from agents.maths.losses import Totals
from agents.training.trainer import Trainer
from agents.types import Rollout
from cory_env.registry import TASKS
from tests.agents.algorithms.test_gradients import Enumeration, flatten, relative_error
from tests.agents.training.test_trainer import assert_resuming_is_exact
from tests.agents.training.test_verdict import Judged

LAMBDA = 0.3


@pytest.fixture(autouse=True)
def judged(monkeypatch):
    monkeypatch.setitem(TASKS, "judged", Judged)


def first_rows(rollout: Rollout, rows: list[int]) -> Rollout:
    """Return some episodes of a rollout."""
    chosen = torch.tensor(rows)
    turns = [
        replace(
            turn,
            prompts=[turn.prompts[row] for row in rows],
            responses=[turn.responses[row] for row in rows],
            tokens=turn.tokens.take(chosen),
            task_rewards=turn.task_rewards[chosen],
            rewards_now=turn.rewards_now[chosen],
            rewards_later=turn.rewards_later[chosen],
        )
        for turn in rollout.turns
    ]
    return Rollout(turns=tuple(turns), states=[rollout.states[row] for row in rows])


@pytest.mark.parametrize(
    ("group_size", "counted"), [(1, [True, False, False, False]), (2, [True, True, False, False])]
)
def test_answers_count_that_beat_the_mean_of_the_first_and_were_told_a_verdict(group_size, counted):
    rollout = first_rows(Enumeration(2).rollout(causal=True), [0, 1, 2, 3])
    first, second = rollout.turns
    first = replace(first, task_rewards=torch.tensor([0.0, 1.0, 0.0, 0.0]))
    # The last one has read the query alone.
    second = replace(
        second,
        task_rewards=torch.tensor([1.0, 1.0, 0.0, 1.0]),
        prompts=[*second.prompts[:3], first.prompts[3]],
    )
    found = revisions(
        Rollout(turns=(first, second), states=rollout.states), ["llm_0", "llm_1"], group_size
    )
    assert found.response_mask.any(1).tolist() == counted
    assert found.teachers.tolist() == [1, 1, 1, 1]
    assert torch.equal(found.prompt_ids, first.tokens.prompt_ids)
    assert torch.equal(found.read.prompt_ids, second.tokens.prompt_ids)
    assert torch.equal(found.response_ids, second.tokens.response_ids)


def row_log_probs(game: Enumeration, name: str, ids: list[int]) -> torch.Tensor:
    """Return the distribution of the next token, without padding or batch."""
    row, mask = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool)
    hidden = game.backbone.hidden(name, row, mask, torch.arange(len(ids))[None])
    return game.backbone.logits(name, hidden[0, -1]).float().log_softmax(-1)


def brute_force(game: Enumeration, rollout: Rollout, teacher: str) -> torch.Tensor:
    """Return λ Σ KL(teacher ‖ llm_0) of the answers that count, token by token."""
    first, second = rollout.turns
    total = torch.zeros(())
    for row in range(len(second.prompts)):
        if not second.task_rewards[row] > first.task_rewards[row]:
            continue
        alone, read = (
            t.tokens.prompt_ids[row][t.tokens.prompt_mask[row]].tolist() for t in rollout.turns
        )
        answer = second.tokens.response_ids[row][second.tokens.response_mask[row]].tolist()
        for place in range(len(answer)):
            taught = row_log_probs(game, teacher, read + answer[:place]).detach()
            own = row_log_probs(game, "llm_0", alone + answer[:place])
            total = total + sum(t.exp() * (t - o) for t, o in zip(taught, own, strict=True))
    return LAMBDA * total / (len(second.prompts) * game.length)


@pytest.mark.parametrize("teacher", ["llm_0", "llm_1"])
@pytest.mark.parametrize("whitening", ["none", "role"])
def test_the_gradient_is_that_of_a_loop_over_tokens_and_the_teachers_is_none(teacher, whitening):
    game = Enumeration(2)
    rollout = first_rows(game.rollout(causal=True), list(range(0, 961, 60)))
    first, second = rollout.turns
    rollout = replace(rollout, turns=(first, replace(second, policy=teacher)))
    losses, options = [], {"verdict": "all", "whitening": whitening}
    for coef in (LAMBDA, 0.0):
        learner = game.learner("reinforce++", distill_coef=coef, **options)
        batch = learner.prepare(rollout)[0].batch
        losses.append(learner.loss("llm_0", batch).loss)
    expected = brute_force(game, rollout, teacher) / batch.advantage_scale[0]
    found = losses[0] - losses[1]
    assert float(expected) > 1e-3
    assert float(found) == pytest.approx(float(expected), rel=1e-3)
    for name in game.policies:
        parameters = list(game.backbone.parameters(name).values())
        grads = [
            flatten(
                torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True), parameters
            )
            for x in (found, expected)
        ]
        if name == "llm_0":
            assert relative_error(*grads) < 1e-3  # a small difference of float32 losses
        else:
            assert not grads[0].any()


def small(**changes) -> TrainConfig:
    values = {
        **{"task": "judged", "model": "tiny", "adapter": "full", "dtype": "float32"},
        **{"batch_size": 16, "minibatch_size": 8, "kl_coef": 0.1, "evaluation_queries": 0},
        **{"verdict": "wrong", "distill_coef": LAMBDA, "algorithm": "ippo"},
    }
    return TrainConfig(**{**values, **changes})


@pytest.mark.parametrize("shared", [False, True])
def test_the_parts_of_a_batch_add_up_to_its_loss(shared):
    trainer = Trainer(small(shared_policy=shared, batch_size=32))
    algorithm = trainer.algorithm
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # or all distributions are nearly uniform
        for parameter in trainer.policies["llm_0"].parameters().values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    prepared = trainer.prepare(trainer.collect(trainer.assign(0)))
    batches = [turn.batch for turn in prepared[: 2 if shared else 1]]
    batch = type(batches[0]).join(batches)
    counted = [int(b.revisions.response_mask.sum()) for b in (batches[0], batch)]
    assert counted[0] == counted[1] > 1  # once, though both turns are learnt
    mask = batch.response_mask
    totals = Totals.of(mask)
    whole = algorithm.loss("llm_0", batch, totals).loss
    parts = [
        algorithm.loss("llm_0", batch.take(rows), totals).loss
        for rows in torch.arange(len(batch)).split(1)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_reviser_resumes_to_the_bit(toy_config, tmp_path, shared):
    options = {"task": "judged", "verdict": "all", "distill_coef": LAMBDA, "adapter": "lora"}
    assert_resuming_is_exact(toy_config, tmp_path, shared_policy=shared, **options)


def test_one_policy_plays_and_learns_both_roles():
    trainer = Trainer(small(shared_policy=True, algorithm="mappo"))
    assert list(trainer.policies) == ["llm_0"]
    row = trainer.iterate(0)
    assert row["llm_0/role"] == "pioneer_0+observer_0"
    steps = trainer.learner.optimizers["llm_0"].state.values()
    assert {int(state["step"]) for state in steps} == {4}  # 32 turns in minibatches of 8
    evaluation = evaluate_policies(
        trainer.config,
        trainer.policies,
        trainer.parts.test_task,
        trainer.parts.reward,
        split="test",
        num_queries=4,
    )
    names = [row["name"] for row in evaluation["rows"]]
    assert names == ["reference", "llm_0", "llm_0 after llm_0"]
    assert "exchange_loss" not in evaluation


@pytest.mark.parametrize(
    "changes",
    [{"verdict": "none"}, {"observers": 2}, {"observers": 0}, {"knowledge_transfer": False}],
)
def test_what_nobody_is_told_cannot_be_distilled(changes):
    with pytest.raises(
        ValueError, match=r"distill_coef with a verdict that one observer.*--verdict wrong"
    ):
        small(**changes)
