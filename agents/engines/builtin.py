"""The learner's own model generates: nothing to start, nothing to copy, no mismatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.engines.base import Engine

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.base import Generated, Policy


class BuiltinEngine(Engine):
    """The model that learns; it needs nothing."""

    def sync(self, policy: Policy) -> None:
        """Do nothing: the weights are the policy's own."""

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        uniforms: Tensor,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt; see `Engine`."""
        return policy.generate(
            prompts, max_new_tokens=max_new_tokens, uniforms=uniforms, greedy=greedy
        )
