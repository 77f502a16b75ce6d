"""Critic bodies: whose hidden states a critic reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class CriticBody(ABC):
    """What reads for a critic. `@register_critic_body("mine")` makes a subclass known by a name."""

    own: ClassVar[bool] = False
    """Whether each critic gets a trunk of its own beside the policies', which learns with it."""

    @abstractmethod
    def trunk(self, policy: str, critic: str) -> str | None:
        """Return the name, in the backbone, of what reads for the critic of a policy.

        Args:
            policy: whose turn it is.
            critic: the name of the critic, and of a trunk of its own.

        Returns:
            None for the frozen reference model, which is read once per batch.
        """

    def features(self, hidden: Tensor) -> Tensor:
        """Return what the critic gets, (B, T, D), of the trunk's hidden states, (B, T, D)."""
        return hidden.float()


class ReferenceBody(CriticBody):
    """The frozen reference model: no backward pass, and what the critic sees does not move."""

    def trunk(self, policy: str, critic: str) -> str | None:
        """Return None."""
        return None


class PolicyBody(CriticBody):
    """The policy itself: one pass for both, whose gradient also shapes the policy."""

    def trunk(self, policy: str, critic: str) -> str | None:
        """Return the policy's."""
        return policy


class OwnBody(CriticBody):
    """A body of the critic's own: an adapter, or, with full fine-tuning, a model."""

    own = True

    def trunk(self, policy: str, critic: str) -> str | None:
        """Return the critic's."""
        return critic
