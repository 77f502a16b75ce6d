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


def arguments(text: str, field: str, example: str) -> dict[str, bool | int | float | str]:
    """Return NAME=VALUE with commas between them as keyword arguments.

    Args:
        text: what was asked for; empty for nothing.
        field: the name of the field.
        example: of what it may hold.

    Raises:
        ValueError: if it is something else.
    """
    found = pairs(text, r"([A-Za-z_]\w*)\s*=\s*(\S.*)")
    if found is None:
        raise ValueError(
            f"Expected {field} to be NAME=VALUE with commas between them, got {text!r}: try "
            f"--{field.replace('_', '-')} {example}."
        )
    return {name: value_of(part) for name, part in found}
