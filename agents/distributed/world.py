"""Ranks of data-parallel training and the collectives over them; one process is a world of size 1.

Every rank holds all weights and draws the same random numbers for the whole batch. It plays and
learns its own rows. Moments, losses and gradients are reduced over the rows of all ranks. So the
number of ranks changes the time of a run and, but for rounding, nothing else. Layers that are
sharded over the ranks are the business of `sharding.py`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.tensor import DTensor

from agents.distributed.agreement import PATIENCE
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

    def broadcast(self, value: T) -> T:
        """Return on every rank the value of rank 0; that of the others is not looked at."""
        if self.size == 1:
            return value
        box = [value if self.rank == 0 else None]
        self._together(lambda: dist.broadcast_object_list(box, src=0))
        return cast("T", box[0])

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return on every rank, on the CPU, the tensors of rank 0, one after the other."""
        if self.size == 1:
            return dict(tensors)
        kinds = self.broadcast({name: (t.shape, t.dtype) for name, t in tensors.items()})
        found: dict[str, Tensor] = {}
        for name, (shape, dtype) in kinds.items():
            sent = tensors[name] if self.rank == 0 else torch.empty(shape, dtype=dtype)
            sent = sent.to(self._device or "cpu").contiguous()
            self._together(lambda sent=sent: dist.broadcast(sent, src=0))
            found[name] = sent.cpu()
        return found

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


def join_world(device: torch.device, patience: float = PATIENCE) -> World:
    """Return the world that `accelerate launch` or torchrun has started; size 1 without them.

    Args:
        device: what the ranks compute on, which decides how they talk.
        patience: seconds that a rank waits for another in a collective before it gives up.

    Raises:
        ValueError: if ranks on several hosts could not reach one another.
        ProcessError: if they do not meet.
    """
    from accelerate import PartialState

    name_interface()
    try:
        state = PartialState(cpu=device.type == "cpu", timeout=timedelta(seconds=patience))
    except RuntimeError as error:  # of gloo, NCCL or the store: torch has no type for it
        raise ProcessError(
            f"Expected all processes to meet within {patience:g} s, got "
            f"{str(error).splitlines()[0][:120]}: check that the machines reach one another over "
            f"{os.environ.get('GLOO_SOCKET_IFNAME', 'the network')}, or name another interface in "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME."
        ) from error
    return World(state.process_index, state.num_processes)


def name_interface() -> None:
    """Tell gloo and NCCL which interface leads to the first host, if ranks are on several.

    By themselves they take the address that the host's own name resolves to, which is that of the
    loopback interface on most machines. What the user has named stays.

    Raises:
        ValueError: if the address of the first host is one that other hosts do not reach.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return
    master = os.environ["MASTER_ADDR"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((master, 1))  # nothing is sent: the kernel only looks up the way
        except OSError as error:
            raise ValueError(
                f"Expected a way to the first machine, {master}, got {error}: check "
                "--main_process_ip and the network."
            ) from error
        own = probe.getsockname()[0]
    if own.startswith("127."):
        raise ValueError(
            f"Expected --main_process_ip to be an address that the other machines reach, got "
            f"{master}, which is this machine only."
        )
    found = [
        name
        for name, all_of in psutil.net_if_addrs().items()
        if any(a.address == own for a in all_of)
    ]
    for name in found[:1]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
