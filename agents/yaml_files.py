"""Flat YAML files: names and values, with the line that each name stands in. JSON is YAML, too.

Numbers are read as YAML 1.2 has them: 1e-3 is one, and `no` and `off` are texts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and where it was found."""

    value: Any
    place: str
    """Such as `line 3 of run.yaml`."""


def read_yaml(path: Path) -> dict[str, Entry]:
    """Read a file of names and values.

    Raises:
        ValueError: if it holds something else; says in which line.
    """
    import yaml  # late: most commands read no such file

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"Expected a file to read, got {path}: {reason}.") from None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        return {} if node is None else _entries(loader, node, path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} of {path}" if mark else str(path)
        reason = getattr(error, "problem", None) or "a character that no text has"
        raise ValueError(f"Expected YAML, got {reason} in {where}: mend that line.") from None


def _entries(loader: yaml.SafeLoader, node: yaml.Node, path: Path) -> dict[str, Entry]:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise ValueError(
            f"Expected names and values, such as `seed: 1`, got something else in {path}."
        )
    found: dict[str, Entry] = {}
    for key, value in node.value:
        place = f"line {key.start_mark.line + 1} of {path}"
        name = loader.construct_object(key, deep=True)
        if not isinstance(name, str):
            raise ValueError(f"Expected a name before the colon, got {name!r} in {place}.")
        if name in found:
            raise ValueError(f"Expected {name} once, got it again in {place}.")
        found[name] = Entry(loader.construct_object(value, deep=True), place)
    return found


def yaml_text(value: Any) -> str:
    """Return a value as YAML on one line, which `read_yaml` reads as the same value."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z]([\w./:+-]*[\w/+-])?", value):
        loader = _loader()(f"x: {value}")
        if loader.get_single_data() == {"x": value}:
            return value
    return json.dumps(value, ensure_ascii=False)


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """The core schema of YAML 1.2 in place of that of 1.1."""

        yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 # as its base declares it

    for tag, pattern, firsts in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        (
            "float",
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            list("-+0123456789."),
        ),
    ):
        found = re.compile(f"^(?:{pattern})$")
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", found, firsts)
    # That of 1.1 takes 012 for an octal number.
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
    return Loader
