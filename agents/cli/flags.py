"""Flags of the command line: parsed by tyro, and answered in one line where it would draw a box."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro

from agents.config.plugins import import_plugins
from cory_env.names import unknown_name
from cory_env.registry import Registry


def program() -> str:
    """Return how the commands were called: by the command `cory`, or as a module."""
    return "cory" if Path(sys.argv[0]).stem == "cory" else "python -m agents"


def parse(
    kind: type[Any],
    argv: Sequence[str],
    *,
    prog: str,
    default: Any = None,
    more: type[Any] | None = None,
) -> tuple[Any, list[str]]:
    """Parse flags into a dataclass.

    Args:
        kind: the dataclass.
        argv: the words behind the command.
        prog: the command.
        default: what flags that are not given leave as it is.
        more: another dataclass, whose flags are left for a second call.

    Returns:
        The object, and the words that are left.

    Raises:
        ValueError: with one line, if a flag is unknown, or its value is none.
    """
    options: dict[str, Any] = {"prog": f"{program()} {prog}", "return_unknown_args": True}
    if default is not None:
        options["default"] = default
    help_follows = not {"-h", "--help"}.isdisjoint(argv)
    if not help_follows:
        _check_names(argv, [kind, *([more] if more else [])], prog)
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn), _wide_boxes(help_follows):
            parsed, rest = tyro.cli(kind, args=list(argv), **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        if isinstance(stop.__context__, ValueError):  # of the dataclass itself
            raise ValueError(str(stop.__context__)) from None
        raise ValueError(_line(kind, prog, drawn.getvalue())) from None
    if rest and not more:
        raise ValueError(f"Expected nothing more behind `{prog}`, got {' '.join(rest)}.")
    return parsed, rest


def show_help(kind: type[Any], argv: Sequence[str], prog: str, *registries: Registry[Any]) -> None:
    """Print the flags of a dataclass, then a line for each name that some of them take, and exit.

    Args:
        kind: the dataclass.
        argv: the words behind the command; what they import is among the names.
        prog: the command.
        registries: of the names.
    """
    words = [part for word in argv for part in re.split(r"(?<=^--import)=", word)]
    import_plugins(*(file for flag, file in pairwise(words) if flag == "--import"))
    try:
        parse(kind, argv, prog=prog)
    finally:
        for registry in registries:
            names = registry.known()
            width = max(map(len, names))
            print(f"{registry.kind}:")
            for name in names:
                print(f"  {name:{width}}  {registry.summary(name)}".rstrip())
            print()


@contextlib.contextmanager
def _wide_boxes(help_follows: bool) -> Iterator[None]:
    """Let tyro draw its boxes so wide that no word is broken; help fits the terminal."""
    before = os.environ.get("COLUMNS")
    if not help_follows:
        os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def _check_names(argv: Sequence[str], kinds: Sequence[type[Any]], prog: str) -> None:
    """Check that all that looks like a flag is one.

    Raises:
        ValueError: if one is not; says which was probably meant.
    """
    flags = [
        _flag(field.name)
        for kind in kinds
        for field in fields(kind)
        if "Suppress" not in str(field.type)  # tyro's word for a field that is no flag
    ]
    for word in argv:
        name = word.split("=")[0].replace("_", "-")
        if re.match(r"--[A-Za-z]", name) and "--" + name[2:].removeprefix("no-") not in flags:
            listed = f"`{prog} --help` lists them"
            flags = list(dict.fromkeys(flags))
            raise ValueError(unknown_name(f"a flag of `{prog}`", flags, name, listed=listed))


def _flag(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def _line(kind: type[Any], prog: str, box: str) -> str:
    """Return what tyro has to say, in our words where they are known."""
    # A box has a title, a text and a footer; where characters are few, it is drawn with dashes.
    lines = [line.strip(" │|+─-") for line in box.splitlines()[1:]]
    text = " ".join(filter(None, lines)).partition(" For full helptext")[0]
    if found := re.search(
        r"invalid choice '(.*)' for argument '(\S+)'\. Expected .*\((.*)\)", text
    ):
        choices = re.findall(r"'([^']*)'", found[3])
        return unknown_name(f"a value of {found[2]}", choices, found[1])
    if found := re.search(r"Error parsing (\S+): invalid literal for int.*?: (.*)", text):
        return f"Expected a whole number for {found[1]}, got {found[2]}."
    if found := re.search(r"Error parsing (\S+): could not convert string to float: (.*)", text):
        return f"Expected a number for {found[1]}, got {found[2]}."
    if found := re.search(r"Error parsing (\S+): Could not find valid parse.*?: (\[.*?\])", text):
        return (
            f"Expected values of another type for {found[1]}, got {found[2]}: see `{prog} --help`."
        )
    if found := re.search(r"Missing value for argument '(\S+)'", text):
        return f"Expected a value behind {found[1]}, got none."
    if "Missing from" in text:
        words = [field.name.upper() for field in fields(kind) if field.default is MISSING]
        return f"Expected `{prog} {' '.join(words)}`, got too few words: see `{prog} --help`."
    return text
