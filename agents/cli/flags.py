"""Flags of the command line: parsed by tyro, and answered in one line where it would draw a box."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from agents.config.groups import GROUPS
from agents.config.options import Options, field_docs, field_names, options_of, values_of
from agents.config.run import RunConfig
from agents.config.train import every_field, every_owner, no_such_field
from agents.registries import ALGORITHMS, ENGINES
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
    more: Sequence[str] | None = (),
) -> tuple[Any, list[str]]:
    """Parse flags into a dataclass.

    Args:
        kind: the dataclass.
        argv: the words behind the command.
        prog: the command.
        more: other fields, whose flags are left for a second call; None for any.

    Returns:
        The object, and the words that are left.

    Raises:
        ValueError: with one line, if a flag is unknown, or its value is none.
    """
    help_follows = not {"-h", "--help"}.isdisjoint(argv)
    if not help_follows and more is not None:
        _check_names(argv, [*_names(kind), *more], prog)
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn), _wide_boxes(help_follows):
            parsed, rest = tyro.cli(
                kind,
                args=list(argv),
                prog=f"{program()} {prog}",
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        if isinstance(stop.__context__, ValueError):  # of the dataclass itself
            raise ValueError(str(stop.__context__)) from None
        raise ValueError(_line(kind, prog, drawn.getvalue())) from None
    if rest and more == ():
        raise ValueError(f"Expected nothing more behind `{prog}`, got {' '.join(rest)}.")
    return parsed, rest


@contextlib.contextmanager
def names_behind_help(*registries: Registry[Any], more: str = "") -> Iterator[None]:
    """Print a line for each name of some registries behind the help that is printed in between.

    Args:
        registries: in order.
        more: text behind them, with `{program}` for how the commands were called.
    """
    try:
        yield
    except SystemExit:
        for registry in registries:
            print_names(registry)
            print()
        print(more.format(program=program()), end="")
        raise


def print_names(registry: Registry[Any]) -> None:
    """Print a line for each name of a registry."""
    names = registry.known()
    width = max(map(len, names), default=0)
    print(f"{registry.kind}:")
    for name in names:
        print(f"  {name:{width}}  {registry.summary(name)}".rstrip())


def parse_fields(
    argv: Sequence[str],
    start: Mapping[str, Any],
    *,
    prog: str,
    algorithms: Sequence[str] = (),
) -> dict[str, Any]:
    """Parse the fields of a configuration, and return those that are given.

    Args:
        argv: the words behind the command, without its own flags.
        start: fields that are what they are if they are not given.
        prog: the command.
        algorithms: that are meant, if it is not that of `start`.

    Raises:
        ValueError: with one line, if a flag is unknown, or its value is none.
    """
    parts = _parts(start, algorithms)
    names = [name for part in parts.values() for name in field_names(type(part))]
    asked = [name for name in every_field() if _is_asked(name, argv)]
    for name in asked:
        if name not in names:
            run = RunConfig(**{n: start[n] for n in field_names(RunConfig) if n in start})
            raise ValueError(str(no_such_field(name, algorithms or [run.algorithm], run.engine)))
    flags = make_dataclass("Fields", [(o, type(p), field(default=p)) for o, p in parts.items()])
    parsed, _ = parse(flags, argv, prog=prog)
    found = {n: value for owner in parts for n, value in values_of(getattr(parsed, owner)).items()}
    return {name: found[name] for name in asked}


def print_help(own: type[Any], start: Mapping[str, Any], *, prog: str) -> None:
    """Print what a command and all fields of a configuration take, by groups, and exit.

    Args:
        own: flags of the command itself, which stand behind the everyday ones.
        start: fields that differ from their defaults, and are shown as they are.
        prog: the command.
    """
    everyday, *others = _parts(start).items()
    shown = {everyday[0]: _drawn(everyday[1]), "start": _drawn(own())}
    shown |= {owner: _drawn(part) for owner, part in others if field_names(type(part))}
    fields = [(owner, type(part), field(default=part)) for owner, part in shown.items()]
    parse(make_dataclass("Fields", fields), ["--help"], prog=prog)


def task_first(argv: Sequence[str], own: type[Any]) -> list[str]:
    """Return the words of a command with those that belong to no flag in front; `""` for none.

    Args:
        argv: flags with at most one value each, and words that stand alone.
        own: flags of the command itself; all others are fields.
    """
    switches = {flag_of(name) for kind in (own, *every_owner()) for name in _switches(kind)}
    alone: list[str] = []
    rest: list[str] = []
    takes = False
    for word in argv:
        is_flag = (word.startswith("-") and not takes) or word.startswith("--")
        (rest if is_flag or takes else alone).append(word)
        bare = re.sub("^--no-", "--", word.replace("_", "-"))
        takes = is_flag and bare.startswith("--") and "=" not in bare and bare not in switches
    return [*(alone or [""]), *rest]


def _switches(kind: type[Any]) -> list[str]:
    hints = get_type_hints(kind)
    return ["help", *(one.name for one in fields(kind) if hints[one.name] is bool)]


def _parts(start: Mapping[str, Any], algorithms: Sequence[str] = ()) -> dict[str, Options]:
    """Return the fields of a configuration as they start, by their groups and owners."""
    run = RunConfig(**{n: start[n] for n in field_names(RunConfig) if n in start})
    brought = _joined([options_of(ALGORITHMS, name) for name in algorithms or [run.algorithm]])
    kinds = {kind.__name__.lower(): kind for kind in GROUPS}
    kinds |= {"algorithm": brought, "engine": options_of(ENGINES, run.engine)}
    return {
        owner: kind(**{n: start[n] for n in field_names(kind) if n in start})
        for owner, kind in kinds.items()
    }


def _drawn(part: Any) -> Any:
    """Return fields with the same defaults, of which help is drawn.

    tyro keeps the line breaks of a docstring, and would show all of what is said of the owner.
    """
    kinds, docs = get_type_hints(type(part), include_extras=True), field_docs(type(part))
    drawn = [
        (
            one.name,
            Annotated[kinds[one.name], tyro.conf.arg(help=docs.get(one.name))],
            field(default=getattr(part, one.name)),
        )
        for one in fields(part)
    ]
    said = (type(part).__doc__ or "").partition("\n\n")[0]
    return make_dataclass(type(part).__name__, drawn, namespace={"__doc__": said}, frozen=True)()


def _joined(kinds: Sequence[type[Options]]) -> type[Options]:
    """Return one dataclass with the fields of several, each once."""
    own = [
        k for k in dict.fromkeys(kinds) if not any(issubclass(o, k) and o is not k for o in kinds)
    ]
    if len(own) == 1:
        return own[0]
    return make_dataclass("Algorithms", [], bases=tuple(own), frozen=True, kw_only=True)


def _is_asked(name: str, argv: Sequence[str]) -> bool:
    words = [word.split("=")[0].replace("_", "-") for word in argv]
    return flag_of(name) in words or f"--no-{flag_of(name)[2:]}" in words


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


def _names(kind: type[Any]) -> list[str]:
    """Return the fields of a dataclass, and those of the dataclasses in it."""
    found: list[str] = []
    for one in fields(kind):
        inner = one.type
        if isinstance(inner, type) and is_dataclass(inner):
            found += _names(inner)
        elif "Suppress" not in str(one.type):  # tyro's word for a field that is no flag
            found.append(one.name)
    return found


def _check_names(argv: Sequence[str], names: Sequence[str], prog: str) -> None:
    """Check that all that looks like a flag is one.

    Raises:
        ValueError: if one is not; says which was probably meant.
    """
    flags = list(dict.fromkeys(map(flag_of, names)))
    for word in argv:
        name = word.split("=")[0].replace("_", "-")
        if re.match(r"--[A-Za-z]", name) and "--" + name[2:].removeprefix("no-") not in flags:
            listed = f"`{prog} --help` lists them"
            raise ValueError(unknown_name(f"a flag of `{prog}`", flags, name, listed=listed))


def flag_of(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _line(kind: type[Any], prog: str, box: str) -> str:
    """Return what tyro has to say, in our words where they are known."""
    # A box has a title, a text and a footer; where characters are few, it is drawn with dashes.
    lines = [line.strip(" │|+─-") for line in box.splitlines()[1:]]
    text = " ".join(filter(None, lines)).partition(" For full helptext")[0]
    text = text.partition(" Argument helptext:")[0]
    if found := re.search(r"Error parsing \S+: (Expected .*)", text):  # of a dataclass in it
        return found[1]
    if found := re.search(
        r"invalid choice '(.*)' for argument '(\S+)'\. Expected .*\((.*)\)", text
    ):
        choices = re.findall(r"'([^']*)'", found[3])
        return unknown_name(f"a value of {found[2]}", choices, found[1])
    if found := re.search(r"Error parsing (\S+): invalid literal for int.*?: (.*)", text):
        return f"Expected a whole number for {found[1]}, got {found[2]}."
    if found := re.search(r"Error parsing (\S+): could not convert string to float: (.*)", text):
        return f"Expected a number for {found[1]}, got {found[2]}."
    if found := re.search(
        r"Error parsing (\S+): no type matching {None}\|(INT|FLOAT) .*? from \['(.*?)'\]", text
    ):
        words = {"INT": "a whole number", "FLOAT": "a number"}[found[2]]
        return f"Expected {words} or None for {found[1]}, got {found[3]!r}."
    if found := re.search(r"Error parsing (\S+): Could not find valid parse.*?: (\[.*?\])", text):
        return (
            f"Expected values of another type for {found[1]}, got {found[2]}: see `{prog} --help`."
        )
    if found := re.search(r"Missing value for argument '(\S+)'", text):
        return f"Expected a value behind {found[1]}, got none."
    if "Missing from" in text:
        words = [one.name.upper() for one in fields(kind) if one.default is MISSING]
        return f"Expected `{prog} {' '.join(words)}`, got too few words: see `{prog} --help`."
    return text
