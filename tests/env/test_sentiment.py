import copy
import gzip
import math
import pickle
import time

import numpy as np
import pytest

from cory_env.rewards.sentiment import WEIGHTS, SentimentReward, features
from cory_env.types import Example

# The literal logits below are computed by hand from these weights and
# idf(good) = 1 + ln(8/4) = 1.693147, idf(not good) = 1 + ln(8/2) = 2.386294, idf(film) = 1.
TINY = [("", 0.5, 7), ("good", 2.0, 3), ("not good", -3.0, 1), ("film", 0.25, 7), ("!", 1.0, 1)]


def write_table(path, rows):
    text = "".join(f"{feature}\t{weight}\t{documents}\n" for feature, weight, documents in rows)
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture
def tiny(tmp_path):
    return SentimentReward(write_table(tmp_path / "tiny.tsv.gz", TINY))


@pytest.fixture(scope="module")
def shipped():
    return SentimentReward()


@pytest.mark.parametrize(
    ("text", "logit"),
    [
        ("", 0.5),
        ("entirely unknown words", 0.5),
        ("good", 2.5),
        ("film", 0.75),
        ("good film", 2.349210),  # 0.5 + (2·1.693147 + 0.25) / √(1.693147² + 1)
        ("not good", -0.789358),  # 0.5 + (2·1.693147 − 3·2.386294) / √(1.693147² + 2.386294²)
        ("Not good film", -0.639218),
        ("good!", 2.472898),
    ],
)
def test_logits_of_hand_made_weights_are_those_computed_by_hand(tiny, text, logit):
    assert tiny.logits([text])[0] == pytest.approx(logit, abs=1e-6)  # six decimals are written


def test_repeating_a_word_changes_nothing(tiny):
    np.testing.assert_array_equal(tiny.logits(["good good good film"]), tiny.logits(["good film"]))


def test_unknown_words_change_nothing(tiny):
    np.testing.assert_array_equal(tiny.logits(["a film so good"]), tiny.logits(["film good"]))


def test_features_are_lower_case_words_and_pairs_once_each_in_text_order():
    assert features("It's NOT good, not\ngood!") == [
        *("it's", "not", "good", "!"),
        *("it's not", "not good", "good not", "good !"),
    ]


def test_logits_equal_a_dense_brute_force_twin(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(8)]
    candidates = [*words, *(f"{a} {b}" for a in words for b in words)]
    names = [str(name) for name in rng.permutation(candidates)[:40]]
    weights, documents = rng.normal(size=40), rng.integers(1, 50, size=40)
    rows = [("", -0.25, 50), *zip(names, weights, documents, strict=True)]
    reward = SentimentReward(write_table(tmp_path / "random.tsv.gz", rows))
    texts = [" ".join(rng.choice(words, size=n)) for n in rng.integers(0, 12, size=200)]
    for text, logit in zip(texts, reward.logits(texts), strict=True):
        padded = f" {text} "
        present = np.array([f" {name} " in padded for name in names])
        inputs = present * (1 + np.log(51 / (1 + documents)))
        norm = np.linalg.norm(inputs)
        expected = -0.25 + (inputs @ weights / norm if norm else 0.0)
        assert logit == pytest.approx(expected, abs=1e-12)


def test_the_reward_scores_query_and_response_as_one_text(tiny):
    # "not" alone is unknown: only the text across the seam holds the pair.
    scores = tiny([Example("This is not"), Example("A film, go")], [" good", "od film"])
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [-0.789358, 2.349210], atol=1e-6)


def test_an_empty_batch_has_no_scores(tiny):
    assert tiny([], []).shape == (0,)


def test_another_number_of_responses_than_examples_is_refused(tiny):
    with pytest.raises(ValueError, match="got 2 examples and 1 responses"):
        tiny([Example("a"), Example("b")], ["c"])


def test_a_table_without_its_intercept_row_is_refused(tmp_path):
    path = write_table(tmp_path / "headless.tsv.gz", TINY[1:])
    with pytest.raises(ValueError, match=r"Expected the intercept.*got 'good'"):
        SentimentReward(path)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_a_copy_scores_alike(tiny, clone):
    assert clone(tiny).logits(["good film"]) == tiny.logits(["good film"])


def test_a_pickle_leaves_the_table_out(shipped):
    assert len(pickle.dumps(shipped)) < 1000


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("This film is excellent.", "This film is awful."),
        ("Great acting and a superb script.", "Bad acting and a terrible script."),
        ("A wonderful, touching story.", "A boring waste of time."),
        ("One of the best movies ever made!", "One of the worst movies ever made!"),
    ],
)
def test_praise_scores_above_zero_and_blame_below(shipped, positive, negative):
    scores = shipped.logits([positive, negative])
    assert scores[0] > 2
    assert scores[1] < -2


def test_an_empty_text_scores_the_shipped_intercept(shipped):
    with gzip.open(WEIGHTS, "rt", encoding="utf-8") as lines:
        intercept = float(next(lines).split("\t")[1])
    assert shipped([Example("")], [""])[0] == intercept
    assert abs(intercept) < 0.5  # as many positive as negative reviews


def test_the_shipped_table_is_well_formed_and_small():
    assert WEIGHTS.stat().st_size <= 2_000_000
    with gzip.open(WEIGHTS, "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    names = [name for name, _, _ in rows[1:]]
    num_documents = int(rows[0][2])
    assert len(set(names)) == len(names)
    assert all(len(name.split(" ")) in (1, 2) and name == name.lower() for name in names)
    assert all(0 < int(documents) <= num_documents for _, _, documents in rows)
    assert all(math.isfinite(float(weight)) for _, weight, _ in rows)


def test_a_short_text_takes_well_under_a_millisecond(shipped):
    texts = ["I liked this film, though it was a little slow towards the end, " * 2] * 200
    begun = time.perf_counter()
    shipped.logits(texts)
    # Some 20 µs measured; the bound only catches a change of order, such as a dense dot product.
    assert (time.perf_counter() - begun) / len(texts) < 1e-3
