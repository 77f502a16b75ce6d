"""What a policy is to those that play it, score it and teach it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from agents.models.backbone import Backbone
from agents.types import TokenBatch

if TYPE_CHECKING:
    from agents.policies.llm import Generated, Scores


class Policy(Protocol):
    """A language model that answers, or the reference: one that never learns."""

    @property
    def name(self) -> str:
        """Return the name of its weights; `reference` for those of the base model."""
        ...

    @property
    def learns(self) -> bool:
        """Return whether it has weights of its own."""
        ...

    @property
    def backbone(self) -> Backbone:
        """Return the models it is one of: tokenizer, device, context."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what it trains, by name."""
        ...

    def encode(self, prompts: Sequence[str], max_new_tokens: int) -> tuple[Tensor, Tensor]:
        """Tokenize prompts to ids and mask, both (B, L), padded on the left."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        generator: torch.Generator | None = None,
        uniforms: Tensor | None = None,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt."""
        ...

    def score(self, tokens: TokenBatch, ref_hidden: Tensor) -> Scores:
        """Score responses under the sampling distribution, differentiably."""
        ...
