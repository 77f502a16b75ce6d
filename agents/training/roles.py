"""Role exchange (CORY eq. 5) as a permutation: which policy plays which role in an iteration.

Nothing is saved, reloaded or reset. Optimiser, KL controller, local critic and random state belong
to the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MIN_RISE = 0.01
"""Share of the best reward's size by which it must be passed to count as a rise."""


@dataclass(slots=True, kw_only=True)
class RoleSchedule:
    """Which policy plays which role, and when that changes.

    In an exchange every policy moves one place in turn order, so that two change places; `random`
    draws a permutation instead.
    """

    kind: Literal["every", "plateau", "random", "merge", "never"]
    every: int
    """Iterations between two exchanges (T_REx); with `plateau`, its patience; >= 1."""
    seed: int = 0
    """Of the permutations that `random` draws."""
    shift: int = 0
    """How many places the policies have moved in turn order so far (`plateau`)."""
    best: float | None = None
    """Highest team reward since the last exchange (`plateau`)."""
    waited: int = 0
    """Iterations since then (`plateau`)."""

    def assign(
        self, roles: Sequence[str], policies: Sequence[str], iteration: int
    ) -> dict[str, str]:
        """Return the policy of each role.

        Args:
            roles: in turn order.
            policies: as many as roles, or one that plays all of them.
            iteration: >= 0.
        """
        if len(policies) == 1:
            return dict.fromkeys(roles, policies[0])
        order = list(policies)
        phase = iteration // self.every
        if self.kind == "random" and phase:
            np.random.default_rng([self.seed, phase]).shuffle(order)
        shifts = {"every": phase, "merge": phase, "plateau": self.shift}
        shift = shifts.get(self.kind, 0) % len(order)
        return dict(zip(roles, order[shift:] + order[:shift], strict=True))

    def observe(self, team_reward: float) -> None:
        """Record the team's reward of an iteration, by which `plateau` decides."""
        if self.kind != "plateau":
            return
        if self.best is None or team_reward > self.best + MIN_RISE * abs(self.best):
            self.best, self.waited = team_reward, 0
            return
        self.waited += 1
        if self.waited >= self.every:
            self.shift, self.best, self.waited = self.shift + 1, None, 0

    def state(self) -> dict[str, Any]:
        """Return what the next assignment depends on, as JSON takes it."""
        return {"shift": self.shift, "best": self.best, "waited": self.waited}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.shift, self.best, self.waited = state["shift"], state["best"], state["waited"]
