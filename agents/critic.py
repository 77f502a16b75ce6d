"""Critics: value functions of what an agent, or the whole team, has read and written so far.

A critic is a small network on the frozen reference model's hidden states, told the seat. It costs
no backward pass through the language model, and what it sees does not move while the policies
learn. A *local* critic reads an agent's own prompt and response; a *central* one (MAPPO, Yu et al.
2022, arXiv 2103.01955) reads the joint
history: all earlier prompts and responses before them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """V(features, seat, time)."""

    def __init__(self, width: int, num_seats: int, max_new_tokens: int, seed: int):
        """Build the network.

        Args:
            width: D of the features.
            num_seats: A, roles in the game.
            max_new_tokens: T.
            seed: of the initial weights.
        """
        super().__init__()
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
