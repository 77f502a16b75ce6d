"""Write the query files of the `imdb` task: openings of film reviews, two to eight tokens long.

    python -m recipes.queries --data DIR/imdb

A query is the first n tokens of a review, n uniform on 2..8 as in the CORY reference code
(`LengthSampler(2, 8)` of TRL), in the tokens of the embedded tokenizer. Every line of a file is
another query, and no line of the test file stands in the train file: held out means unseen. The
train file is deduplicated, too: with the commonest openings ("This movie", 2 tokens) repeated, it
would follow another distribution than a test file that cannot hold any of them. Lines are shuffled
because the data set lists one class after the other. Same data and seed, same bytes.

No line is longer than eight words or than half of its review.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tokenizers import Tokenizer

from recipes.reviews import read_reviews

ASSETS = Path(__file__).parent.parent / "cory_env" / "assets"
MIN_TOKENS, MAX_TOKENS = 2, 8
MAX_WORDS = 8


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Where to read and write."""

    data: Path
    """Folder of the review files."""
    tokenizer: Path = ASSETS / "tokenizer.json"
    out: Path = ASSETS
    """Where `imdb_train.txt.gz` and `imdb_test.txt.gz` go."""
    seed: int = 0


def opening(tokenizer: Tokenizer, ids: list[int], count: int) -> str | None:
    """Decode the first `count` tokens of a review, or return None if they make no fit query.

    Args:
        tokenizer: the embedded tokenizer.
        ids: the tokens of the whole review, without special ones.
        count: how many of them to keep, in [MIN_TOKENS, MAX_TOKENS].
    """
    if len(ids) < 2 * MAX_TOKENS:
        return None
    text = tokenizer.decode(ids[:count])
    # A cut through a multi-byte character decodes to U+FFFD, a cut before a digit leaves a space.
    whole = "\ufffd" not in text and text == text.strip()
    return text if whole and text.isprintable() and 0 < len(text.split()) <= MAX_WORDS else None


def openings(tokenizer: Tokenizer, texts: list[str], rng: np.random.Generator) -> list[str]:
    """Return the distinct queries of `texts`, shuffled."""
    counts = rng.integers(MIN_TOKENS, MAX_TOKENS + 1, size=len(texts))
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    found = (
        opening(tokenizer, encoding.ids, int(count))
        for encoding, count in zip(encodings, counts, strict=True)
    )
    queries = list(dict.fromkeys(query for query in found if query is not None))
    return [queries[i] for i in rng.permutation(len(queries))]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a gzip file whose bytes depend on the lines alone."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as archive:
        archive.write("".join(f"{line}\n" for line in lines).encode())


def describe(path: Path, tokenizer: Tokenizer) -> str:
    """Read a query file back and summarise it."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        queries = file.read().splitlines()
    encodings = tokenizer.encode_batch(queries, add_special_tokens=False)
    tokens = [len(encoding.ids) for encoding in encodings]
    words = [len(query.split()) for query in queries]
    if max(words) > MAX_WORDS:
        raise SystemExit(f"Expected at most {MAX_WORDS} words a line in {path}, got {max(words)}.")
    return (
        f"{path}: {len(queries):,} queries ({len(set(queries)):,} distinct), "
        f"{path.stat().st_size:,} bytes, {min(words)} to {max(words)} words, "
        f"{min(tokens)} to {max(tokens)} tokens, {np.mean(tokens):.2f} on average"
    )


def main(args: Queries) -> None:
    """Write both files and print what is in them."""
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    test_texts = [review.text for review in read_reviews(args.data, "test")]
    in_test = set(test_texts)
    train_texts = [
        review.text for review in read_reviews(args.data, "train") if review.text not in in_test
    ]
    train_seed, test_seed = np.random.SeedSequence(args.seed).spawn(2)
    train = openings(tokenizer, train_texts, np.random.default_rng(train_seed))
    seen = set(train)
    candidates = openings(tokenizer, test_texts, np.random.default_rng(test_seed))
    test = [query for query in candidates if query not in seen]
    print(f"{len(train_texts):,} train and {len(test_texts):,} test reviews")
    for split, queries in (("train", train), ("test", test)):
        path = args.out / f"imdb_{split}.txt.gz"
        write_lines(path, queries)
        print(describe(path, tokenizer))


if __name__ == "__main__":
    main(tyro.cli(Queries, description=__doc__))
