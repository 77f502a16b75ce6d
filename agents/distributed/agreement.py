"""Before they train, ranks agree: an error of one, or a difference, ends all in one line.

Collectives come too late for this: a rank that fails before it joins leaves the others waiting, and
which backend they join with is itself a matter of flags. So ranks leave their reports in the
launcher's key-value store, which every rank reaches by address and port alone. All ranks must ask
for the same steps in the same order.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from agents.errors import EngineError, ProcessError
from cory_env import RewardError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds that ranks wait for one another, where nobody has said how long."""

_PAUSE = 0.05
"""Seconds between two looks at what is still missing."""

_OTHERS = 2.0
"""Seconds that a rank which has read of an error waits for what the others have met."""

_FAREWELL = 5.0
"""Seconds that a rank which has met an error waits until all have read of it."""

_MET = (ValueError, OSError, RewardError, EngineError)
"""Errors of a user or of the world, which ranks tell one another; others are faults of the code."""

_steps = itertools.count()


class _Shared(ValueError):
    """An error that all ranks know of."""


def agreed(step: str, own: Callable[[], T], *, patience: float = PATIENCE) -> T:
    """Return what `own` returns, once it has returned on every rank.

    Args:
        step: what ranks do, such as "the flags".
        own: what this rank does for it.
        patience: seconds to wait for the others.

    Raises:
        ValueError: on all ranks, if it is raised on one; names the rank, unless all say the same.
        ProcessError: if a rank does not come, or does something else.
    """
    if _size() == 1:
        return own()
    try:
        found = own()
    except _Shared:
        raise
    except _MET as error:
        _exchange(step, {"error": " ".join(str(error).split())}, patience)
        raise  # not reached: the own report is among those that it reads
    _exchange(step, {}, patience)
    return found


def of_first(step: str, own: Callable[[], T], *, patience: float = PATIENCE) -> T:
    """Return on every rank what `own` returns on rank 0, a value of JSON; only that rank calls it.

    So ranks need no disk in common.

    Raises:
        ValueError, ProcessError: as `agreed` does.
    """
    if _size() == 1:
        return own()
    report: dict[str, Any] = {}
    if _rank() == 0:
        try:
            report = {"value": own()}
        except _MET as error:
            report = {"error": " ".join(str(error).split())}
    return _exchange(step, report, patience)[0]["value"]


def expect_alike(
    step: str, own: Callable[[], Mapping[str, Any]], *, patience: float = PATIENCE
) -> None:
    """Check that values are the same on all ranks.

    Args:
        step: what they are of.
        own: returns values of JSON by their names; called where there are several ranks.
        patience: seconds to wait for the others.

    Raises:
        ValueError: on all ranks, if one differs; names it and the rank.
    """
    if _size() == 1:
        return
    first, *others = [
        report["value"] for report in _exchange(step, {"value": dict(own())}, patience)
    ]
    for rank, other in enumerate(others, 1):
        for name in [name for name in first if other.get(name) != first[name]]:
            raise _Shared(
                f"Expected {step} to be the same for all processes, got {name} {first[name]!r} for "
                f"process 0 and {other.get(name)!r} for process {rank}: give the same command, "
                "with the same code, on every machine."
            )


def _exchange(step: str, own: Mapping[str, Any], patience: float) -> list[dict[str, Any]]:
    """Return the reports of all ranks in rank order, or raise the errors in them."""
    number, size, store = next(_steps), _size(), _store(patience)
    store.set(
        f"{number}/{_rank()}", json.dumps({"step": step, "host": socket.gethostname(), **own})
    )
    reports: dict[int, dict[str, Any]] = {}
    deadline, failed = time.monotonic() + patience, False
    while len(reports) < size and time.monotonic() < deadline:
        for rank in [rank for rank in range(size) if rank not in reports]:
            if store.check([f"{number}/{rank}"]):
                reports[rank] = json.loads(store.get(f"{number}/{rank}"))
        if not failed and any("error" in report for report in reports.values()):
            # Most errors are everybody's: the others are about to say the same.
            failed, deadline = True, min(deadline, time.monotonic() + _OTHERS)
        time.sleep(_PAUSE if len(reports) < size else 0)
    if failed or any("error" in report for report in reports.values()):
        _farewell(store, number)
        raise _first_error(reports)
    if len(reports) < size:
        missing = ", ".join(str(rank) for rank in range(size) if rank not in reports)
        raise ProcessError(
            f"Expected {size} processes to begin within {patience:g} s, but process {missing} did "
            f"not come ({step}): look for what stopped it, or wait longer with --process-timeout."
        )
    _expect_one_step([reports[rank] for rank in range(size)])
    return [reports[rank] for rank in range(size)]


def _farewell(store: Store, number: int) -> None:
    """Wait until all ranks have read of an error: the store may end with the first that leaves."""
    read = store.add(f"{number}/read", 1)
    deadline = time.monotonic() + _FAREWELL
    while read < _size() and time.monotonic() < deadline:
        time.sleep(_PAUSE)
        read = store.add(f"{number}/read", 0)


def _first_error(reports: Mapping[int, Mapping[str, Any]]) -> _Shared:
    """Return the error of the first rank that has one, with its name unless all have the same."""
    errors = {rank: report["error"] for rank, report in reports.items() if "error" in report}
    rank = min(errors)
    if len(errors) == _size() and len(set(errors.values())) == 1:
        return _Shared(errors[rank])
    return _Shared(f"process {rank} on {reports[rank]['host']}: {errors[rank]}")


def _expect_one_step(reports: Sequence[Mapping[str, Any]]) -> None:
    for rank, report in enumerate(reports):
        if report["step"] != reports[0]["step"]:
            raise ProcessError(
                f"Expected all processes to do the same, got {reports[0]['step']} of process 0 and "
                f"{report['step']} of process {rank}: give the same command on every machine."
            )


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _size() -> int:
    """Return the number of ranks that a launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


@cache
def _store(patience: float) -> Store:
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '')}"
    try:
        store, _, _ = next(
            rendezvous("env://", _rank(), _size(), timeout=timedelta(seconds=patience))
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"Expected process 0 to be reached at {address} within {patience:g} s, got "
            f"{type(error).__name__}: check --main_process_ip and --main_process_port, and that "
            "nothing stands between the machines."
        ) from error
    return PrefixStore("cory", store)
