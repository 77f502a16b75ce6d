"""What the learner's tests play with: small models, games, and command lines."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from agents.config.train import TrainConfig
from agents.models.backbone import Backbone
from agents.models.make import make_backbone
from agents.models.tiny import tiny_model
from agents.policies.llm import response_hidden
from agents.types import TokenBatch
from cory_env.tasks.toy import ToyTask


def tiny_backbone(
    *,
    adapter: str = "full",
    names: tuple[str, ...] = ("llm_0", "llm_1"),
    symbols: int = 2,
    moved: float = 0.0,
) -> Backbone:
    """Build an untrained toy model in float32.

    Args:
        adapter: `lora` or `full`.
        names: of the policies.
        symbols: letters of the toy task of length 2.
        moved: standard deviation of the noise that sets the policies apart from the reference.
    """
    base, tokenizer = tiny_model(ToyTask(length=2, symbols=symbols), seed=0)
    backbone = make_backbone(
        base, tokenizer, names, adapter=adapter, rank=4, dtype=torch.float32,
        device=torch.device("cpu"), seed=0
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in names:
            for parameter in backbone.parameters(name).values():
                parameter += moved * torch.randn(parameter.shape, generator=generator)
    return backbone


def every_response(vocab_size: int, eos: int, length: int) -> list[list[int]]:
    """Return all token sequences that end on the end token or at the length limit."""
    complete = [
        list(ids)
        for n in range(1, length + 1)
        for ids in itertools.product(range(vocab_size), repeat=n)
        if eos not in ids[:-1] and (ids[-1] == eos or n == length)
    ]
    assert (
        len(complete)
        == sum((vocab_size - 1) ** n for n in range(length)) + (vocab_size - 1) ** length
    )
    return complete


def token_batch(backbone: Backbone, prompts: list[str], responses: list[list[int]]) -> TokenBatch:
    """Pad prompts on the left and responses on the right."""
    encoded = backbone.tokenizer(prompts, padding=True, return_tensors="pt")
    width = max(map(len, responses))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in responses])
    mask = torch.arange(width)[None] < torch.tensor([len(r) for r in responses])[:, None]
    return TokenBatch(
        prompt_ids=encoded["input_ids"],
        prompt_mask=encoded["attention_mask"].bool(),
        response_ids=ids,
        response_mask=mask,
    )


def reference_hidden(backbone: Backbone, tokens: TokenBatch) -> torch.Tensor:
    with torch.no_grad():
        return response_hidden(backbone, None, tokens)


def odd_reward(examples, responses) -> np.ndarray:
    """Score a text by its letters and places, in a way no two texts are likely to share."""
    return np.array(
        [sum((i + 1) * np.sin(ord(c)) for i, c in enumerate(text)) for text in responses],
        np.float64,
    )


def flags(config: TrainConfig, *names: str) -> list[str]:
    """Write a configuration, or these fields of it, as flags of `train`.

    All of them by default: what is left out is the preset's, which has other aims than a test.
    """
    values = config.to_json()
    given = []
    for key in names or [key for key in values if key not in ("task", "imports", "format")]:
        flag, value = key.replace("_", "-"), values[key]
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            given += [f"--{flag}", str(value)]
    return given


def batches_of(rollout, prepared):
    """What each policy learns, by name."""
    return {turn.policy: p.batch for turn, p in zip(rollout.turns, prepared, strict=True)}


def scored_of(rollout, prepared):
    """What is logged of each policy, by name."""
    return {turn.policy: p.scored for turn, p in zip(rollout.turns, prepared, strict=True)}
