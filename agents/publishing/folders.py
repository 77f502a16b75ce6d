"""A new folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new(out: Path) -> None:
    """Check that a folder can be begun.

    Raises:
        ValueError: if it holds something, or is none.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"Expected a new or empty folder to write to, got {out}, which is not.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write to that takes its name once everything is in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
