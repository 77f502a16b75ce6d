"""What compiling the layers of a backbone has cost, and what it saves: measured before a run.

The passes that are measured also compile, always by the same inputs: a run that is resumed computes
with the graphs that it began with. Nothing of the run depends on the seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters

from agents.models.backbone import Backbone, token_positions

_ROUNDS = 3
"""Passes of each kind, of which the fastest counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Seconds that compiling has taken, and those of a forward and backward pass of all layers."""

    rows: int
    tokens: int
    compiling: float
    eager: float
    compiled: float

    @property
    def passes(self) -> float:
        """After how many passes compiling has paid; infinite if it never does."""
        saved = self.eager - self.compiled
        return self.compiling / saved if saved > 0 else math.inf

    def described(self, planned: float) -> str:
        """Return one line on whether compiling pays in a run.

        Args:
            planned: passes of the run.
        """
        if math.isinf(self.passes):
            pays = "it does not pay"
        else:
            pays = f"it pays after {math.ceil(self.passes):,} passes"
        return (
            f"Layers were compiled in {self.compiling:.1f} s; {self.rows} x {self.tokens} tokens "
            f"forward and backward take {self.compiled:.3g} s in place of {self.eager:.3g}: "
            f"{pays}, and the run has {planned:,.0f}."
        )


def measure_gain(backbone: Backbone, name: str, rows: int, tokens: int) -> Gain:
    """Compile the layers of a backbone, and compare them with what they are compiled from.

    Args:
        backbone: with compiled layers.
        name: of a policy.
        rows: of a pass; >= 2.
        tokens: of a row, the first of which are padding in one; >= 3.

    Raises:
        ValueError: if they cannot be compiled, or compute something else then.
    """
    compiled = backbone.compiled
    assert compiled
    run = _pass_of(backbone, name, rows, tokens)
    with compiled.off():
        expected, first = _timed(run)
        eager = min(first, *(_timed(run)[1] for _ in range(_ROUNDS - 1)))
    kind = type(backbone.base).__name__
    broken = counters["graph_break"].total()
    try:
        found, compiling = _timed(run)
    except TorchDynamoException as error:
        raise ValueError(_cannot(kind, str(error))) from error
    if counters["graph_break"].total() > broken:
        raise ValueError(_cannot(kind, [*counters["graph_break"]][-1]))
    _expect_equal(kind, found, expected)
    took = min(_timed(run)[1] for _ in range(_ROUNDS))
    return Gain(rows=rows, tokens=tokens, compiling=compiling, eager=eager, compiled=took)


def _pass_of(
    backbone: Backbone, name: str, rows: int, tokens: int
) -> Callable[[], tuple[Tensor, ...]]:
    """Return what computes hidden states and the gradients of a policy."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(backbone.rows, (rows, tokens), generator=generator).to(backbone.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :2] = False
    width = int(backbone.config.hidden_size)
    weights = torch.randn(rows, tokens, width, generator=generator).to(backbone.device)
    weights = weights * mask[..., None]

    def run() -> tuple[Tensor, ...]:
        with backbone.use_adapter(name) as model:
            trained = [p for p in model.parameters() if p.requires_grad]
        hidden = backbone.hidden(name, ids, mask, token_positions(mask)).float()
        # Not `backward`: nothing may be left with a gradient.
        grads = torch.autograd.grad((hidden * weights).sum(), trained, allow_unused=True)
        return hidden.detach() * mask[..., None], *(g for g in grads if g is not None)

    return run


def _timed(run: Callable[[], tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], float]:
    begun = time.perf_counter()
    result = run()
    float(result[-1].sum())  # waits for a GPU
    return result, time.perf_counter() - begun


def _expect_equal(kind: str, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Check hidden states, and gradients as one vector, by the length of the difference."""
    exact = all(tensor.dtype == torch.float32 for tensor in expected)
    # Sums in another order, as where pieces of a model are checked (`make.py`).
    tolerance = 1e-3 if exact else 0.1
    for part in (slice(0, 1), slice(1, None)):
        one, other = (
            torch.cat([tensor.flatten().float() for tensor in tensors[part]])
            for tensors in (found, expected)
        )
        difference = float((one - other).norm() / other.norm())
        if not difference <= tolerance:
            raise ValueError(
                f"Expected layers that compute the same once they are compiled, got {kind}, where "
                f"they differ by {difference:.2g}: leave out --compile."
            )


def _cannot(kind: str, reason: str) -> str:
    # PyTorch says whose error it is on the first line, and which on the second.
    said = " ".join(" ".join(reason.splitlines()[:2]).split()).rstrip(".")
    return (
        f"Expected layers and a compiler that torch.compile can work with, got {kind}: "
        f"{said}: leave out --compile."
    )
