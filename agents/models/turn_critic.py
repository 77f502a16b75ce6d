"""A critic of whole answers: twin Q and V, with lagged copies, on features that never change.

Source: Zhou et al. 2024, "ArCHer: Training Language Model Agents via Hierarchical Multi-Turn RL"
(arXiv 2402.19446), equations 2 and 3, and its released code: two networks of each kind, each of
which follows the lagged copy of its own twin of the other kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from agents.records.checkpoint import optimizer_tensors, restore_optimizer

HIDDEN = 256
"""Width of the networks' hidden layer."""
SEED = 0
"""Of the first weights: the same in all runs, which differ in what they learn from."""


class Twins(nn.Module):
    """Two networks f(features, seat, policy), told who answers as whom."""

    def __init__(self, width: int, num_seats: int, num_policies: int):
        """Build them.

        Args:
            width: D of the features.
            num_seats: A, roles in the game.
            num_policies: P.
        """
        super().__init__()
        self.num_policies = num_policies
        self.twins = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width + num_seats + num_policies, HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, 1),
            )
            for _ in range(2)
        )
        for twin in self.twins:
            nn.init.zeros_(twin[-1].weight)  # type: ignore[index]

    def forward(self, features: Tensor, players: Tensor) -> Tensor:
        """Return (2, N, A) of features (N, A, D) and the policy of each seat, (A,) int64."""
        count, seats, width = features.shape
        told = [
            torch.eye(seats, device=features.device),
            nn.functional.one_hot(players, self.num_policies).float(),
        ]
        inputs = [
            nn.functional.layer_norm(features, (width,)),
            torch.cat(told, dim=1).expand(count, -1, -1),
        ]
        joint = torch.cat(inputs, dim=-1)
        return torch.stack([twin(joint)[..., 0] for twin in self.twins])


class TurnCritic:
    """Q(s, a) and V(s) of whole answers, in units of reward, and how they are learnt.

    With r what the answer alone has earned, s' what the next agent reads (nothing behind the last
    one), ã an answer of the policy as it is, and bars for the lagged copies:

        L_Q = Σ_i (Q_i(s, a) − r − V̄_i(s'))²        L_V = Σ_i (V_i(s) − Q̄_i(s, ã))²
    """

    def __init__(self, shape: tuple[int, int, int], learning_rate: float, device: torch.device):
        """Build the networks.

        Args:
            shape: D of the features, A roles, P policies.
            learning_rate: of Adam.
            device: of the networks.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.networks = nn.ModuleDict({"q": Twins(*shape), "v": Twins(*shape)}).to(device)
        self.lagged = deepcopy(self.networks).requires_grad_(requires_grad=False)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), learning_rate)
        self.device = device

    @torch.no_grad()
    def q(self, actions: Tensor, players: Tensor) -> Tensor:
        """Return (N, A) the lower twin's value of answers.

        Args:
            actions: (N, A, D) their features.
            players: (A,) int64, the policy of each seat.
        """
        return self.networks["q"](actions.to(self.device), players).amin(0)

    @torch.no_grad()
    def v(self, states: Tensor, players: Tensor) -> Tensor:
        """Return (N, A) the lower twin's value of states, given as those of `q`."""
        return self.networks["v"](states.to(self.device), players).amin(0)

    @torch.enable_grad()
    def step(
        self,
        played: tuple[Tensor, Tensor, Tensor],
        fresh: tuple[Tensor, Tensor],
        players: Tensor,
        polyak: float,
    ) -> Tensor:
        """Take one optimiser step, let the lagged copies follow, and return (2,) L_Q and L_V.

        Args:
            played: states (N, A, D), answers (N, A, D) and rewards (N, A) of episodes.
            fresh: states (M, A, D) of others, and answers (M, A, D) of the policies as they are.
            players: (A,) int64, the policy of each seat.
            polyak: how far the lagged copies follow, in [0, 1].
        """
        states, actions, rewards = (part.to(self.device) for part in played)
        asked, answered = (part.to(self.device) for part in fresh)
        with torch.no_grad():
            following = self.lagged["v"](states, players)[:, :, 1:]
            earned = rewards + nn.functional.pad(following, (0, 1))
            worth = self.lagged["q"](answered, players)
        losses = torch.stack(
            [
                (self.networks["q"](actions, players) - earned).square().sum(0).mean(),
                (self.networks["v"](asked, players) - worth).square().sum(0).mean(),
            ]
        )
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        self._follow(polyak)
        return losses.detach()

    @torch.no_grad()
    def _follow(self, polyak: float) -> None:
        pairs = zip(self.lagged.parameters(), self.networks.parameters(), strict=True)
        for lagged, parameter in pairs:
            lagged.lerp_(parameter, polyak)

    def tensors(self) -> dict[str, Tensor]:
        """Return networks, lagged copies and the optimiser's state, by name."""
        return {
            **{f"networks/{key}": p.detach() for key, p in self.networks.named_parameters()},
            **{f"lagged/{key}": p for key, p in self.lagged.named_parameters()},
            **optimizer_tensors("optimizer", self.optimizer),
        }

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` returned."""
        for name, module in (("networks", self.networks), ("lagged", self.lagged)):
            for key, parameter in module.named_parameters():
                parameter.copy_(tensors[f"{name}/{key}"])
        restore_optimizer("optimizer", self.optimizer, tensors, lambda _, tensor: tensor)
