"""The figures of a lesson, read off metrics that are written out."""

from __future__ import annotations

import pytest

from benchmarks.lesson import FORMS, Arguments, ShuffledLesson, configure, figures
from cory_env.registry import TASKS
from cory_env.tasks.lesson import LessonTask


def _row(first, last, student="llm_1"):
    teacher = {"llm_0": "llm_1", "llm_1": "llm_0"}[student]
    return {
        f"{student}/role": "observer_0",
        f"{student}/task_reward_1": first,
        f"{student}/task_reward_2": last,
        f"{teacher}/role": "pioneer_0",
        f"{teacher}/task_reward_1": 0.0,
        f"{teacher}/task_reward_2": 0.0,
    }


def test_a_run_is_read_by_means_of_the_student_over_ten_iterations():
    rows = [_row(0.0, 0.0)] * 10 + [_row(0.5, 1.0, "llm_0")] * 5 + [_row(0.5, 1.0)] * 5
    assert figures(rows, 0.75) == pytest.approx((0.5, 1.0, 0.5, 18))  # 8 of 10 iterations at 1
    assert figures(rows, 1.1).learnt is None
    assert figures(rows[:3], 0.75) == (0.0, 0.0, 0.0, None)


def test_shuffled_marks_say_nothing_and_all_else_is_as_in_a_lesson():
    lesson, shuffled = LessonTask(length=1), ShuffledLesson(length=1)
    marks = {"+": 0, "-": 0}
    for query in lesson.alphabet:
        for message in lesson.alphabet:
            for answer in lesson.alphabet:
                right, wrong = (
                    shuffled.feedback_prompt(query, [message, answer], ["", mark]) for mark in "+-"
                )
                assert right == wrong
                told = lesson.feedback_prompt(query, [message, answer], ["", right[-2]])
                assert right == told
                marks[right[-2]] += 1
    assert sum(marks.values()) == 512
    assert 206 < marks["+"] < 306  # 256 ± 4.5 deviations of 512 fair coins


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_the_preset_but_for_what_it_says(form, monkeypatch):
    monkeypatch.setitem(TASKS, ShuffledLesson.name, ShuffledLesson)
    config = configure(Arguments(iterations=3), form, 7)
    assert (config.iterations, config.seed, config.rounds) == (3, 7, 2)
    for field, value in FORMS[form].items():
        assert getattr(config, field) == value
