"""Spaces of the texts that others' environments show and take."""

from __future__ import annotations

import string
from typing import Any

from gymnasium.spaces import Dict, Text

LONGEST_ACTION = 1000
"""Characters that a model may say at a time."""
LONGEST_TEXT = 10_000_000
"""Characters that it may have to read."""


class AnyText(Text):
    """Texts of any characters: people draw boards with what they like."""

    def contains(self, x: Any) -> bool:
        """Return whether it is a text, and not too long."""
        return isinstance(x, str) and len(x) <= self.max_length


def read_space() -> Dict:
    """Return the space of observations that have a `text`."""
    return Dict({"text": AnyText(LONGEST_TEXT, min_length=0, charset=string.printable)})


def said_space() -> Text:
    """Return the space of actions that are texts."""
    return Text(LONGEST_ACTION, min_length=0, charset=string.printable)
