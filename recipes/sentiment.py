"""Train the sentiment reward: logistic regression on binary TF-IDF of words and word pairs.

    python -m recipes.sentiment train    --data DIR/imdb     # a minute on one core
    python -m recipes.sentiment evaluate --data DIR/imdb     # accuracy, speed, range of the scores

`train` fits all features that stand in three or more training reviews, keeps the heaviest 40,000,
fits those once more, writes `cory_env/assets/sentiment.tsv.gz` and checks that the reward reads
back as the model that scikit-learn has fitted. Reviews that also stand in test are left out.
The inverse regularisation C sets the scale of the logits: test accuracy stays within 0.3 points
for C in [1, 4], and 4 gives a twenty-word rave about +7, mild praise about +3.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from cory_env.rewards.sentiment import WEIGHTS, WORD, SentimentReward
from recipes.reviews import Review, read_reviews

ROUNDING = 1e-4
"""Largest difference of a logit that weights of five decimals may cause: 5e-6 · ‖x‖₁ on |x| = 1."""
SHORT_WORDS = 20
"""Words of a query and its response together, about."""

EXAMPLES = (
    "This film is excellent.",
    "is excellent.",
    "This film was a boring waste of time",
    "This film was released in 1994. Two brothers run a small shop in New York.",
    "I liked this film. The acting was good and the story kept me interested until the end, "
    "though it was slow.",
    "I absolutely loved this film! One of the best movies ever made, with wonderful performances "
    "and a beautiful story. Highly recommended!",
    "This is the worst movie I have ever seen. The acting is terrible and the plot makes no "
    "sense. Avoid it!",
    "excellent excellent excellent excellent excellent excellent excellent excellent",
    "The movie is not good.",
    "The movie is not bad at all.",
    "",
)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the model and write its weights."""

    data: Path
    """Folder of the review files."""
    out: Path = WEIGHTS
    num_features: int = 40_000
    """How many features to keep."""
    min_documents: int = 3
    """Training reviews that must hold a feature."""
    inverse_regularization: float = 4.0
    """The C of scikit-learn."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Print accuracy, size, speed and the range of the scores."""

    data: Path
    """Folder of the review files."""
    weights: Path = WEIGHTS


# ---------------------------------------------------------------- training


def labels(reviews: Sequence[Review]) -> np.ndarray:
    """Return the labels: (N,) int, 1 positive."""
    return np.array([review.label for review in reviews], np.int64)


def build_vectorizer(**options: Any) -> TfidfVectorizer:
    """Build scikit-learn's twin of `cory_env.rewards.sentiment.features` and its norm."""
    return TfidfVectorizer(token_pattern=WORD.pattern, ngram_range=(1, 2), binary=True, **options)


def choose_features(args: Train, texts: list[str], targets: np.ndarray) -> list[str]:
    """Return the features with the heaviest weights in a fit of all, in alphabetical order."""
    vectorizer = build_vectorizer(min_df=args.min_documents, dtype=np.float32)
    inputs = vectorizer.fit_transform(texts)
    weights = np.ravel(fit(args, inputs, targets).coef_)
    names = vectorizer.get_feature_names_out()
    print(f"{len(names):,} features in {args.min_documents} or more of {len(texts):,} reviews")
    return sorted(names[np.argsort(-np.abs(weights), kind="stable")[: args.num_features]])


def fit(args: Train, inputs: object, targets: np.ndarray) -> LogisticRegression:
    """Fit a logistic regression; liblinear's primal solver draws no random numbers."""
    model = LogisticRegression(C=args.inverse_regularization, solver="liblinear", tol=1e-6)
    return model.fit(inputs, targets)


def write_weights(path: Path, rows: Sequence[tuple[str, float, int]]) -> None:
    """Write the table that `SentimentReward` reads; its bytes depend on the rows alone."""
    lines = (f"{feature}\t{weight:.5f}\t{documents}\n" for feature, weight, documents in rows)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as archive:
        archive.write("".join(lines).encode())


def train(args: Train) -> None:
    """Choose the features, fit their weights, write them and check the file."""
    test_texts = [review.text for review in read_reviews(args.data, "test")]
    in_test = set(test_texts)
    reviews = [review for review in read_reviews(args.data, "train") if review.text not in in_test]
    texts, targets = [review.text for review in reviews], labels(reviews)
    kept = choose_features(args, texts, targets)
    vectorizer = build_vectorizer(vocabulary=kept)
    inputs = vectorizer.fit_transform(texts)
    model = fit(args, inputs, targets)
    documents = inputs.getnnz(axis=0)
    intercept = ("", float(np.ravel(model.intercept_)[0]), len(texts))
    write_weights(args.out, [intercept, *zip(kept, np.ravel(model.coef_), documents, strict=True)])
    expected = model.decision_function(vectorizer.transform(test_texts))
    difference = float(np.abs(SentimentReward(args.out).logits(test_texts) - expected).max())
    print(f"{args.out}: {len(kept):,} features, {args.out.stat().st_size:,} bytes")
    print(f"largest difference to scikit-learn on the test reviews: {difference:.1e}")
    if difference > ROUNDING:
        raise SystemExit(f"Expected at most {ROUNDING:.0e}: the reward is not the trained model.")


# ---------------------------------------------------------------- looking at the result


def microseconds(reward: SentimentReward, texts: list[str]) -> float:
    """Return the time per text, the best of five passes."""
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        reward.logits(texts)
        seconds.append(time.perf_counter() - begun)
    return 1e6 * min(seconds) / len(texts)


def evaluate(args: Evaluate) -> None:
    """Print the figures of the model."""
    reward = SentimentReward(args.weights)
    reviews = read_reviews(args.data, "test")
    whole, targets = [review.text for review in reviews], labels(reviews)
    short = [" ".join(text.split()[:SHORT_WORDS]) for text in whole]
    print(f"{args.weights.name}: {args.weights.stat().st_size:,} bytes")
    for name, texts in ((f"first {SHORT_WORDS} words", short), ("whole", whole)):
        scores = reward.logits(texts)
        low, median, high = np.percentile(scores, [1, 50, 99])
        accuracy = np.mean((scores > 0) == targets)
        print(
            f"{len(texts):,} test reviews, {name}: accuracy {accuracy:.2%}, "
            f"{microseconds(reward, texts[:5000]):.0f} µs a text, mean {scores.mean():+.2f}, "
            f"std {scores.std():.2f}, percentiles 1/50/99 {low:+.2f} {median:+.2f} {high:+.2f}"
        )
    for text, score in zip(EXAMPLES, reward.logits(EXAMPLES), strict=True):
        print(f"{score:+6.2f}  {text!r}")


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)

if __name__ == "__main__":
    match tyro.cli(Command, description=__doc__):  # type: ignore[arg-type]
        case Train() as chosen:
            train(chosen)
        case Evaluate() as chosen:
            evaluate(chosen)
