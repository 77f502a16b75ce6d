"""The figures of the reviser's gate, on answers that are written out."""

from __future__ import annotations

import numpy as np

from benchmarks.reviser import Played, _other_number, _same_number

FIRST = Played(np.array([0.0, 0.0, 0.0]), [1, 2, None])
"""Three wrong answers; the last has no number."""


def test_the_first_answer_with_another_number_counts_or_else_the_last():
    same = Played(np.array([0.0, 0.0, 0.0]), [1, 2, None])
    right = Played(np.array([1.0, 0.0, 1.0]), [3, 2, 5])
    wrong = Played(np.array([0.0, 0.0, 0.0]), [4, 2, 6])
    assert _other_number(FIRST, [same, right, wrong]).tolist() == [1.0, 0.0, 1.0]
    assert _other_number(FIRST, [wrong, right]).tolist() == [0.0, 0.0, 0.0]
    assert _other_number(FIRST, [same, same]).tolist() == [0.0, 0.0, 0.0]


def test_answers_without_a_number_are_the_same():
    other = Played(np.array([1.0, 0.0, 0.0]), [3, 2, None])
    assert _same_number(FIRST, other).tolist() == [0.0, 1.0, 1.0]
