"""Practice on others' answers to the query alone: weights, gradients, and what does not count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from agents.algorithms.practice import practice_rollouts
from agents.config.train import TrainConfig
from agents.distributed.world import World
from agents.ledger import COSTS, total_of
from agents.policies.base import Scores
from agents.rollouts.collect import draw_isolated
from agents.training.loop import train
from agents.training.trainer import Trainer
from agents.types import Rollout
from cory_env.registry import TASKS
from tests.agents.algorithms.test_gradients import ETA, Enumeration, flatten, relative_error
from tests.agents.fakes import reference_hidden
from tests.agents.training.test_trainer import assert_resuming_is_exact
from tests.e2e.test_learning import Sums

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def sums(monkeypatch):
    """In this task an observer that is shown nothing reads what the pioneer reads."""
    monkeypatch.setitem(TASKS, "sums", Sums)


def sampled_by(game: Enumeration, writer: str) -> Rollout:
    """Return the outcomes of a game with the log-probs that the policy of the first seat had."""
    rollout = game.rollout(causal=True)
    tokens = rollout.turns[0].tokens
    with torch.no_grad():
        scores = game.policies[writer].score(tokens, reference_hidden(game.backbone, tokens))
    first = replace(rollout.turns[0], tokens=replace(tokens, sampled_log_probs=scores.log_probs))
    return replace(rollout, turns=(first, rollout.turns[1]))


def gradient(loss: torch.Tensor, parameters) -> torch.Tensor:
    return flatten(torch.autograd.grad(loss, parameters, allow_unused=True), parameters)


def each_answer_once(rollout: Rollout) -> Rollout:
    """Leave one outcome for each answer of the first seat."""
    turn = rollout.turns[0]
    texts = list(dict.fromkeys(turn.responses))
    rows = torch.tensor([turn.responses.index(text) for text in texts])
    first = replace(
        turn,
        prompts=turn.prompts[: len(rows)],
        tokens=turn.tokens.take(rows),
        task_rewards=turn.task_rewards[rows],
    )
    return Rollout(turns=(first,), states=rollout.states[: len(rows)])


class Fixed:
    """A policy whose log-probs are given."""

    def __init__(self, policy, log_probs: torch.Tensor):
        self.backbone, self._log_probs = policy.backbone, log_probs

    def score(self, tokens, ref_hidden) -> Scores:
        zeros = torch.zeros_like(self._log_probs)
        return Scores(self._log_probs, zeros, zeros, zeros, ref_hidden)


def test_weights_are_ratios_to_the_writer_of_at_most_two():
    game = Enumeration(2)
    learner = game.learner("reinforce++", practice="all", kl="exact")
    rollout = game.rollout(causal=True)
    rows = torch.arange(len(rollout.queries))[:1]
    turn = rollout.turns[0]
    tokens = replace(
        turn.tokens.take(rows),
        response_mask=torch.tensor([[True, True]]),
        sampled_log_probs=torch.tensor([[0.4, 0.1]]).log(),
    )
    turn = replace(
        turn,
        tokens=tokens,
        prompts=turn.prompts[:1],
        task_rewards=torch.tensor([1.0]),
    )
    learner.policies["llm_1"] = Fixed(game.policies["llm_1"], torch.tensor([[0.2, 0.3]]).log())
    (prepared,) = learner.practice(Rollout(turns=(turn,), states=rollout.states[:1]), "llm_1")
    # 0.2 / 0.4, and 0.3 / 0.1 = 3, which is cut to 2.
    torch.testing.assert_close(prepared.batch.weights, torch.tensor([[0.5, 2.0]]))
    torch.testing.assert_close(prepared.batch.advantages, torch.tensor([[1.0, 1.0]]))


def brute_force(game: Enumeration, rollout: Rollout, *, cap: float) -> torch.Tensor:
    """Return the loss of `llm_1`'s practice, token by token, from whole distributions."""
    policy, tokens = game.policies["llm_1"], rollout.turns[0].tokens
    backbone, loss = policy.backbone, torch.zeros(())
    for row in range(len(tokens)):
        kls, log_probs = [], []
        ids = tokens.prompt_ids[row][tokens.prompt_mask[row]].tolist()
        length = int(tokens.response_mask[row].sum())
        for token in tokens.response_ids[row, :length].tolist():
            row_ids = torch.tensor([ids])
            mask = torch.ones_like(row_ids, dtype=torch.bool)
            places = torch.arange(len(ids))[None]
            own, ref = (
                backbone.logits(name, backbone.hidden(name, row_ids, mask, places)[0, -1])
                .float()
                .log_softmax(-1)
                for name in ("llm_1", None)
            )
            kls.append((own.exp() * (own - ref.detach())).sum())
            log_probs.append(own[token])
            ids.append(token)
        reward = float(rollout.turns[0].task_rewards[row])
        for t in range(length):
            earned = reward - ETA * float(sum(kls[t + 1 :]))
            sampled = float(tokens.sampled_log_probs[row, t])
            weight = min(float((log_probs[t].detach() - sampled).exp()), cap)
            loss = loss - weight * (log_probs[t] * earned - ETA * kls[t])
    return loss / (len(tokens) * game.length)


