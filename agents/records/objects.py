"""Files that hold one JSON value: read with an error that names the file, written whole."""

from __future__ import annotations

import json
from pathlib import Path

from agents.records.rows import write_atomically


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON object; NaN and infinities, which JSON does not have, are None.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a JSON object in {path}, got {error}. Mend or remove that file."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"Expected a JSON object in {path}, got {type(value).__name__}. "
            "Mend or remove that file."
        )
    return value


def write_json(path: Path, value: object) -> None:
    """Write a JSON value for people to read, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")
