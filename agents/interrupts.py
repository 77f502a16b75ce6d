"""Ctrl-C at a moment of our choosing."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SAME_S = 1.0


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect the first interrupt, so that no iteration is cut; the second one raises.

    What follows within a second is the same one: launchers of several processes pass on what the
    terminal has already sent to all of them.
    """
    caught: list[int] = []
    begun = -math.inf

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if caught and time.monotonic() - begun > _SAME_S:
            raise KeyboardInterrupt
        if not caught:
            caught.append(number)
            begun = time.monotonic()

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: nobody presses Ctrl-C there
        yield caught
        return
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
