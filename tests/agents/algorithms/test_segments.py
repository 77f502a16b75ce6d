"""Where responses are cut."""

from __future__ import annotations

import pytest

from agents.algorithms.segments import Segments

TEXT = {1: "A", 2: " b", 3: "; ", 4: ";c", 5: "\n", 6: "\n\nd", 7: "e. F", 8: ' "g!"', 0: ""}


def read(ids):
    return "".join(TEXT[i] for i in ids)


@pytest.mark.parametrize(
    ("segment", "ids", "starts"),
    [
        ("tokens:1", [1, 2, 0], [0, 1, 2]),
        ("tokens:2", [1, 2, 1, 2, 0], [0, 2, 4]),
        ("tokens:3", [1, 2, 0], [0]),
        ("tokens:9", [0], [0]),
        ("text:;", [1, 3, 1, 4, 2, 0], [0, 2, 4]),
        ("text:;", [1, 2, 0], [0]),
        ("text:; ", [1, 3, 2], [0, 2]),
        ("text:A b", [1, 2, 2, 0], [0, 2]),
        ("text:b", [1, 2], [0]),  # the mark ends the response: nothing is left to say
        ("text:b", [1, 2, 0], [0, 2]),  # but to end it
        ("newline", [1, 5, 5, 6, 1, 0], [0, 4]),
        ("newline", [1, 2, 0], [0]),
        ("sentence", [7, 1, 8, 2, 0], [0, 1, 3]),
        ("sentence", [1, 2, 0], [0]),
    ],
)
def test_segments_by_hand(segment, ids, starts):
    assert Segments.parse(segment).starts(ids, read) == starts


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ("tokens:0", "NUMBER at least 1, got 'tokens:0'"),
        ("tokens:x", "NUMBER at least 1, got 'tokens:x'"),
        ("tokens", "newline, sentence, tokens:NUMBER or text:MARK, got 'tokens'"),
        ("text:", "got 'text:': pass --segment tokens:4"),
        ("lines", "got 'lines'"),
        ("", "got ''"),
    ],
)
def test_what_is_no_segment_is_one_line(segment, message):
    with pytest.raises(ValueError, match=message):
        Segments.parse(segment)
