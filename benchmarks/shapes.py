"""The work that the training benchmark gives to every candidate: models, prompts, how many tokens.

Weights are random and texts are numbered words, one token each, so that every prompt has the length
that the shape says and nothing has to be downloaded. Responses all but never end early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from cory_env import register_reward, register_task
from cory_env.task import Task
from cory_env.types import Example

TASK = "numbered_words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One amount of work."""

    config: GPT2Config | LlamaConfig
    batch_size: int = 32
    query_tokens: int = 5
    """What the pioneer reads."""
    told_tokens: int = 10
    """What the observer reads besides query and response."""
    new_tokens: int = 10
    epochs: int = 4

    @property
    def observer_tokens(self) -> int:
        """Tokens that the observer reads."""
        return self.query_tokens + self.new_tokens + self.told_tokens


def _llama(positions: int) -> LlamaConfig:
    """Return the shape of the embedded model."""
    return LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=positions,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip


def _gpt2(**changes: int) -> GPT2Config:
    """Return a small GPT-2."""
    values: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_positions": 64, **changes}
    return GPT2Config(**values, bos_token_id=0, eos_token_id=0, pad_token_id=0)


SHAPES = {
    "embedded": Shape(config=_llama(256)),
    "gpt2": Shape(config=GPT2Config(bos_token_id=0, eos_token_id=0, pad_token_id=0)),
    # For GPUs: the model and batch of the paper's table 1.
    "paper": Shape(
        config=GPT2Config(
            n_embd=1280, n_layer=36, n_head=20, bos_token_id=0, eos_token_id=0, pad_token_id=0
        ),
        batch_size=256,
    ),
    "long": Shape(config=_llama(2048), new_tokens=512, epochs=1),
    "long_51": Shape(config=_llama(2048), new_tokens=51, epochs=1),
    # To count launches, which do not depend on the width: as deep as GPT-2 and the paper's model.
    "deep_12": Shape(config=_gpt2(vocab_size=4096, n_embd=64, n_head=4, n_layer=12)),
    "deep_36": Shape(config=_gpt2(vocab_size=4096, n_embd=64, n_head=4, n_layer=36)),
    # For tests: the same work in a second, and distributions that outweigh the model.
    "short": Shape(config=_gpt2(vocab_size=300, n_embd=32), batch_size=8, epochs=2),
    "wide": Shape(config=_gpt2(vocab_size=20_000, n_embd=16), batch_size=64, epochs=1),
}


class NumberedWords(Task):
    """Queries of random words; the observer is told the query, the response and more words."""

    name = TASK
    reward = TASK

    def __init__(self, split: str = "train", *, shape: str = "embedded"):
        work = SHAPES[shape]
        self.max_new_tokens = work.new_tokens
        self.max_prompt_tokens = work.observer_tokens + 8 * work.new_tokens  # chains quote more
        rng = np.random.default_rng(0 if split == "train" else 1)
        words = rng.integers(1, work.config.vocab_size, (256, work.query_tokens))
        self.examples = [Example(" ".join(map(str, row))) for row in words.tolist()]
        self._told = " ".join(["1"] * work.told_tokens)

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        """Return as many words as the shape says."""
        return " ".join([self._told, *responses, query])


def even_words(examples: Sequence[Example], responses: Sequence[str]) -> np.ndarray:
    """Pay the share of even numbers: cheap, and not constant."""
    shares = [[word[-1] in "02468" for word in text.split()] or [False] for text in responses]
    return np.array([float(np.mean(share)) for share in shares])


def register() -> None:
    """Make the task and its reward known."""
    register_task(TASK)(NumberedWords)
    register_reward(TASK)(lambda: even_words)


def word_tokenizer(size: int) -> FastTokenizer:
    """Return a tokenizer of numbered words; the first is the end."""
    vocabulary = {"<end>": 0, **{str(i): i for i in range(1, size)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return FastTokenizer(
        tokenizer_object=backend, eos_token="<end>", pad_token="<end>", padding_side="left"
    )


def write_model(shape: Shape, folder: Path) -> None:
    """Write a folder with random weights and the tokenizer."""
    torch.manual_seed(0)
    kind = GPT2LMHeadModel if isinstance(shape.config, GPT2Config) else LlamaForCausalLM
    kind(shape.config).save_pretrained(folder)  # type: ignore[arg-type]
    word_tokenizer(shape.config.vocab_size).save_pretrained(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Floating-point operations of one iteration of a pair, in the least that it takes."""

    generation: float
    scoring: float
    update: float


def work(shape: Shape, *, full: bool, policies: int = 2) -> Work:
    """Count the operations of one iteration: matrix products only, two for each weight and token.

    Generation: each token once through the network, each new one through the head. Scoring: policy
    and reference over all tokens, heads over the new ones. Update, per epoch: the policy forward,
    the gradient of its inputs, and (full fine-tuning) that of its weights; the reference's head.
    """
    config = shape.config
    body, head = _weights(config)
    lengths = (shape.query_tokens, shape.observer_tokens)[:policies]
    new = shape.batch_size * shape.new_tokens * policies
    tokens = shape.batch_size * sum(length + shape.new_tokens - 1 for length in lengths)
    forward, logits = 2.0 * body * tokens, 2.0 * head * new
    passes = 3 if full else 2
    return Work(
        generation=forward + logits,
        scoring=2 * (forward + logits),
        update=shape.epochs * (passes * (forward + logits) + logits),
    )


def _weights(config: GPT2Config | LlamaConfig) -> tuple[int, int]:
    """Return the weights of all matrices of the body, and of the head."""
    if isinstance(config, GPT2Config):
        width = config.n_embd
        return 12 * config.n_layer * width**2, width * config.vocab_size
    width = config.hidden_size
    layer = 4 * width**2 + 3 * width * config.intermediate_size
    return config.num_hidden_layers * layer, width * config.vocab_size
