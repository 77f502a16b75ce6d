"""Policies of different base models in one game: text crosses, ids do not."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from agents import TrainConfig, load_policy
from agents.policies.llm import response_texts
from agents.policies.sampling import draw_uniforms
from agents.rollouts.collect import collect
from agents.training.loop import train
from agents.training.trainer import Trainer
from cory_env.tokenization import load_tokenizer
from tests.agents.small_models import STORIES
from tests.agents.training.test_trainer import assert_same_state, final_state

QUIET = Console(quiet=True)


def mixed_config(tmp_path, **changes) -> TrainConfig:
    values = {
        **{"task": "imdb", "model": f"embedded,{STORIES}", "dtype": "float32", "iterations": 2},
        **{"batch_size": 8, "minibatch_size": 4, "max_new_tokens": 6, "swap_every": 1},
        **{"evaluation_queries": 4, "save_every": 1, "out": str(tmp_path / "run")},
    }
    return TrainConfig(**{**values, **changes})


def test_each_policy_reads_and_writes_with_its_own_tokenizer(tmp_path):
    trainer = Trainer(mixed_config(tmp_path))
    for iteration, order in ((0, ["llm_0", "llm_1"]), (1, ["llm_1", "llm_0"])):
        rollout = trainer.collect(trainer.assign(iteration))
        assert [turn.policy for turn in rollout.turns] == order
        pioneer, observer = rollout.turns
        for turn in rollout.turns:
            backbone = trainer.policies[turn.policy].backbone
            # the ids that are learnt from are the policy's own, and say what the others have read
            own = load_tokenizer(backbone.tokenizer)
            for b, ids in enumerate(turn.tokens.response_ids):
                kept = ids[turn.tokens.response_mask[b]].tolist()
                assert own.decode(kept, begin=False) == turn.responses[b]
            assert response_texts(backbone, turn.tokens) == turn.responses
            prompts = backbone.tokenizer.batch_decode(
                [
                    p[m]
                    for p, m in zip(turn.tokens.prompt_ids, turn.tokens.prompt_mask, strict=True)
                ],
                skip_special_tokens=True,
            )
            assert [p.strip() for p in prompts] == [p.strip() for p in turn.prompts]
        for b in range(8):
            assert pioneer.responses[b] in observer.prompts[b]
    vocabularies = {name: len(p.backbone.tokenizer) for name, p in trainer.policies.items()}
    assert vocabularies == {"llm_0": 4096, "llm_1": 512}


@pytest.mark.parametrize("algorithm", ["mappo", "happo", "grpo"])
def test_a_team_of_two_base_models_trains_resumes_and_is_evaluated(tmp_path, algorithm):
    changes = {"algorithm": algorithm}
    whole = mixed_config(tmp_path, **changes, out=str(tmp_path / "whole"))
    parts = mixed_config(tmp_path, **changes, out=str(tmp_path / "parts"))
    run = train(whole, console=QUIET)
    names = [row["name"] for row in run.evaluation["rows"]]
    expected = ["reference of llm_0", "reference of llm_1", "llm_0", "llm_1"]
    assert names == [*expected, "llm_1 after llm_0", "llm_0 after llm_1"]
    train(parts.replace(iterations=1), console=QUIET)
    train(parts, resume=True, console=QUIET)
    assert_same_state(final_state(parts), final_state(whole))
    for name, size in (("llm_0", 4096), ("llm_1", 512)):
        policy = load_policy(run.folder / "final" / name)
        assert len(policy.backbone.tokenizer) == size
        policy.generate(["This film"], max_new_tokens=4)


def test_a_policy_plays_as_it_would_among_its_own_kind(tmp_path):
    """The pioneer's tokens do not depend on what model observes it."""
    trainer = Trainer(mixed_config(tmp_path))
    alone = Trainer(mixed_config(tmp_path, model="embedded"))
    examples = trainer.parts.test_task.examples[:8]
    draws = {
        role: draw_uniforms(8, 6, torch.Generator().manual_seed(i))
        for i, role in enumerate(trainer.games.agents)
    }
    turns = [
        collect(t.games, dict(zip(t.games.agents, t.policies.values(), strict=True)), draws,
                examples=examples).turns[0]
        for t in (trainer, alone)
    ]  # fmt: skip
    assert torch.equal(turns[0].tokens.response_ids, turns[1].tokens.response_ids)


def test_models_and_policies_must_be_as_many():
    with pytest.raises(ValueError, match="one for each of 2 policies"):
        TrainConfig(model="embedded,embedded,embedded")
    assert TrainConfig(model="a,b,a", observers=2).models == ["a", "b", "a"]
    assert TrainConfig(model="a", observers=2).models == ["a", "a", "a"]
