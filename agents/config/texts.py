"""Lists of NAME=VALUE with commas between them, as flags have them."""

from __future__ import annotations

import re
from contextlib import suppress


def pairs(text: str, form: str) -> list[tuple[str, str]] | None:
    """Return the names and values of a list with commas; None if a part has another form."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [re.fullmatch(form, part) for part in parts]
    return [(pair[1], pair[2]) for pair in found if pair] if all(found) else None


def value_of(text: str) -> bool | int | float | str:
    """Return what a text means: a number, true or false, or else itself."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)
