"""What to say of a name that nobody knows: what there is, and what was probably meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar, cast, get_type_hints

MOST_LISTED = 12
"""Names that a message of one line may list."""

_KINDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
_Called = TypeVar("_Called", bound=Callable[..., Any])


def nearest(word: object, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant, whatever its case, hyphens and underscores."""
    by_spelling = {_plain(name): name for name in names}
    found = get_close_matches(_plain(str(word)), by_spelling, n=1)
    return by_spelling[found[0]] if found else None


def unknown_name(
    expected: str, names: Iterable[str], got: object, *, listed: str = "", mend: str = ""
) -> str:
    """Return the line for a name that is none of those there are.

    Args:
        expected: what was asked for, such as `a task`.
        names: those there are.
        got: what came instead.
        listed: where they are listed, which is said instead of more than `MOST_LISTED` names.
        mend: what to do if no name is near.
    """
    names = list(names)
    where = listed if listed and len(names) > MOST_LISTED else ", ".join(names)
    near = nearest(got, names)
    end = f": did you mean {near}?" if near else f": {mend}" if mend else "."
    return f"Expected {expected} ({where or 'there is none'}), got {got!r}{end}"


def check_arguments(
    function: Callable[..., object], given: Mapping[str, object], of: str, *, besides: str = ""
) -> None:
    """Check the keyword arguments of a call by their names, and by their types if those are plain.

    Args:
        function: what will be called.
        given: the keyword arguments.
        of: what they are, such as `an option of the task toy`.
        besides: an argument that somebody else gives.

    Raises:
        ValueError: if it takes no such argument, or none of this type.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables tell nobody what they take
        return
    kinds = _kinds(function)
    known = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != besides
    ]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in given.items():
        if name not in known and not takes_any:
            raise ValueError(unknown_name(of, known, name))
        kind = kinds.get(name)
        if name in known and kind in _KINDS and not is_a(kind, value):
            raise ValueError(f"Expected {name} to be {_KINDS[kind]}, got {value!r}.")


def is_a(kind: type, value: object) -> bool:
    """Return whether a value is a truth value, whole number, number or text, as `kind` says."""
    kinds: Any = {int: Integral, float: Real}.get(kind, kind)  # numpy's are among them
    return isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))


def known_arguments(called: _Called) -> _Called:
    """Let a function or class say which keyword arguments it takes when it is given another."""
    function: Any = called.__init__ if inspect.isclass(called) else called
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in names:
                of = f"an argument of {getattr(called, '__name__', called)}"
                listed = "see its documentation"
                raise TypeError(unknown_name(of, names, name, listed=listed))
        return function(*args, **kwargs)

    if inspect.isclass(called):
        setattr(called, "__init__", checked)  # noqa: B010 # a type checker would object
        return cast("_Called", called)
    return cast("_Called", checked)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _kinds(function: Callable[..., object]) -> dict[str, Any]:
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):  # annotations may name what is not there
        return {}