@pytest.mark.parametrize("cap", [None, 1.01])
def test_the_gradient_is_that_of_a_loop_over_tokens(cap):
    game = Enumeration(2)
    rollout = each_answer_once(sampled_by(game, "llm_0"))
    learner = game.learner("reinforce++", practice="all", importance_cap=cap, kl="exact")
    (prepared,) = learner.practice(rollout, "llm_1")
    assert float(prepared.batch.weights.max()) > 1
    parameters = list(game.backbone.parameters("llm_1").values())
    found = gradient(learner.loss("llm_1", prepared.batch).loss, parameters)
    expected = gradient(brute_force(game, rollout, cap=cap or 2.0), parameters)
    assert relative_error(found, expected) < 1e-4  # float32 sums in another order


@pytest.mark.parametrize("algorithm", ["mappo", "ippo", "reinforce++"])
def test_with_the_writers_weights_it_is_the_gradient_of_the_policy_alone(algorithm):
    game = Enumeration(2)
    with torch.no_grad():
        for mine, others in zip(
            *(game.backbone.parameters(n).values() for n in game.policies), strict=True
        ):
            others.copy_(mine)
    rollout = sampled_by(game, "llm_0")
    learner = game.learner(algorithm, practice="all", kl="exact", kl_coef=ETA)
    (prepared,) = learner.practice(rollout, "llm_1")
    found = game.gradient(learner, "llm_1", prepared.batch, game.probabilities().detach())
    scores = game.policies["llm_1"].score(game.tokens[0], game.ref_hidden[0])
    rewards = torch.tensor(game.task_rewards[:, 0], dtype=torch.float32)
    # Each answer stands in as many outcomes as there are answers of the observer.
    others = game.scores()[1].log_probs.sum(1).exp().detach()
    objective = (scores.log_probs.sum(1).exp() * others * (rewards - ETA * scores.kls.sum(1))).sum()
    parameters = list(game.backbone.parameters("llm_1").values())
    assert relative_error(found, gradient(objective, parameters)) < 1e-3  # as in test_gradients


