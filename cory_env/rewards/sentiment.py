"""How positive a text sounds: a linear model on words and word pairs, small enough to ship.

The model is a logistic regression on binary TF-IDF features, trained on 24,877 film reviews by
`recipes/sentiment.py`; it needs no torch and scores a short text in some 20 microseconds. A word
counts once however often it is repeated, so that a policy gains nothing by repeating itself. What
it does not understand is grammar: "not good" lowers the score, and "not bad" does, too.

The weights are a gzip'ed table with a row `feature, weight, documents` per feature, where
`documents` is the number of training texts that hold it. The first row, whose feature is empty,
holds the intercept and the number of all training texts.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cory_env.types import Example, Float64Array

WEIGHTS = Path(__file__).parent.parent / "assets" / "sentiment.tsv.gz"

WORD = re.compile(r"\w+(?:'\w+)?|[!?]")
"""What counts as a word, in lower-cased text: "don't" is one, and so are "!" and "?"."""


class SentimentReward:
    r"""The logit of "positive" of `query + response`, the text that a reader sees.

    With K the features (words and pairs of neighbouring words) that stand in the text and in the
    table, each taken once, w their weights, b the intercept, N the number of training texts and
    N_f how many of them hold f:

        logit = b + Σ_{f ∈ K} w_f idf_f / √(Σ_{f ∈ K} idf_f²),   idf_f = 1 + ln((1 + N) / (1 + N_f))

    The norm runs over K alone. The weights were fitted under this very norm, after the choice of
    the features, so that the text model is the trained one and not an approximation to it: a word
    outside the table has no influence at all. A text without any known feature scores b.

    Args:
        weights: the table to load.
    """

    def __init__(self, weights: Path = WEIGHTS):
        self._path = weights
        self._model = _read_model(weights)

    def __call__(self, examples: Sequence[Example], responses: Sequence[str]) -> Float64Array:
        """Score a batch.

        Args:
            examples: (B,) the task items; only their queries are read.
            responses: (B,) the texts that continue the queries.

        Returns:
            (B,) logits: positive where the text sounds positive.

        Raises:
            ValueError: if there is not one response per example.
        """
        if len(examples) != len(responses):
            raise ValueError(
                "Expected one response per example, "
                f"got {len(examples)} examples and {len(responses)} responses."
            )
        pairs = zip(examples, responses, strict=True)
        return self.logits([example.query + response for example, response in pairs])

    def logits(self, texts: Sequence[str]) -> Float64Array:
        """Return the logit of "positive" of each text: (B,)."""
        return np.array([self._model.logit(text) for text in texts], np.float64)

    def __reduce__(self) -> tuple[type[SentimentReward], tuple[Path]]:
        # The table stays out of pickles and deep copies of whatever holds a reward.
        return type(self), (self._path,)


def features(text: str) -> list[str]:
    """Return the distinct words and pairs of neighbouring words, words first, in text order."""
    words = WORD.findall(text.lower())
    # A dict, not a set: the order of the sum, and so its last bits, must not hang on string hashes.
    return list(dict.fromkeys([*words, *map(" ".join, pairwise(words))]))


class _Model(NamedTuple):
    intercept: float
    terms: dict[str, tuple[float, float]]
    """Feature → (weight times idf, idf squared)."""

    def logit(self, text: str) -> float:
        dot = square = 0.0
        for feature in features(text):
            if term := self.terms.get(feature):
                dot += term[0]
                square += term[1]
        return self.intercept + dot / math.sqrt(square) if square else self.intercept


@cache
def _read_model(path: Path) -> _Model:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = (line.rstrip("\n").split("\t") for line in lines)
        feature, intercept, num_documents = next(rows)
        if feature:
            raise ValueError(
                f"Expected the intercept, under an empty feature, in row 1 of {path}, "
                f"got {feature!r}: write the table with recipes/sentiment.py."
            )
        terms: dict[str, tuple[float, float]] = {}
        for feature, weight, documents in rows:
            idf = 1 + math.log((1 + int(num_documents)) / (1 + int(documents)))
            terms[feature] = float(weight) * idf, idf * idf
    return _Model(float(intercept), terms)
