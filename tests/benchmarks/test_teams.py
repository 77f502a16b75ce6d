"""What a team's answers are worth, on answers that are written out."""

from __future__ import annotations

import numpy as np
import pytest

from agents.evaluation.answers import Answers
from benchmarks.teams import forms_of_one, second_answer


def _answers(numbers, right, length, kl):
    """Three answers (rows) to each query (columns), of one length and KL."""
    numbers, right = np.array(numbers), np.array(right)
    return Answers(
        texts=[[f"#### {number}" for number in row] for row in numbers],
        rewards=(numbers == right).astype(float),
        kls=np.full(numbers.shape, kl),
        lengths=np.full(numbers.shape, length),
    )


def test_a_policy_alone_votes_and_could_choose():
    # Queries whose answer is 1, with one, two and three right answers, and one with a tie of three.
    answers = _answers([[1, 1, 1, 1], [2, 1, 1, 2], [2, 2, 1, 3]], [1, 1, 1, 1], 5.0, 0.5)
    found = forms_of_one(answers)
    assert found["alone"].rewards == pytest.approx([1 / 3, 2 / 3, 1, 1 / 3])
    assert found["majority of three"].rewards == pytest.approx([0, 1, 1, 1 / 3])
    # One of C(3, 2) = 3 pairs misses the only right answer.
    assert found["either of two"].rewards == pytest.approx([2 / 3, 1, 1, 2 / 3])
    assert [form.tokens for form in found.values()] == [5, 15, 10]
    assert [form.kl for form in found.values()] == [0.5, 1.5, 1.0]


def test_a_second_answer_is_worth_its_own_reward_and_costs_both():
    first = _answers([[1], [2], [2]], [1], 5.0, 0.5)
    second = _answers([[1], [1], [2]], [1], 7.0, 0.25)
    form = second_answer(first, second)
    assert form.rewards == pytest.approx([2 / 3])
    assert (form.tokens, form.kl) == (12, 0.75)
