"""Write the problem files of the tasks `gsm8k` and `arithmetic`.

    python -m recipes.problems --data DIR

DIR/gsm8k holds the `train.jsonl` and `test.jsonl` of https://github.com/openai/grade-school-math,
DIR/math the `addsub.jsonl`, `multiarith.jsonl`, `singleeq.jsonl` and `singleop.jsonl` of
https://github.com/microsoft/ToRA. A line of a file is the question, a tab and the final number;
rows stay in their order and none is left out. Same data, same bytes.

The solutions of GSM8K are not kept: no reward reads them, and they would triple the size.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import tyro

ASSETS = Path(__file__).parent.parent / "cory_env" / "assets"
GSM8K = ("train", "test")
MATH = ("addsub", "multiarith", "singleeq", "singleop")

# One thread's stream of a fixed format: the bytes depend on the text and on nothing else. Text is
# packed best without alignment (pb) and with literals told apart by the last four bits (lc).
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]


@dataclass(frozen=True, kw_only=True)
class Problems:
    """Where to read and write."""

    data: Path
    """Folder with the folders `gsm8k` and `math`."""
    out: Path = ASSETS
    """Where the `*.tsv.xz` files go."""


def read_lines(path: Path) -> Iterator[dict[str, str | float]]:
    """Yield the objects of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def gsm8k_problems(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each question with the number behind its `#### `, without thousands separators."""
    for row in read_lines(path):
        yield str(row["question"]), str(row["answer"]).rpartition("#### ")[2].replace(",", "")


def math_problems(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each question with its number."""
    for row in read_lines(path):
        yield str(row["input"]), exact(float(row["target"]))


def exact(number: float) -> str:
    """Return a number as text; one that was cut after 5 or 10 places as the fraction it stood for.

    >>> exact(43.0), exact(9.43), exact(0.6666666667), exact(3.33333)
    ('43', '9.43', '2/3', '10/3')
    """
    decimal = Fraction(repr(number))
    fraction = decimal.limit_denominator(100)
    return repr(number).removesuffix(".0") if fraction == decimal else str(fraction)


def write_problems(path: Path, problems: Iterator[tuple[str, str]]) -> None:
    """Write a packed table and say how large it is."""
    lines = [f"{question}\t{number}\n" for question, number in problems]
    path.write_bytes(lzma.compress("".join(lines).encode(), filters=FILTERS))
    print(f"{path}: {len(lines):,} problems, {path.stat().st_size:,} bytes")


def main(args: Problems) -> None:
    """Write all six files."""
    for split in GSM8K:
        problems = gsm8k_problems(args.data / "gsm8k" / f"{split}.jsonl")
        write_problems(args.out / f"gsm8k_{split}.tsv.xz", problems)
    for name in MATH:
        problems = math_problems(args.data / "math" / f"{name}.jsonl")
        write_problems(args.out / f"{name}.tsv.xz", problems)


if __name__ == "__main__":
    main(tyro.cli(Problems, description=__doc__))
