"""What config.json of earlier versions means in this one.

Format 2 writes the values that hold. Before it there was no number: `auto` and 0 stood for what was
left to somebody else, and a file held the fields of every algorithm and engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.config.options import field_names, having, options_of
from agents.registries import ALGORITHMS, ENGINES

FORMAT = 2
"""What is written now."""

RESOLVED = "resolved"
"""What a config.json calls the values that fields left open came to; for readers only."""


_LEFT_TO_OTHERS: dict[str, Any] = {
    **dict.fromkeys(("kl", "ratio", "normalization", "whitening"), "auto"),
    **dict.fromkeys(("group_size", "clip", "clip_high", "importance_cap", "max_step_kl"), 0),
    **dict.fromkeys(("kl_target", "value_clip", "microbatch_size", "max_new_tokens"), 0),
}
"""What fields had before format 2 where they had no value of their own."""


_REMOVED = {"swap_resets": False, "repetition_penalty": 1.0}
"""Fields that reproduced faults of the paper's released code, with the value that means none."""


_LAST_WITH_REMOVED = "57e4a78"
"""A commit of this project that still reproduces them."""


_LAST_WITH_HANDOVER = "95eb8ae"
"""A commit in which algorithms without a critic could hand over the mean of their group."""


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.json as this version has them.

    Raises:
        ValueError: if this version can no longer do what it says.
    """
    values = {name: value for name, value in values.items() if name != RESOLVED}
    found = values.pop("format", 1)
    if found not in (1, FORMAT):
        raise ValueError(
            f"Expected a config.json of format {FORMAT} or earlier, got {found!r}: it was written "
            "by a later version, which can read it."
        )
    return values if found == FORMAT else _from_format_1(values)


def _from_format_1(values: dict[str, Any]) -> dict[str, Any]:
    for name, none in _REMOVED.items():
        if (value := values.pop(name, none)) != none:
            raise ValueError(
                f"Expected {name}={none!r}, got {value!r}, a fault of the paper's released code "
                f"that this version no longer reproduces: take the commit that does, git checkout "
                f"{_LAST_WITH_REMOVED}."
            )
    kept = {
        name: value
        for name, value in values.items()
        if name not in _LEFT_TO_OTHERS or value != _LEFT_TO_OTHERS[name]
    }
    if kept.get("swap_every") == 0:
        del kept["swap_every"]
        kept["swap"] = "never"
    for registry, default in ((ALGORITHMS, "mappo"), (ENGINES, "builtin")):
        chosen = kept.get(registry.kind, default)
        if isinstance(chosen, str) and chosen in registry.known():
            _leave_out_others(kept, registry, chosen)
    return kept


def _leave_out_others(values: dict[str, Any], registry: Any, chosen: str) -> None:
    """Leave out what other algorithms or engines have: it had no effect."""
    own = field_names(options_of(registry, chosen))
    for name in [name for name in values if name not in own and having(registry, name)]:
        value = values.pop(name)
        if (name, value) == ("handover", "value"):
            raise ValueError(
                f"Expected handover sampled with {registry.kind} {chosen}, which has no critic, "
                "got value, which this version takes from a critic alone: take the commit that "
                f"takes it from the group, git checkout {_LAST_WITH_HANDOVER}."
            )
