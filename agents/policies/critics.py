"""A trained critic with the model whose hidden states it reads, loaded from `final/` of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.models.backbone import Backbone
from agents.models.copies import FullBackbone
from agents.models.critic import Critic
from agents.models.loading import DType, load_base, pick_device, pick_dtype
from agents.models.saved_critic import owner_folder, read_critic
from agents.policies.llm import response_hidden
from agents.policies.load import load_whole
from agents.terminal.hush import hushed
from agents.types import TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedCritic:
    """V of what has been read and written so far, in units of what the policy was paid."""

    critic: Critic
    backbone: Backbone
    trunk: str | None
    """The name, in the backbone, of what reads; None for the base model."""

    @torch.no_grad()
    def values(self, tokens: TokenBatch, seat: int = 0) -> Tensor:
        """Return (B, T) the value before each response token, 0 where masked.

        Args:
            tokens: B responses behind what the critic reads: of a central critic that is all that
                was said before.
            seat: whose turn it is, in turn order.

        Raises:
            ValueError: if the critic knows no such seat.
        """
        if not 0 <= seat < self.critic.num_seats:
            raise ValueError(
                f"Expected a seat from 0 to {self.critic.num_seats - 1}, those that the critic was "
                f"trained on, got {seat}."
            )
        hidden = response_hidden(self.backbone, self.trunk, tokens)
        seats = torch.full((len(hidden),), seat, device=hidden.device)
        values = self.critic(self.critic.body.features(hidden), seats)
        return values * tokens.response_mask


@hushed()
def load_critic(
    folder: str | Path, *, base: str | None = None, device: str = "auto", dtype: DType = "auto"
) -> TrainedCritic:
    """Load a critic from `final/critic` of a run, or `final/critic_llm_<i>` where it has several.

    A critic that reads the hidden states of its policy finds the policy beside it.

    Args:
        folder: of the critic.
        base: base model; None for the one it was trained on.
        device: where to put it.
        dtype: of the arithmetic of its body.

    Raises:
        ValueError: if there is no critic, or no such base.
    """
    folder, place = Path(folder), pick_device(device)
    critic, told = read_critic(folder)
    trunk = critic.trunk_of(critic.owner)
    if trunk is None:
        model, tokenizer = load_base(base or told, torch.float32)
    elif critic.body.own:
        model, tokenizer = load_whole(folder, base)
    else:
        model, tokenizer = load_whole(owner_folder(critic, folder), base)
    names = [] if trunk is None else [trunk]
    backbone = FullBackbone(model, tokenizer, names, dtype=pick_dtype(dtype, place), device=place)
    return TrainedCritic(critic=critic.to(place), backbone=backbone, trunk=trunk)
