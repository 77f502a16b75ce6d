"""Texts of the same few held-out queries, by every policy and by the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from agents.policies.llm import LLMPolicy
from agents.records.rows import REFERENCE, SampleRow
from cory_env.game import score
from cory_env.task import Task
from cory_env.types import Reward


def references(policies: Mapping[str, LLMPolicy]) -> dict[str, LLMPolicy]:
    """Return the reference model, or one for each base model, named after its first policy."""
    first = {id(policy.backbone): name for name, policy in reversed(list(policies.items()))}
    owners = sorted(first.values(), key=list(policies).index)
    names = [REFERENCE] if len(owners) == 1 else [f"{REFERENCE} of {name}" for name in owners]
    return {
        name: replace(policies[owner], name=name, learns=False, label="")
        for name, owner in zip(names, owners, strict=True)
    }


def sample_texts(
    policies: Mapping[str, LLMPolicy],
    task: Task,
    reward: Reward,
    *,
    iteration: int,
    max_new_tokens: int,
    places: Sequence[int],
    seed: int = 0,
) -> list[SampleRow]:
    """Let each policy answer the same few queries alone, with the same randomness every time.

    Those at some places of the task's examples; what is beyond their end is left out.
    """
    examples = [task.examples[place] for place in places if place < len(task.examples)]
    prompts = [task.pioneer_prompt(example.query) for example in examples]
    rows: list[SampleRow] = []
    for name, policy in policies.items():
        generator = torch.Generator().manual_seed(seed)
        texts, _ = policy.generate(prompts, max_new_tokens=max_new_tokens, generator=generator)
        scores = score(reward, examples, texts)
        rows += [
            SampleRow(
                iteration=iteration,
                policy=name,
                role="alone",
                query=example.query,
                response=text,
                task_reward=float(score),
            )
            for example, text, score in zip(examples, texts, scores, strict=True)
        ]
    return rows
