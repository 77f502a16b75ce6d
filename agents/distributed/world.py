"""The processes that train together; by default one, which is the whole world.

Every process holds all weights, draws the same random numbers for the whole batch, and plays and
learns its own rows of it; what is computed over a batch (moments, losses, gradients) is computed
over everybody's rows. So the number of processes changes the time a run takes, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.tensor import DTensor

from agents.errors import ProcessError

T = TypeVar("T")


_LOST = re.compile(r"/gloo/|NCCL|Connection (closed|reset)")
"""How gloo and NCCL word the loss of a process, in errors of no type of their own."""


class World:
    """Who we are among the processes, and what all of them know together.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank = rank
        self.size = size

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return this process's share of `count` rows; the processes' number divides it."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, values: Tensor) -> Tensor:
        """Return everybody's values, in the order of ranks, along the first dimension."""
        if self.size == 1:
            return values
        return torch.cat([part.to(values.device) for part in self._gathered(values.cpu())])

    def gather_list(self, items: Sequence[T]) -> list[T]:
        """Return everybody's items, in the order of ranks."""
        return (
            list(items) if self.size == 1 else [i for part in self._gathered(items) for i in part]
        )

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes of a tensor of one shape."""
        if self.size == 1:
            return values
        total = values.clone()
        self._together(lambda: dist.all_reduce(total))
        return total

    def total_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by the sum over all processes; a missing one counts as 0.

        Those of parameters that are spread over the processes are sums already.
        """
        parameters = [p for p in parameters if not isinstance(p, DTensor)]
        if self.size == 1 or not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters]
        flat = _flatten_dense_tensors(gradients)
        self._together(lambda: dist.all_reduce(flat))
        for gradient, total in zip(
            gradients, _unflatten_dense_tensors(flat, gradients), strict=True
        ):
            gradient.copy_(total)  # type: ignore[union-attr]

    def any(self, holds: bool) -> bool:
        """Return whether it holds for any process."""
        return bool(self.total(torch.tensor(float(holds), device=self._device)) > 0)

    @property
    def _device(self) -> str | None:
        return "cuda" if self.size > 1 and dist.get_backend() == "nccl" else None

    def _gathered(self, value: Any) -> list[Any]:
        parts: list[Any] = [None] * self.size
        self._together(lambda: dist.all_gather_object(parts, value))
        return parts

    def _together(self, operation: Callable[[], Any]) -> None:
        try:
            operation()
        except RuntimeError as error:
            raise self._lost(error) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn what torch raises about a process that is gone, wherever, into our one line."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, ProcessError) or not _LOST.search(str(error)):
                raise
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> ProcessError:
        return ProcessError(
            f"Expected {self.size} processes to go on together, but process {self.rank} has "
            f"lost another one ({str(error).splitlines()[0][:120]}): look above for what "
            "stopped it, then go on with --resume."
        )


def join_world(device: torch.device) -> World:
    """Return the processes that `accelerate launch` (or torchrun) has started; one without it."""
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return World(state.process_index, state.num_processes)
