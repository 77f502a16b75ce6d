"""What is learnt from gold answers: as they are, or where one's own response parts from them."""

from __future__ import annotations

import math

import pytest
import torch

from agents import TrainConfig, parts
from agents.algorithms.gold import first_difference, gold_ids, steps
from agents.algorithms.replay import items_of
from agents.parts import Parts
from agents.training.trainer import Trainer
from agents.types import PairBatch
from cory_env import Example, make_task


@pytest.fixture
def played(toy_config):
    def make(algorithm: str, **changes):
        trainer = Trainer(toy_config(algorithm=algorithm, **changes))
        rollout = trainer.collect(trainer.assign(0))
        return trainer, rollout, trainer.prepare(rollout)

    return make


def test_a_task_says_its_gold_answers_as_responses():
    assert make_task("toy").worked_answer(Example("abc", "cba")) == "cba"
    assert make_task("arithmetic").worked_answer(Example("?", "1 + 1 = 2 #### 2")) == (
        " 1 + 1 = 2 #### 2"
    )
    assert make_task("imdb").worked_answer(Example("This film")) is None


def test_gold_answers_are_continued_from_prompts_and_cut_behind_their_steps():
    config = TrainConfig(task="arithmetic", observers=0)
    policy = Parts.build(config, learns=False).policies["llm_0"]
    ids = gold_ids(policy, " 12 + 55 = 67; 67 - 1 = 66 #### 66", 64)
    assert ids[-1] in policy.backbone.stop_ids.tolist()
    texts = [policy.backbone.tokenizer.decode(step) for step in steps(policy, ids[:-1], ";")]
    assert [text.strip() for text in texts] == ["12 + 55 = 67;", "67 - 1 = 66 #### 66"]
    assert [token for step in steps(policy, ids, ";") for token in step] == ids
    assert gold_ids(policy, " 12 + 55", 2) == ids[:2]
    assert steps(policy, [], ";") == []
    closed = gold_ids(policy, " 1 + 1 = 2;", 64)[:-1]
    assert steps(policy, closed, ";") == [closed]


@pytest.mark.parametrize(
    ("gold", "found", "parted"),
    [
        ([[1, 2], [3], [4]], [[1, 2], [9], [4]], ([1, 2], [3], [9])),
        ([[1], [2]], [[5, 6]], ([], [1], [5, 6])),
        ([[1], [2]], [[1], [2]], None),
        ([[1], [2]], [[1]], None),
    ],
)
def test_two_responses_part_at_the_first_step_that_differs(gold, found, parted):
    assert first_difference(gold, found) == parted


@pytest.mark.parametrize("seat", [0, 1])
def test_supervised_fine_tuning_fits_the_gold_answer_behind_what_was_read(played, seat):
    trainer, rollout, prepared = played("sft")
    policy = trainer.policies[rollout.turns[seat].policy]
    found = items_of(prepared[seat].batch)
    asked = items_of(rollout.turns[seat].tokens)
    for item, own, query in zip(found, asked, rollout.queries, strict=True):
        assert item.prompt == own.prompt
        assert policy.backbone.tokenizer.decode(item.response_ids) == query[::-1]


def test_pairs_are_of_wrong_responses_and_of_whole_batches(played):
    trainer, rollout, prepared = played("step_dpo", observers=0, step_end="a")
    (turn,), policy = rollout.turns, trainer.policies["llm_0"]
    expected = []
    for said, query, reward in zip(
        items_of(turn.tokens), rollout.queries, turn.task_rewards, strict=True
    ):
        gold = steps(policy, gold_ids(policy, query[::-1], 3), "a")
        parted = first_difference(gold, steps(policy, said.response_ids, "a"))
        if parted and reward < 1:
            expected.append(([*said.prompt_ids, *parted[0]], parted[1], parted[2]))
    batch = prepared[0].batch
    assert isinstance(batch, PairBatch)
    rows = [
        (one.prompt_ids, one.response_ids, other.response_ids)
        for one, other in zip(items_of(batch), items_of(batch.rejected), strict=True)
    ]
    assert rows[: len(expected)] == expected
    assert len(rows) == 8


def test_the_loss_of_pairs_is_that_of_dpo_by_hand(played):
    trainer, _, prepared = played("step_dpo", observers=0, beta=0.5, nll_coef=0.25)
    batch, policy = prepared[0].batch, trainer.policies["llm_0"]
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter += 0.02 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )

    @torch.no_grad()
    def log_prob(name: str | None, item) -> float:
        ids = torch.tensor([item.prompt_ids + item.response_ids])
        logits = policy.backbone.models[name](ids).logits[0].log_softmax(-1)
        places = range(len(item.prompt_ids), len(ids[0]))
        return float(sum(logits[place - 1, ids[0, place]] for place in places))

    losses, preferred, nll, tokens = [], 0, 0.0, 0
    for right, wrong in zip(items_of(batch), items_of(batch.rejected), strict=True):
        gap = [log_prob("llm_0", i) - log_prob(None, i) for i in (right, wrong)]
        losses.append(math.log1p(math.exp(-0.5 * (gap[0] - gap[1]))))
        preferred += gap[0] > gap[1]
        nll -= log_prob("llm_0", right)
        tokens += len(right.response_ids)
    output = trainer.algorithm.loss("llm_0", batch)
    expected = sum(losses) / len(losses) + 0.25 * nll / tokens
    assert float(output.loss) == pytest.approx(expected, rel=1e-3)
    assert float(output.metrics["preferred"]) == preferred / 8


def test_a_fresh_policy_prefers_nothing_and_its_pairs_cost_log_2(played):
    trainer, _, prepared = played("step_dpo", observers=0, nll_coef=0.0)
    loss = float(trainer.algorithm.loss("llm_0", prepared[0].batch).loss)
    assert loss == pytest.approx(0.693147, abs=1e-4)


def test_where_all_is_right_nothing_is_learnt(played):
    trainer, rollout, _ = played("step_dpo", accept=0.0)
    assert [turn.batch for turn in trainer.prepare(rollout)] == [None, None]


@pytest.mark.parametrize("algorithm", ["sft", "step_dpo"])
def test_a_task_without_gold_answers_is_refused_before_a_model_loads(algorithm, monkeypatch):
    monkeypatch.setattr(parts, "build_backbones", None)
    config = TrainConfig(task="imdb", algorithm=algorithm)
    with pytest.raises(ValueError, match=f"gold answers with algorithm {algorithm}, got imdb"):
        Parts.build(config)
