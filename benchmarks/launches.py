"""What an iteration launches: the operators that PyTorch runs, counted.

A small model on a GPU, and on a CPU as well, waits for launches more than for arithmetic. Counts do
not depend on what else a machine has to do; seconds do.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_NO_KERNEL = {
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
}
"""Operators that are no view and compute nothing either: allocations and what autograd needs."""


class Launches(TorchDispatchMode):
    """Counts operators below autograd; views and allocations launch nothing.

    An operator over a list of tensors (`_foreach_…`, fused Adam) counts once: a GPU runs it in one
    kernel or a few. What a CUDA graph replays is launched at once, and not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        """By operator."""

    @property
    def total(self) -> int:
        """Return how many operators were launched so far."""
        return self.counts.total()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> Any:
        """Run an operator, and count it."""
        assert isinstance(func, torch._ops.OpOverload)
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in _NO_KERNEL:
            self.counts[name] += 1
        return func(*args, **kwargs or {})


def share_outside(step: Callable[[], object]) -> float:
    """Return the share of time that is spent outside PyTorch's operators: in Python, mostly.

    It is an upper bound: what the profiler itself takes outside of operators is counted.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        begun = time.perf_counter()
        step()
        whole = time.perf_counter() - begun
    rows = profiled.key_averages()
    inside = sum(row.self_cpu_time_total for row in rows if row.key.startswith("aten::"))
    return 1 - inside / 1e6 / whole


def python_calls(step: Callable[[], object]) -> int:
    """Count the functions of Python that are called, those of the backward pass included."""
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return calls
