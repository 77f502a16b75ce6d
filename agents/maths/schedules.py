"""Schedules: the order of the rows in minibatches, and the factor of learning rates over a run."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["constant", "linear", "cosine"]


def stratified_order(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Shuffle rows into minibatches that each hold one row of every stratum of the batch.

    Column s of the result is a random order of the rows [s · N, (s + 1) · N), so that any number of
    processes that divides `size`, with consecutive rows each, has equal shares in every minibatch.

    Args:
        count: B, rows.
        size: M, rows per minibatch; divides B into N = B / M minibatches.
        generator: source of randomness.

    Returns:
        (N, M) row numbers; every row occurs once.
    """
    num_batches = count // size
    order = torch.rand(size, num_batches, generator=generator).argsort(1)
    return (order + torch.arange(size)[:, None] * num_batches).T


def schedule_factor(schedule: Schedule, iteration: int, iterations: int, warmup: int) -> float:
    """Return what the learning rates are multiplied by.

    Args:
        schedule: `constant`; `linear` from 1 to 0; `cosine`, half a period from 1 to 0 (Loshchilov
            & Hutter 2017, arXiv 1608.03983, eq. 5).
        iteration: >= 0.
        iterations: of the run; the factor would reach 0 there.
        warmup: iterations in which the factor rises from 1 / (warmup + 1) to 1.

    Returns:
        A factor in (0, 1].
    """
    if iteration < warmup:
        return (iteration + 1) / (warmup + 1)
    done = (iteration - warmup) / max(iterations - warmup, 1)
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
