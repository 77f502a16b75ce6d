"""Field types of the configuration: convert what a user gives, or refuse it in one line.

Ranges and rules across fields are checked in `agents.config.train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from os import PathLike, fspath
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import tyro

from cory_env.names import unknown_name
from cory_env.registry import Registry
from cory_env.task import Task

_LISTS = ("model", "lora_targets", "trackers")


_MAPPINGS = ("task_options", "lora_rank_pattern")


_PATHS = ("out", "start", "model", "reward")


_REGISTER = {
    "task": 'cory_env.register_task("mine")(lambda split: …)',
    "reward": 'cory_env.register_reward("mine")(lambda: …)',
    "algorithm": 'agents.registries.register_algorithm("mine")(…)',
    "critic_body": 'agents.registries.register_critic_body("mine")(…)',
    "engine": 'agents.registries.register_engine("mine")(…)',
}
"""Fields that hold a registered name, and how to register one."""


_GIVEN = ("task", "reward")
"""Those of them that `train` takes as objects."""


def named(registry: Registry[Any]) -> Any:
    """Return the annotation of a field whose `--help` lists the names of a registry."""

    def hint(default: str) -> str:
        return f"({', '.join(registry.known())}; default: {default})"

    return tyro.conf.arg(help_behavior_hint=hint)


_WORDS = {bool: "True or False", int: "a whole number", float: "a number"}


def plain_value(name: str, kind: Any, value: object) -> Any:
    """Return the value of a field in the type that it has in config.json.

    Lists, tuples and mappings of names become texts with commas, paths and devices become texts.

    Args:
        name: of the field.
        kind: its type: `str`, `int`, `float`, `bool`, `tuple[str, ...]` or a `Literal`, or one of
            these and `None`.
        value: what was given.

    Raises:
        ValueError: if it has another type; says what to write.
    """
    if is_optional(kind):
        if value is None:
            return None
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is tuple:
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ValueError(f"Expected {name} to be a list of texts, got {_described(value)}.")
    if get_args(kind):
        if value not in get_args(kind):
            raise ValueError(unknown_name(f"a value of {name}", get_args(kind), value))
        return value
    if kind is str:
        return _text(name, value)
    is_truth = isinstance(value, bool) or type(value).__name__ == "bool"  # numpy's, too
    if kind is bool and is_truth:
        return bool(value)
    if kind is int and isinstance(value, Integral) and not is_truth:
        return int(value)
    if kind is float and isinstance(value, Real) and not is_truth:
        return float(value)
    if kind not in _WORDS:
        raise TypeError(f"{name} is declared as {kind!r}, which a configuration cannot hold.")
    raise ValueError(f"Expected {name} to be {_WORDS[kind]}, got {value!r}{_unquoted(name, value)}")


def parts_of(kind: Any) -> tuple[Any, ...]:
    """Return a type, and what `Annotated` says of it."""
    return get_args(kind) if get_origin(kind) is Annotated else (kind,)


def is_optional(kind: Any) -> bool:
    """Return whether a type is another one or `None`."""
    return get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind)


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, PathLike) and name in _PATHS:
        return str(fspath(value))
    if name in _MAPPINGS and isinstance(value, Mapping):
        return _joined(name, [f"{key}={_word(item)}" for key, item in value.items()])
    if name in _LISTS and isinstance(value, list | tuple):
        return _joined(name, [_text(name, item) for item in value])
    if name == "sample_queries" and isinstance(value, list | tuple):
        return _joined(name, [str(place) for place in value])
    if name == "reward_sharing" and isinstance(value, Real) and not isinstance(value, bool):
        return f"{value:g}"
    if name == "device" and type(value).__name__ == "device":  # torch is not loaded for this
        return str(value)
    raise ValueError(
        f"Expected {name} to be {_expected(name)}, got {_described(value)}: {_mend(name)}"
    )


def _joined(name: str, parts: list[str]) -> str:
    if wrong := [part for part in parts if "," in part]:
        raise ValueError(f"Expected {name} without commas in its parts, got {wrong[0]!r}.")
    return ",".join(parts)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _expected(name: str) -> str:
    if name in _REGISTER:
        return "a name"
    if name == "model":
        return "a name or a folder"
    if name in _MAPPINGS:
        return "a mapping, or NAME=VALUE with commas between them"
    return "names in a list, or with commas between them" if name in _LISTS else "a text"


def _mend(name: str) -> str:
    if name in _REGISTER:
        register = f'register it, {_REGISTER[name]}, and write {name}="mine".'
        return f"pass it to train(config, {name}=…), or {register}" if name in _GIVEN else register
    if name == "model":
        return (
            "pass it to train(config, model=…, tokenizer=…), or write both to a FOLDER with "
            "save_pretrained, and pass the folder."
        )
    return f'write {name}="…".'


def _described(value: object) -> str:
    if isinstance(value, Task):
        return f"a task object ({type(value).__name__})"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(value) and hasattr(value, "__name__"):
        return "a function"
    shown = repr(value)
    return (
        shown
        if len(shown) <= 40 and " at 0x" not in shown
        else f"an object of the class {type(value).__name__}"
    )


def _unquoted(name: str, value: object) -> str:
    """Return how to write a number that came as a text."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return "."
        return f": write {name}={value.strip()}, without quotation marks."
    return "."
