"""Standard streams whose failures do not end a run.

A character that a stream cannot encode becomes a question mark. When the reader of a stream goes
away (`| head`, a `tee` that is killed, a terminal that is closed), a callback is called once and
later output is dropped, as it is for a stream that was closed before the program began.
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
    """A text stream that never raises.

    Args:
        stream: where text is written; all other attributes are taken from it.
        lost: called once, when writing fails for good.
    """

    def __init__(self, stream: Any, lost: Callable[[], None]):
        self.stream = stream
        self._lost = lost

    def write(self, text: str) -> int:
        """Write a text, with question marks for what the encoding lacks."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.write(text.encode(encoding, "replace").decode(encoding))
        except OSError:
            self._abandon()
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self.stream.flush()
        except OSError:
            self._abandon()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream."""
        return getattr(self.stream, name)

    def _abandon(self) -> None:
        """Send the rest of the buffer and all later output to the null device."""
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())
        self._lost()


def stop() -> None:
    """Raise `Interrupted` as if SIGPIPE had arrived."""
    raise Interrupted(SIGPIPE)


def go_on() -> None:
    """Tell the user that the run goes on without output."""
    print("The output is not read any more: going on without it.", file=sys.stderr)


@contextmanager
def lasting_streams(lost: Callable[[], None]) -> Iterator[None]:
    """Replace the standard streams by lasting ones.

    Args:
        lost: called when the reader of the output is gone; the innermost context counts.
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
    """Open closed descriptors 0 to 2 on the null device, or the next files would get them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
