"""The first tokens of responses that are to be continued; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

Prefixes = Sequence[Sequence[int]]
"""(B,) the first tokens of each response; they count among those it may have."""


def tokens_left(prefixes: Prefixes | None, count: int, max_new_tokens: int) -> list[int]:
    """Return how many tokens each of `count` responses may still have."""
    return [max_new_tokens - len(prefix) for prefix in prefixes or [()] * count]


def check_prefixes(
    prefixes: Prefixes, count: int, max_new_tokens: int, ends: Sequence[int]
) -> None:
    """Check that each of `count` responses goes on behind its prefix.

    Raises:
        ValueError: if one does not.
    """
    if len(prefixes) != count:
        raise ValueError(f"Expected a prefix for each of {count} prompts, got {len(prefixes)}.")
    for prefix in prefixes:
        if len(prefix) >= max_new_tokens or not set(ends).isdisjoint(prefix):
            raise ValueError(
                f"Expected prefixes of fewer than max_new_tokens={max_new_tokens} tokens, none of "
                f"which ends a response, got {len(prefix)}: {str(list(prefix))[:80]}."
            )