def test_answers_behind_a_partner_do_not_count():
    trainer = Trainer(small(solo_share=0.5, batch_size=16, credit="shared"))
    isolated = [index % 2 == 0 for index in range(16)]
    rollout = trainer.collect({"pioneer_0": "llm_0", "observer_0": "llm_1"}, isolated)
    (practised,) = practice_rollouts(rollout, "llm_0", World())
    (turn,) = practised.turns
    assert torch.equal(turn.rewards_now, rollout.turns[1].task_rewards)
    assert not torch.equal(turn.rewards_now, rollout.turns[1].rewards_now)
    assert (turn.tokens.response_mask.any(1) == torch.tensor(isolated)).all()
    (whole,) = practice_rollouts(rollout, "llm_1", World())
    assert whole.turns[0].tokens.response_mask.any(1).all()
    # Whatever stands in the rows that do not count, the loss is the same.
    other = replace(
        rollout.turns[1],
        task_rewards=torch.where(torch.tensor(isolated), rollout.turns[1].task_rewards, 7.0),
    )
    losses = []
    for turn in (rollout.turns[1], other):
        changed = replace(rollout, turns=(rollout.turns[0], turn))
        (prepared,) = trainer.algorithm.practice(changed, "llm_0")
        losses.append(trainer.algorithm.loss("llm_0", prepared.batch).loss)
    assert torch.equal(*losses)


def small(**changes) -> TrainConfig:
    values = {
        **{"task": "sums", "model": "tiny", "adapter": "full", "dtype": "float32"},
        **{"batch_size": 8, "minibatch_size": 4, "kl_coef": 0.1, "evaluation_queries": 0},
    }
    return TrainConfig(**{**values, **changes})


def learnt(**changes) -> dict[str, torch.Tensor]:
    trainer = Trainer(small(**changes))
    for iteration in range(2):
        trainer.iterate(iteration)
    return {k: t.clone() for k, t in trainer.state()[0].items() if k.startswith("policy/")}


@pytest.mark.parametrize(("observers", "same"), [(0, True), (2, False)])
def test_who_has_no_partner_has_nothing_to_practise(observers, same):
    algorithm = "ippo"
    plain, practised = (
        learnt(observers=observers, algorithm=algorithm, practice=practice)
        for practice in ("own", "all")
    )
    equal = [torch.equal(plain[key], practised[key]) for key in plain]
    assert all(equal) if same else not any(equal)


def test_every_answer_to_the_query_alone_is_practised_and_none_behind_another():
    for share, others in ((0.0, 0), (1.0, 8)):
        row = Trainer(small(practice="all", solo_share=share)).iterate(0)
        assert row["llm_0/practice_answers"] == others
        assert row["llm_1/practice_answers"] == 8


def test_practice_with_groups_resumes_to_the_bit(toy_config, tmp_path):
    options = {"task": "sums", "algorithm": "grpo", "group_size": 2, "reward_scaling": "std"}
    assert_resuming_is_exact(toy_config, tmp_path, practice="all", solo_share=0.5, **options)


def test_a_share_of_the_queries_is_drawn_alike_for_each_group():
    generator = np.random.default_rng(0)
    drawn = np.array(draw_isolated(0.25, generator, 4000, 4)).reshape(-1, 4)
    assert (drawn == drawn[:, :1]).all()
    # 1,000 draws: five standard deviations of 0.014.
    assert drawn.mean() == pytest.approx(0.25, abs=0.07)
    assert not any(draw_isolated(0.0, generator, 100, 1))
    assert all(draw_isolated(1.0, generator, 100, 1))


def test_policies_of_several_models_cannot_share_answers(tmp_path):
    with pytest.raises(ValueError, match=r"one base model with practice all.*--practice own"):
        TrainConfig(practice="all", model="embedded,tiny")


def test_practice_leaves_histograms_and_the_rest_of_a_row_as_they_were():
    trainers = [Trainer(small(practice=p, algorithm="ippo", epochs=2)) for p in ("own", "all")]
    plain, practised = (trainer.iterate(0) for trainer in trainers)
    assert trainers[0].histograms.row(0) == trainers[1].histograms.row(0)
    timeless = plain.keys() - {"seconds", "tokens_per_second", *map(total_of, COSTS)}
    assert {key: practised[key] for key in timeless} == {key: plain[key] for key in timeless}


def test_a_run_that_practises_ends_well(toy_config):
    run = train(toy_config(practice="all", iterations=1), console=QUIET)
    assert run.metrics[0]["llm_1/practice_answers"] == 8
