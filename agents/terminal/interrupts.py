"""Signals that ask a process to end, at a moment of our choosing.

Ctrl-C, the `SIGTERM` of a scheduler, and the `SIGHUP` of a terminal that is closed. The exit code
of a command that one has ended is 128 plus its number, as shells have it: 130, 143, 129.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGPIPE = 13
"""Of a reader that is gone; Windows has the case, but no such signal."""


_SAME_S = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal has ended what was going on."""

    def __init__(self, number: int):
        """Keep the number of the signal."""
        super().__init__(number)
        self.number = number


def exit_code(number: int) -> int:
    """Return the exit code of a command that a signal has ended."""
    return 128 + number


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Let each of the signals raise `Interrupted` at once, so that cleaning up gets its turn."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled(stop):
        yield


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect the first signal, so that no iteration is cut; the second one raises.

    What follows within a second is the same one: launchers of several processes pass on what the
    terminal has already sent to all of them.
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
    """Return the signals that ask to end, without those that `nohup` and its kin keep away.

    SIGINT is there in any case: shells let background jobs ignore it, though not for good.
    """
    known = signal.Signals.__members__
    others = [known[name] for name in ("SIGTERM", "SIGHUP") if name in known]
    heard = [number for number in others if signal.getsignal(number) is not signal.SIG_IGN]
    return [signal.SIGINT, *heard]
