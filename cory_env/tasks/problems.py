"""The word problems that ship with the package, written by `recipes/problems.py`."""

from __future__ import annotations

import lzma
from importlib.resources import files

from cory_env.types import Example


def read_problems(name: str) -> list[Example]:
    """Return the problems of a file in their order, with the final number as the reference."""
    packed = (files("cory_env") / "assets" / f"{name}.tsv.xz").read_bytes()
    lines = lzma.decompress(packed).decode().split("\n")[:-1]
    return [Example(*line.split("\t")) for line in lines]
