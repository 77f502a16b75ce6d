"""A budget: what a run may cost in training, in place of a number of iterations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from agents.ledger import COSTS, total_of
from cory_env.names import unknown_name


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit of one of the costs that `agents.ledger` counts."""

    cost: str
    limit: float
    """> 0."""

    @classmethod
    def of(cls, text: str) -> Self:
        """Return what `COST=LIMIT` says, such as `tokens=1e6`.

        Raises:
            ValueError: if that is no budget.
        """
        cost, equals, number = (part.strip() for part in text.partition("="))
        if cost not in COSTS:
            raise ValueError(unknown_name("a budget of", COSTS, cost))
        if not equals or not re.fullmatch(r"[0-9.]+(e\+?[0-9]+)?", number) or float(number) <= 0:
            raise ValueError(
                f"Expected a budget to be COST=LIMIT with a limit above 0, got {text!r}: try "
                f"{cost}=10000."
            )
        return cls(cost, float(number))

    def planned(self, done: int, totals: Mapping[str, object]) -> int:
        """Return after how many iterations it will be spent, as far as is known after `done`.

        The run ends with the iteration that spends it. Until then those that are left are taken to
        cost what the ones so far have cost on average.

        Args:
            done: > 0.
            totals: a row with what these have cost.

        Raises:
            ValueError: if the row does not say.
        """
        spent = totals.get(total_of(self.cost))
        if not isinstance(spent, int | float) or not spent > 0:
            raise ValueError(
                f"Expected a run that counts its {self.cost} to have a budget, got one that was "
                "begun by a version that did not: begin anew with another --out."
            )
        return done + max(0, math.ceil((self.limit - spent) * done / spent))
