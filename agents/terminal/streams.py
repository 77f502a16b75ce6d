"""Standard streams whose failures do not end a run.

A character that a stream cannot encode becomes a question mark. A reader that goes away (`| head`,
a `tee` that is killed, a terminal that is closed) is noticed once; later output goes nowhere. So
it is with streams that were closed before we began.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agents.terminal.interrupts import SIGPIPE, Interrupted


class LastingStream:
    """A text stream that raises nothing of its own.

    Args:
        stream: what is written to; everything else about this one is asked of it.
        lost: called once, when it cannot be written to any more.
    """

    def __init__(self, stream: Any, lost: Callable[[], None]):
        self.stream = stream
        self._lost = lost

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.write(text.encode(encoding, "replace").decode(encoding))
        except OSError:
            self._abandon()
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, if it can be."""
        try:
            self.stream.flush()
        except OSError:
            self._abandon()

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has."""
        return getattr(self.stream, name)

    def _abandon(self) -> None:
        """Send what is still in the buffer, and all that follows, nowhere."""
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())
        self._lost()


def stop() -> None:
    """End the command, as the signal would that filters end by."""
    raise Interrupted(SIGPIPE)


def go_on() -> None:
    """Say that nothing more will be shown."""
    print("The output is not read any more: going on without it.", file=sys.stderr)


@contextmanager
def lasting_streams(lost: Callable[[], None]) -> Iterator[None]:
    """Replace the standard streams by lasting ones.

    Args:
        lost: what to do once nobody reads the output; within another such context, this one counts.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    _fill_gaps()
    sys.stdin = sys.stdin or io.StringIO()
    sys.stdout = LastingStream(_bare(sys.stdout), lost)
    sys.stderr = LastingStream(_bare(sys.stderr), lambda: None)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def _bare(stream: Any) -> Any:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    return stream.stream if isinstance(stream, LastingStream) else stream


def _fill_gaps() -> None:
    """Open what was closed before we began, or files of the run would take the place of streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
