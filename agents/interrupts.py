"""Ctrl-C at a moment of our choosing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect the first interrupt, so that no iteration is cut; the second one raises."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: nobody presses Ctrl-C there
        yield caught
        return
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
