"""Read the Large Movie Review Dataset (Maas et al. 2011): `{train,test,unsup}.jsonl.xz` files.

The data set itself grants no licence, so none of its reviews is part of this repository; every
recipe takes the folder as an argument.
"""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import dataclass
from pathlib import Path

_LINE_BREAK = re.compile(r"<br\s*/?>")


@dataclass(frozen=True, slots=True)
class Review:
    """One review, cleaned."""

    text: str
    """Plain text on one line, without HTML line breaks."""
    label: int | None
    """1 positive, 0 negative, None in the unlabelled split."""


def clean(text: str) -> str:
    """Replace HTML line breaks by spaces and collapse white space."""
    return " ".join(_LINE_BREAK.sub(" ", text).split())


def read_reviews(folder: Path, split: str) -> list[Review]:
    """Read one split, in file order.

    Args:
        folder: the folder that holds the files.
        split: `train`, `test` or `unsup`.
    """
    path = folder / f"{split}.jsonl.xz"
    if not path.is_file():
        raise SystemExit(
            f"Expected the reviews in {path}, found no such file: pass the data folder with --data."
        )
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        return [Review(clean(row["text"]), row.get("label")) for row in rows]


def pretraining_texts(folder: Path) -> list[str]:
    """Return the distinct training and unlabelled reviews that do not also stand in test."""
    held_out = {review.text for review in read_reviews(folder, "test")}
    texts = dict.fromkeys(
        review.text for split in ("train", "unsup") for review in read_reviews(folder, split)
    )
    return [text for text in texts if text not in held_out]
