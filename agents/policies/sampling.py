"""Draw tokens from given uniforms: the same numbers give the same tokens everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_uniforms(count: int, length: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw the randomness (B, T) of B responses, on the CPU.

    All of it is drawn before the first token, however soon the responses end: what a row becomes
    depends on no other row, and on no process that plays it.
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return torch.rand(count, length, dtype=torch.float64, generator=generator)


def draw(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token from each of the distributions (B, V), by inversion of uniforms (B,).

    Float64: in float32 the sum over a large vocabulary would cut its rarest tokens off.
    """
    sums = log_probs.double().exp_().cumsum_(-1)
    totals = sums[:, -1:]
    # Below the total even after rounding, or a token of probability 0 could come out at the end.
    places = torch.minimum(uniforms[:, None] * totals, totals.nextafter(totals * 0))
    return torch.searchsorted(sums, places, right=True)[:, 0]
