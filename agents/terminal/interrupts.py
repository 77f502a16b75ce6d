"""Handlers for the signals that ask a process to end: SIGINT, SIGTERM and SIGHUP.

Ctrl-C sends the first, a scheduler the second, a terminal that closes the third. A signal raises
`Interrupted` at once (`prompt_interrupts`), or after the iteration that it arrives in
(`deferred_interrupts`). What is saved then is decided by the training loop. Exit codes are those of
POSIX shells: 128 plus the number of the signal, so 130, 143 and 129.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGPIPE = 13
"""Number of the signal for a reader that has closed our output. Windows has no such signal, but its
readers go away, too."""


_SAME_S = 1.0
"""Seconds after the first signal in which further ones count as copies of it."""


class Interrupted(KeyboardInterrupt):
    """A signal has asked the process to end; `number` is the signal's."""

    def __init__(self, number: int):
        """Keep the number of the signal."""
        super().__init__(number)
        self.number = number


def exit_code(number: int) -> int:
    """Return the exit code of a command that was ended by a signal."""
    return 128 + number


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Raise `Interrupted` as soon as a signal arrives, so that `finally` blocks run."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled(stop):
        yield


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Record the first signal, so that the iteration can finish; raise `Interrupted` on the second.

    A signal within a second of the first counts as a copy of it: the terminal sends Ctrl-C to all
    processes, and a launcher forwards it to them once more.
    """
    caught: list[int] = []
    begun = -math.inf

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if caught and time.monotonic() - begun > _SAME_S:
            raise Interrupted(number)
        if not caught:
            caught.append(number)
            begun = time.monotonic()

    with _handled(note):
        yield caught


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number in _asking()}
    except ValueError:  # not in the main thread, which is the one that signals reach
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def _asking() -> list[signal.Signals]:
    """Return the signals to handle: all but those that are ignored, as `nohup` does with SIGHUP.

    SIGINT is always handled: a shell makes its background jobs ignore it, and they may come to the
    foreground later.
    """
    known = signal.Signals.__members__
    others = [known[name] for name in ("SIGTERM", "SIGHUP") if name in known]
    heard = [number for number in others if signal.getsignal(number) is not signal.SIG_IGN]
    return [signal.SIGINT, *heard]
