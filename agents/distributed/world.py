"""Ranks of data-parallel training and the collectives over them; one process is a world of size 1.

Every rank holds all weights and draws the same random numbers for the whole batch. It plays and
learns its own rows. Moments, losses and gradients are reduced over the rows of all ranks. So the
number of ranks changes the time of a run and, but for rounding, nothing else. Layers that are
sharded over the ranks are the business of `sharding.py`.
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
    """The rank of this process, and gathers and sums over all ranks.

    Attributes:
        rank: of this process, from 0.
        size: number of ranks.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank = rank
        self.size = size

    @property
    def writes(self) -> bool:
        """Whether this rank writes files and prints; only rank 0 does."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return the rows of this rank out of `count`, which the number of ranks divides."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all ranks, concatenated along the first dimension in rank order."""
        if self.size == 1:
            return values
        return torch.cat([part.to(values.device) for part in self._gathered(values.cpu())])

    def gather_list(self, items: Sequence[T]) -> list[T]:
        """Return the items of all ranks, in rank order."""
        return (
            list(items) if self.size == 1 else [i for part in self._gathered(items) for i in part]
        )

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; its shape is the same on each."""
        if self.size == 1:
            return values
        total = values.clone()
        self._together(lambda: dist.all_reduce(total))
        return total

    def total_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all ranks; a missing gradient counts as 0.

        Gradients of sharded parameters are sums already.
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
        """Return whether `holds` is true on any rank."""
        return bool(self.total(torch.tensor(float(holds), device=self._device)) > 0)

    @contextmanager
    def failing_together(self, *kinds: type[Exception]) -> Iterator[None]:
        """Raise on all ranks what one of them raises: none leaves the others waiting for it."""
        failed: list[Exception] = []
        try:
            yield
        except kinds as error:
            failed.append(error)
        if failed := self.gather_list(failed):
            raise failed[0]

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
        """Raise a `ProcessError` of one line in place of torch's errors about a lost process."""
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
    """Return the world that `accelerate launch` or torchrun has started; size 1 without them."""
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return World(state.process_index, state.num_processes)
