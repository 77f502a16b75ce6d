"""How many threads a command computes with, and how they wait for one another.

PyTorch takes a thread for every core that it sees, and OpenMP's threads meet after every operation:
one that has to wait for a core holds up the others, and those that wait keep busy the cores that it
needs. So there is one for every core that is free, and one that waits soon sleeps.
"""

from __future__ import annotations

import os
import sys

import psutil
from joblib import cpu_count

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What says how threads of OpenMP wait: of the standard, of GNU and of LLVM (and Intel)."""

SPINS = "1000"
"""How often a thread of GNU's OpenMP, which PyTorch has on Linux, looks whether it may go on before
it sleeps: 20 to 50 µs, as long as Python takes from one operation to the next. Its own default is
some milliseconds, which is longer than the kernel lets others wait for a core."""

_LOOK_S = 0.5
"""How long the load is looked at."""


def cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's quota."""
    return cpu_count()


def use_threads(asked: str) -> str:
    """Set the number of threads of this process, before PyTorch is loaded if it is not yet.

    Args:
        asked: a number, or `auto`: that of OMP_NUM_THREADS if it is set, or else as many as cores
            are free. What a launcher of several processes has put there is at most their share.

    Returns:
        What to say of it: a line where the user has not chosen.

    Raises:
        ValueError: if it is neither.
    """
    if not (asked == "auto" or (asked.isdecimal() and int(asked))):
        raise ValueError(f"Expected threads to be auto or a number of at least 1, got {asked!r}.")
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS
    count, line = (int(asked), "") if asked != "auto" else _auto()
    os.environ["OMP_NUM_THREADS"] = str(count)
    if torch := sys.modules.get("torch"):  # a plug-in has loaded it
        torch.set_num_threads(count)
    return line


def _auto() -> tuple[int, str]:
    """Return a number of threads, and what to say of it."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    set_before = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # the others: nested teams
    chosen = int(set_before) if set_before.isdecimal() else 0
    if chosen and processes == 1:
        return chosen, ""
    usable = cpu_count(only_physical_cores=True)  # PyTorch takes no second thread of a core, either
    share = max(1, usable // processes)
    if 0 < chosen <= share:
        return chosen, ""
    if processes > 1:  # they begin together: each would take the others' start for load
        return share, _line(share, f"{processes} processes share {_counted(usable, 'core')}")
    busy, seen = _load()
    count = max(1, min(usable, round(seen - busy)))
    return count, _line(
        count, f"{_counted(usable, 'core')} may be used, {busy:.1f} of {seen} are busy"
    )


def _load() -> tuple[float, int]:
    """Return how many of the cores that this process is bound to are busy, and how many it is."""
    percents = psutil.cpu_percent(interval=_LOOK_S, percpu=True)
    if hasattr(os, "sched_getaffinity"):
        percents = [percents[core] for core in os.sched_getaffinity(0)]
    return sum(percents) / 100, len(percents)


def _line(count: int, why: str) -> str:
    return f"{_counted(count, 'thread')}: {why}. --threads N takes another number."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
