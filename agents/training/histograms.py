"""How log-ratios and KL are spread over the tokens of an iteration, counted in fixed bins.

A mean hides the few tokens with extreme values. Counting costs one sort per minibatch and no
forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from agents.distributed.world import World
from agents.records.rows import HistogramRow
from agents.types import LossOutput, ScoredTurn, TokenBatch

_NUM_BINS = 25
"""Odd: the middle bin of the log-ratios lies around 0."""


_STRETCH = 4.0
"""How much finer the bins are near 0 than at the ends: they are even in asinh of the value."""


_LARGEST = {"log_ratio": 2.0, "kl": 8.0}
"""Nats, up to which bins reach; what lies beyond counts in the last one."""


def bin_edges(quantity: str) -> list[float]:
    """Return the edges of the bins of `log_ratio` (both signs) or `kl` (from 0)."""
    lowest = -1.0 if quantity == "log_ratio" else 0.0
    steps = [lowest + (1.0 - lowest) * step / _NUM_BINS for step in range(_NUM_BINS + 1)]
    scale = _LARGEST[quantity] / math.sinh(_STRETCH)
    return [round(scale * math.sinh(_STRETCH * step), 6) for step in steps]


class Histograms:
    """Counts of one iteration, by policy, over the rows of all processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._edges = {quantity: bin_edges(quantity) for quantity in _LARGEST}
        self._counts: dict[tuple[str, str], Tensor] = {}

    def start(self, policy: str, turns: Sequence[ScoredTurn]) -> None:
        """Count the KL of a policy's turns."""
        kls = torch.cat([turn.kls[turn.mask] for turn in turns])
        self._counts[policy, "kl"] = self._count("kl", kls)

    def start_epoch(self, policy: str) -> None:
        """Forget the log-ratios of the epoch before."""
        self._counts.pop((policy, "log_ratio"), None)

    def add(self, policy: str, batch: TokenBatch, output: LossOutput) -> None:
        """Count the log-ratios of a minibatch, as they were before its step."""
        if output.log_ratios is None:
            return
        counts = self._count("log_ratio", output.log_ratios[batch.response_mask])
        before = self._counts.get((policy, "log_ratio"))
        self._counts[policy, "log_ratio"] = counts if before is None else before + counts

    def row(self, iteration: int) -> HistogramRow:
        """Return what was counted, as a row of `histograms.jsonl`."""
        row = HistogramRow(iteration=iteration, edges=self._edges, counts={})
        for (policy, quantity), counts in sorted(self._counts.items()):
            row["counts"][f"{policy}/{quantity}"] = self._world.total(counts).tolist()
        return row

    def _count(self, quantity: str, values: Tensor) -> Tensor:
        finite = values[torch.isfinite(values)].float()
        inner = torch.tensor(self._edges[quantity][1:-1], device=values.device)
        return torch.bincount(torch.bucketize(finite, inner), minlength=_NUM_BINS)
