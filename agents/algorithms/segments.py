"""Where a response is cut into segments, whose ends are states worth a value; loads no torch."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WAYS = "newline, sentence, tokens:NUMBER or text:MARK"

_ENDS = {"newline": r"\n+", "sentence": r"[.!?]+[\"')\]]*(?=\s|$)"}


@dataclass(frozen=True, slots=True)
class Segments:
    """How responses are cut: after so many tokens, or where their text has a mark."""

    every: int = 0
    """Tokens of a segment; 0 to look for marks."""
    mark: str = ""
    """Regular expression of what ends a segment."""

    @classmethod
    def parse(cls, text: str) -> Segments:
        """Read `newline`, `sentence`, `tokens:4` or `text:;`.

        Raises:
            ValueError: if it is none of them.
        """
        way, colon, value = text.partition(":")
        if text in _ENDS:
            return cls(mark=_ENDS[text])
        if way == "tokens" and value.isdecimal() and int(value):
            return cls(every=int(value))
        if way == "text" and value:
            return cls(mark=re.escape(value))
        number = ", NUMBER at least 1" if way == "tokens" and colon else ""
        raise ValueError(
            f"Expected segment to be {WAYS}{number}, got {text!r}: pass --segment tokens:4."
        )

    def starts(self, ids: Sequence[int], read: Callable[[Sequence[int]], str]) -> list[int]:
        """Return after how many tokens the segments of a response begin: 0 is the first.

        A segment goes on to the token that completes its mark; the last one ends with the response.

        Args:
            ids: of the response, its end token included.
            read: from tokens to their text.
        """
        if self.every:
            return [*range(0, len(ids), self.every)]
        places = [match.end() for match in re.finditer(self.mark, read(ids))]
        lengths = range(len(ids) + 1)
        cuts = [bisect_left(lengths, at, key=lambda n: len(read(ids[:n]))) for at in places]
        return sorted({0, *(cut for cut in cuts if cut < len(ids))})
