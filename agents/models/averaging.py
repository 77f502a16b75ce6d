"""The mean of policies that were trained from one base, as one more policy of that base.

Averaged is the *update* ΔW of every layer, not its factors: the mean of A times the mean of B is
another matrix. For A = B = 1 in one policy and A = B = -1 in the other, both updates are 1, and so
is their mean; the means of the factors multiply to 0.

- LoRA: weighted factors are concatenated, which is exact, and brought back to a rank by QR of the
  factors and SVD of the small matrix between them. ΔW itself is never made, and the base is not
  needed, quantised or tied as it may be.
- DoRA has W' = m (W + ΔV) / |W + ΔV|, row by row. Magnitudes m and directions' updates ΔV are
  averaged. That is the mean of the weights W' where the policies agree on a row's direction. Where
  they do not, the row points as the mean to first order in their distance, and is as long as theirs
  are on average, while the mean of two rows that point apart would be shorter.
- Whole models: the mean of the weights.

Critics are not averaged: a policy is used without one. Everything is computed in float32.

Sources: model soups (arXiv 2203.05482), SWA (arXiv 1803.05407); for policies that reinforcement
learning has trained, WARP (arXiv 2406.16768).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from agents.models.files import is_down, is_magnitude, plain_name, up_of

TOLERANCE = 0.01
"""Largest relative error of a layer's update, in the Frobenius norm, where no rank is asked for."""


