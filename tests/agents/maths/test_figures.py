"""Distinct-2 in any script; pass@k and majority@k: literal values, the mean over every subset."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from agents.maths.figures import distinct_2, majority_at_k, pass_at_k


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a b c", "a b d"], 3 / 4),
        (["a\u00a0b\n\tc, a  b"], 3 / 4),
        (["word", ""], 0.0),
        (["电影很好看"], 4 / 4),
        (["很好很好很好"], 2 / 5),
        (["好好好好好", "好好好好好"], 1 / 8),
        (["𠮷𠮷𠮷"], 1 / 2),
        (["えいが", "カメラ"], 4 / 4),
        (["ดีดีดี"], 2 / 5),
        (["ດີດີດີ"], 2 / 5),
        (["ល្អល្អ"], 3 / 5),
        (["ကကက"], 1 / 2),
        (["영화 영화 영화"], 1 / 2),
        (["I like 苹果 2", "I like 苹果 3"], 5 / 8),
    ],
)
def test_distinct_2_by_hand(texts, expected):
    assert distinct_2(texts) == expected


def test_collapse_shows_in_a_script_without_spaces():
    varied = ["这部电影的故事很感人", "演员的表演非常出色", "音乐和画面都让人难忘"]
    assert distinct_2(varied) > 0.9
    assert distinct_2(["非常好看非常好看非常好看"] * 3) < 0.2


def test_words_between_spaces_are_those_of_split():
    texts = ["The film, well -- it's\x1c5/5!", "naïve\u2003Größe привет мир", "a\u3000b שלום"]
    for text in texts:
        assert distinct_2([text]) == 1.0
        assert distinct_2([text, text]) == 0.5
        repeated = " ".join(text.split() * 2)
        assert distinct_2([repeated]) == len(text.split()) / (2 * len(text.split()) - 1)


@pytest.mark.parametrize(
    ("count", "correct", "k", "expected"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),
        (4, 2, 2, 5 / 6),
        (5, 2, 3, 9 / 10),
        (8, 6, 4, 1.0),
        (200, 3, 100, 1 - (100 * 99 * 98) / (200 * 199 * 198)),
    ],
)
def test_pass_at_k_of_known_cases(count, correct, k, expected):
    # Exact integers and one division: rounding alone.
    assert pass_at_k(count, correct, k) == pytest.approx(expected, rel=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_response():
    for count in range(1, 8):
        for correct in range(count + 1):
            for k in range(1, count + 1):
                hits = [min(s) < correct for s in combinations(range(count), k)]
                assert pass_at_k(count, correct, k) == pytest.approx(np.mean(hits), rel=1e-12)


def test_pass_at_k_of_a_subset_is_unbiased_where_the_naive_estimate_is_not():
    rate, count, k = 0.3, 4, 2
    chances = [
        (c, len(list(combinations(range(count), c))) * rate**c * (1 - rate) ** (count - c))
        for c in range(count + 1)
    ]
    truth = 1 - (1 - rate) ** k
    assert sum(p * pass_at_k(count, c, k) for c, p in chances) == pytest.approx(truth, rel=1e-12)
    naive = sum(p * (1 - (1 - c / count) ** k) for c, p in chances)
    assert naive < truth - 0.04


@pytest.mark.parametrize(
    ("count", "correct", "others", "k", "expected"),
    [
        (3, 2, (1,), 3, 1.0),
        (3, 1, (2,), 3, 0.0),
        (3, 1, (1, 1), 3, 1 / 3),
        (2, 1, (1,), 2, 1 / 2),
        (4, 1, (), 2, 1 / 2),
        (3, 0, (), 3, 0.0),
        (4, 2, (2,), 3, 1 / 2),
    ],
    ids=["wins", "loses", "three tie", "two tie", "silent have no vote", "nobody votes", "half"],
)
def test_majority_at_k_of_known_cases(count, correct, others, k, expected):
    assert majority_at_k(count, correct, others, k) == pytest.approx(expected, rel=1e-12)


def vote(subset: tuple[str | None, ...]) -> float:
    votes = Counter(answer for answer in subset if answer is not None)
    winners = [answer for answer in votes if votes[answer] == max(votes.values())]
    return winners.count("right") / len(winners) if winners else 0.0


def test_majority_at_k_is_the_mean_over_every_subset():
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = int(rng.integers(1, 9))
        drawn = rng.choice(
            ["right", "a", "b", "c", None], size=count, p=[0.3, 0.25, 0.2, 0.1, 0.15]
        )
        answers = [answer if answer is None else str(answer) for answer in drawn]
        groups = Counter(answer for answer in answers if answer is not None)
        correct = groups.pop("right", 0)
        for k in range(1, count + 1):
            expected = np.mean([vote(subset) for subset in combinations(answers, k)])
            found = majority_at_k(count, correct, tuple(groups.values()), k)
            assert found == pytest.approx(expected, rel=1e-12), (answers, k)


def test_one_vote_is_one_response():
    assert majority_at_k(8, 3, (2, 1), 1) == pytest.approx(pass_at_k(8, 3, 1), rel=1e-12)


@pytest.mark.parametrize(("correct", "k"), [(1, 0), (1, 4), (4, 1), (-1, 1)])
def test_numbers_out_of_range_are_refused(correct, k):
    with pytest.raises(ValueError, match="Expected"):
        pass_at_k(3, correct, k)
    with pytest.raises(ValueError, match="Expected"):
        majority_at_k(3, correct, (), k)
