"""LoRA layers in the dtype of their base: what peft does, in fewer passes and fewer launches.

peft casts the input of every layer to the float32 of the adapter and the result back. Here the
factors of all layers are cast at once, after each step of the optimizer, and so are their gradients
after each backward pass: a layer launches its three products and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Pair = tuple[Tensor, Tensor]
"""A (r, D) and s B (D', r) of one layer, in the dtype of the base."""


def speed_up_adapters(model: nn.Module) -> Factors:
    """Let plain LoRA layers on plain linear layers compute in the dtype of their base, in place.

    Returns:
        the factors of all of them.
    """
    layers: list[Any] = [
        module
        for module in model.modules()
        if type(module) is LoraLinear
        and type(module.base_layer) in (nn.Linear, Conv1D)
        and not module.lora_variant
        and not any(module.lora_bias.values())
    ]
    factors = Factors(layers)
    for place, layer in enumerate(layers):
        # A class in place of an object for each layer: one compiled form does for all of them.
        layer.__class__ = LowRankLayer
        layer.factors, layer.place = factors, place
    return factors


class Factors:
    """The low-rank factors of all layers, by adapter, in the dtype of the base.

    They are read anew once one of an adapter has been written to, which is looked at once in a
    forward pass, inside of `held`, and in every layer outside of it.
    """

    def __init__(self, layers: Sequence[LoraLinear]):
        self._layers = layers
        self._held = 0
        self._asked: tuple[str, torch.dtype, bool] | None = None
        self._pairs: dict[int, Pair] = {}
        self._kept: dict[tuple[str, torch.dtype, bool], tuple[int, dict[int, Pair]]] = {}
        self._flat: dict[str, tuple[list[int], list[nn.Parameter]]] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Look at most once whether factors have been written to: nobody does so meanwhile."""
        self._held += 1
        self._asked = None
        try:
            yield
        finally:
            self._held -= 1
            self._asked = None

    def of(self, name: str, place: int, dtype: torch.dtype) -> Pair | None:
        """Return those of one layer; None where it has no adapter of this name."""
        asked = name, dtype, torch.is_grad_enabled()
        if asked != self._asked:
            self._pairs = self._read(*asked)
            self._asked = asked if self._held else None
        return self._pairs.get(place)

    def _read(self, name: str, dtype: torch.dtype, graph: bool) -> dict[int, Pair]:
        places, parameters = self._flat_of(name)
        if not places:
            return {}
        version = sum(parameter._version for parameter in parameters)
        found = self._kept.get((name, dtype, graph))
        if found is None or found[0] != version:
            scalings = tuple(self._layers[place].scaling[name] for place in places)
            with torch.set_grad_enabled(graph):
                narrow = _Narrow.apply(scalings, dtype, *parameters)
            pairs = zip(narrow[: len(places)], narrow[len(places) :], strict=True)
            found = version, dict(zip(places, pairs, strict=True))
            self._kept[name, dtype, graph] = found
        return found[1]

    def _flat_of(self, name: str) -> tuple[list[int], list[nn.Parameter]]:
        """Return which layers have an adapter, and its factors, all A before all B."""
        if name not in self._flat:
            places = [n for n, layer in enumerate(self._layers) if name in layer.lora_A]
            own: list[Any] = [self._layers[n] for n in places]
            parameters = [layer.lora_A[name].weight for layer in own]
            self._flat[name] = places, parameters + [layer.lora_B[name].weight for layer in own]
        return self._flat[name]


class _Narrow(torch.autograd.Function):
    """All factors in another dtype, scaled, and all their gradients back, in one pass each."""

    @staticmethod
    def forward(
        ctx: Any, scalings: tuple[float, ...], dtype: torch.dtype, *factors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # what no token went through has no gradient
        ctx.scalings = scalings
        return tuple(_flat(factors, scalings, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if any(grad is None for grad in grads):
            scalings = (1.0,) * len(ctx.scalings) + ctx.scalings
            pairs = zip(grads, scalings, strict=True)
            return None, None, *(None if g is None else g.float() * s for g, s in pairs)
        return None, None, *_flat(grads, ctx.scalings, torch.float32)  # type: ignore[arg-type]


def _flat(parts: Sequence[Tensor], scalings: Sequence[float], dtype: torch.dtype) -> list[Tensor]:
    """Scale the second half of tensors in float32 and cast all of them.

    Args:
        parts: of float32, or of what the result of float32 is to be rounded from.
        scalings: of the second half.
        dtype: of the result.
    """
    sizes = [part.numel() for part in parts]
    flat = torch.cat([part.reshape(-1) for part in parts]).float()
    scaled, sizes_scaled = flat[sum(sizes[: len(scalings)]) :], sizes[len(scalings) :]
    if len(set(scalings)) == 1:
        scaled.mul_(scalings[0])
    else:
        for part, scaling in zip(scaled.split(sizes_scaled), scalings, strict=True):
            part.mul_(scaling)
    pieces = flat.to(dtype).split(sizes)
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


class LowRankLayer(LoraLinear):
    """A LoRA layer with the forward pass y = x W + b + s (x A) B, with one adapter or none."""

    factors: Factors
    place: int
    """Of this layer among those of `factors`."""
    pair: Pair | None = None
    """The factors that are shown, as `look_up` has found them."""

    def look_up(self, dtype: torch.dtype) -> None:
        """Take the factors of the adapter that is shown, for inputs of a dtype."""
        self.pair = None
        if not self.disable_adapters:
            (name,) = self.active_adapters
            self.pair = self.factors.of(name, self.place, dtype)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return (..., D') for inputs (..., D)."""
        compiling = torch.compiler.is_compiling()
        # What is compiled reads no state of the adapters: its caller has looked up for it.
        if not compiling:
            self.look_up(x.dtype)
        base: Any = self.base_layer
        if self.pair is None:
            return base(x)
        weight = base.weight.T if isinstance(base, Conv1D) else base.weight
        # Graphs with a backward pass by hand are not kept between runs.
        if torch.is_grad_enabled() and not compiling:
            return _LowRankLinear.apply(x, weight, base.bias, *self.pair)
        return _low_rank(x, weight, base.bias, *self.pair)[0]


def _low_rank(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    inner = rows @ a.T
    out = nn.functional.linear(rows, weight, bias).addmm_(inner, b.T)
    return out.view(*x.shape[:-1], -1), inner


class _LowRankLinear(torch.autograd.Function):
    """A frozen linear layer with a low-rank update."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor
    ) -> Tensor:
        out, inner = _low_rank(x, weight, bias, a, b)
        ctx.save_for_backward(x, weight, a, b, inner)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, a, b, inner = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        inner_grad = rows @ b
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (rows @ weight).addmm_(inner_grad, a).view(x.shape)
        a_grad = inner_grad.T @ x.reshape(-1, x.shape[-1])
        return x_grad, None, None, a_grad, rows.T @ inner