_PREFIX = "base_model.model."
"""What peft puts before the names of the base's layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The update of a layer as a product that is never multiplied out: ΔW = up @ down."""

    up: Tensor
    """(out, r) float32; of an embedding (width, r)."""
    down: Tensor
    """(r, in) float32; of an embedding (r, rows)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The singular value decomposition of an update: ΔW = left @ diag(values) @ right."""

    left: Tensor
    """(out, k)"""
    values: Tensor
    """(k,) falling"""
    right: Tensor
    """(k, in)"""

    def truncated(self, rank: int) -> Update:
        """Return the nearest update of a rank; factors of equal norm, rows beyond k are 0."""
        root = self.values[:rank].sqrt()
        up, down = self.left[:, :rank] * root, root[:, None] * self.right[:rank]
        more = max(0, rank - len(root))
        pad = torch.nn.functional.pad
        return Update(up=pad(up, (0, more)), down=pad(down, (0, 0, 0, more)))

    def error(self, rank: int) -> float:
        """Return |ΔW - truncated| / |ΔW|; 0 where there is no update."""
        whole = self.values.norm()
        return float(self.values[rank:].norm() / whole) if whole > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter by layer, its scaling multiplied in."""

    updates: dict[str, Update]
    """By the name of the factor that reads the layer's input, as peft writes it."""
    magnitudes: dict[str, Tensor]
    """Of DoRA, by name."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], config: LoraConfig) -> Self:
        """Return the adapter that a configuration makes of tensors.

        Args:
            tensors: by name, as peft writes them or `Backbone.parameters` returns them.
            config: of peft: its alphas and ranks say what a product is multiplied by.
        """
        tensors = {plain_name(name): tensor.float() for name, tensor in tensors.items()}
        return cls(
            updates={
                name: Update(up=_scaling(config, name) * tensors[up_of(name)], down=tensor)
                for name, tensor in tensors.items()
                if is_down(name)
            },
            magnitudes={name: t for name, t in tensors.items() if is_magnitude(name)},
        )

    @classmethod
    def of_products(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the adapter of what `tensors` returns."""
        names = [name for name in tensors if is_down(name)]
        return cls(
            updates={n: Update(up=tensors[up_of(n)], down=tensors[n]) for n in names},
            magnitudes={name: t for name, t in tensors.items() if is_magnitude(name)},
        )

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return what peft reads, for a configuration whose alphas are its ranks."""
        found = {name: update.down for name, update in self.updates.items()}
        found |= {up_of(name): update.up for name, update in self.updates.items()}
        found |= self.magnitudes
        return {name: tensor.to(dtype).contiguous() for name, tensor in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAdapter:
    """The mean of several adapters."""

    adapter: Adapter
    rank: int
    """Of every layer."""
    error: float
    """Of the layer that has lost most by it, relative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The mean of several policies of one base, as `Backbone.lent` takes it."""

    weights: dict[str, Tensor]
    """By name; of an adapter its scaling is multiplied in."""
    rank: int = 0
    """Of the adapter; 0 of a whole model."""
    error: float = 0.0
    """Of the layer that has lost most by the rank, relative."""


def mean_adapter(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    *,
    scale: float = 1.0,
    rank: int | None = None,
) -> MeanAdapter:
    """Return the weighted mean of adapters of one base, on the same layers.

    Args:
        adapters: of any ranks.
        weights: not all 0; divided by their sum.
        scale: what the mean update is multiplied by; of LoRA only.
        rank: of the result; None for the smallest whose error is below `TOLERANCE`.
    """
    shares = normalized(weights)
    spectra = {
        name: decompose(concatenate([a.updates[name] for a in adapters], shares, scale))
        for name in adapters[0].updates
    }
    rank = rank or smallest_rank(spectra.values())
    return MeanAdapter(
        adapter=Adapter(
            updates={name: spectrum.truncated(rank) for name, spectrum in spectra.items()},
            magnitudes={
                name: mean_tensor([a.magnitudes[name] for a in adapters], shares)
                for name in adapters[0].magnitudes
            },
        ),
        rank=rank,
        error=max((spectrum.error(rank) for spectrum in spectra.values()), default=0.0),
    )


def config_of_rank(config: LoraConfig, rank: int) -> LoraConfig:
    """Return the configuration of the mean of adapters of this one: rank and α are alike."""
    return replace(
        config, r=rank, lora_alpha=rank, rank_pattern={}, alpha_pattern={}, use_rslora=False
    )


def concatenate(updates: Sequence[Update], weights: Sequence[float], scale: float = 1.0) -> Update:
    """Return Σ weight · ΔW, times a scale, exactly: its rank is the sum of the ranks."""
    ups = [scale * w * update.up for w, update in zip(weights, updates, strict=True)]
    return Update(up=torch.cat(ups, dim=1), down=torch.cat([update.down for update in updates]))


def decompose(update: Update) -> Spectrum:
    """Return the singular values of an update, by way of its factors.

    With up = Q₁ R₁ and downᵀ = Q₂ R₂, ΔW = Q₁ (R₁ R₂ᵀ) Q₂ᵀ: what lies between the orthonormal
    matrices has at most the rank's rows and columns.
    """
    q_out, r_out = torch.linalg.qr(update.up)
    q_in, r_in = torch.linalg.qr(update.down.T)
    left, values, right = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return Spectrum(left=q_out @ left, values=values, right=right @ q_in.T)


def smallest_rank(spectra: Iterable[Spectrum], most: float = TOLERANCE) -> int:
    """Return the smallest rank, of all layers alike, at which none has an error above `most`."""
    ranks = [1]
    for spectrum in spectra:
        # |values[k:]| for k = 0, 1, …; summed from the smallest, which are not lost then.
        tails = spectrum.values.square().flip(0).cumsum(0).flip(0).sqrt()
        ranks.append(int((tails > most * tails[0]).sum()))
    return max(ranks)


def mean_tensor(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean in float32, or, of what is no floating number, the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    shares = normalized(weights)
    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for share, tensor in zip(shares, tensors, strict=True):
        total.add_(tensor.float(), alpha=share)
    return total


def normalized(weights: Sequence[float]) -> list[float]:
    """Return weights divided by their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _scaling(config: LoraConfig, name: str) -> float:
    """Return what peft multiplies B @ A by."""
    layer = name.removeprefix(_PREFIX).rpartition(".lora_")[0]
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), layer), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), layer), config.lora_alpha)
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)
