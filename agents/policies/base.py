"""`Policy`: the protocol by which engines, rollouts and algorithms see a language model.

`LLMPolicy` in llm.py implements it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from agents.models.backbone import Backbone
from agents.policies.prefixes import Prefixes
from agents.types import Generation, TokenBatch

CHUNK_TOKENS = 1024
"""Tokens whose (tokens, V) distributions are in memory at a time."""


CHUNK_ROW_TOKENS = 2048
"""Tokens that a pass without gradient takes through the network at a time, to bound its memory."""


class Generated(NamedTuple):
    """Responses as text, and as the tokens they were sampled as."""

    texts: list[str]
    tokens: Generation


class Scores(NamedTuple):
    """What a policy says of given responses; all (B, T) float32, 0 where masked."""

    log_probs: Tensor
    entropies: Tensor
    kls: Tensor
    """Exact KL to the reference at every visited state, with its gradient."""
    ref_log_probs: Tensor
    """Of the same tokens under the reference, without gradient."""
    hidden: Tensor
    """(B, T, D) the policy's own last hidden states, with their gradient; not masked."""


class Policy(Protocol):
    """A language model that answers, or the reference: one that never learns."""

    @property
    def name(self) -> str:
        """Return its name in the run; that of a reference begins with `reference`."""
        ...

    @property
    def learns(self) -> bool:
        """Return whether it has weights of its own."""
        ...

    @property
    def adapter(self) -> str | None:
        """Return what the backbone calls its weights; None for those of the reference."""
        ...

    @property
    def temperature(self) -> float:
        """Return what logits are divided by; > 0."""
        ...

    @property
    def top_p(self) -> float:
        """Return the nucleus that is sampled from, in (0, 1]."""
        ...

    @property
    def backbone(self) -> Backbone:
        """Return the models it is one of: tokenizer, device, context."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what it trains, by name."""
        ...

    def labelled(self, label: str) -> Policy:
        """Return the same policy with another label before its prompts."""
        ...

    def encode(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        prefixes: Prefixes | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokenize prompts to ids and mask, both (B, L), padded on the left."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
        uniforms: Tensor | None = None,
        prefixes: Prefixes | None = None,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt, or the rest of one."""
        ...

    def score(self, tokens: TokenBatch, ref_hidden: Tensor) -> Scores:
        """Score responses under the sampling distribution, differentiably."""
        ...

    def log_probs(self, tokens: TokenBatch) -> Tensor:
        """Return the log-probs (B, T) of responses, differentiably; 0 where masked."""
        ...

    def divergence(self, tokens: TokenBatch, teacher: Policy, read: TokenBatch) -> Tensor:
        """Return KL(teacher ‖ policy) of each token, differentiably in the policy alone."""
        ...

    def padded(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        ids: Sequence[Sequence[int]],
        log_probs: Sequence[Sequence[float]],
    ) -> Generated:
        """Return responses that somebody else has sampled as this policy."""
        ...
