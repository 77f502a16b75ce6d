"""Critics: value functions of what an agent, or the whole team, has read and written so far.

A critic is a small network on a language model's hidden states, told the seat. A *local* critic
reads an agent's own prompt and response; a *central* one (MAPPO, Yu et al. 2022, arXiv 2103.01955)
reads the joint history: all earlier prompts and responses before them.

Whose hidden states they are is said by its body (`agents.models.critic_bodies`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from agents.models.critic_bodies import CriticBody, ReferenceBody


class ValueFunction(Protocol):
    """What a critic is to a learning rule; whose network it is, and of what form, is its own."""

    body: CriticBody
    """Whose hidden states its features are."""
    name: str
    """No other critic of a run has it; also that of its own body in the backbone."""
    owner: str
    """The first policy that it serves."""

    def __call__(self, features: Tensor, seats: Tensor) -> Tensor:
        """Return values (B, T) for features (B, T, D) and seats (B,)."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return what it trains."""
        ...

    def trunk_of(self, policy: str) -> str | None:
        """Return the name, in the backbone, of the body that reads for this policy."""
        ...


class Critic(nn.Module):
    """V(features, seat, time)."""

    def __init__(
        self,
        width: int,
        num_seats: int,
        max_new_tokens: int,
        seed: int,
        *,
        body: CriticBody | None = None,
        name: str = "critic",
        owner: str = "llm_0",
    ):
        """Build the network.

        Args:
            width: D of the features.
            num_seats: turns of an episode.
            max_new_tokens: T.
            seed: of the initial weights.
            body: whose hidden states the features are; None for those of the reference.
            name: no other critic of the run has it; also that of its own body in the backbone.
            owner: the first policy that it serves.
        """
        super().__init__()
        self.body = body or ReferenceBody()
        self.name = name
        self.owner = owner
        self.num_seats = num_seats
        self.max_new_tokens = max_new_tokens
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.norm = nn.LayerNorm(width)
            self.hidden = nn.Linear(width + num_seats + 1, width)
            self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, features: Tensor, seats: Tensor) -> Tensor:
        """Return values (B, T) for features (B, T, D) and seats (B,)."""
        count, length, _ = features.shape
        seat = nn.functional.one_hot(seats, self.num_seats).to(features.dtype)
        time = torch.arange(length, device=features.device) / self.max_new_tokens
        inputs = [
            self.norm(features),
            seat[:, None].expand(-1, length, -1),
            time[None, :, None].expand(count, -1, -1),
        ]
        hidden = nn.functional.gelu(self.hidden(torch.cat(inputs, dim=-1)))
        return self.out(hidden)[..., 0]

    def trunk_of(self, policy: str) -> str | None:
        """Return the name, in the backbone, of the body that reads for this policy."""
        return self.body.trunk(policy, self.name)
