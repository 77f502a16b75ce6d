"""The learner's own model generates: nothing to start, nothing to copy, no mismatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.engines.base import Engine

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.base import Generated, Policy
    from agents.policies.prefixes import Prefixes


class BuiltinEngine(Engine):
    """The model that learns; it needs nothing."""

    continues = True

    def sync(self, policy: Policy) -> None:
        """Do nothing: the weights are the policy's own."""

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        uniforms: Tensor,
        prefixes: Prefixes | None = None,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt; see `Engine`."""
        return policy.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            uniforms=uniforms,
            prefixes=prefixes,
            greedy=greedy,
        )
