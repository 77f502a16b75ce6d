"""Commands that train nothing: what is known by its name, what is installed, shell completion."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, get_type_hints

import tyro

from agents.cli.flags import flag_of, print_names
from agents.config.options import field_docs
from agents.config.train import every_owner
from agents.registries import ALGORITHMS, CRITIC_BODIES, ENGINES, PRESETS, TRACKERS, VARIANTS
from cory_env import __version__
from cory_env.names import unknown_name
from cory_env.registry import REWARDS, TASKS, Registry

REGISTRIES: dict[str, Registry[Any]] = {
    "tasks": TASKS,
    "rewards": REWARDS,
    "algorithms": ALGORITHMS,
    "critic-bodies": CRITIC_BODIES,
    "engines": ENGINES,
    "trackers": TRACKERS,
    "presets": PRESETS,
    "variants": VARIANTS,
}
"""What `list` lists, by the word for it."""


SHELLS = ("bash", "zsh", "tcsh")

_LIBRARIES = (
    *("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy"),
    *("gymnasium", "pettingzoo", "rich", "tyro", "datasets", "bitsandbytes", "vllm"),
)
"""Whose versions an error may depend on."""


def list_names(kind: str) -> None:
    """Print what is known by its name.

    Args:
        kind: of what; empty for everything.

    Raises:
        ValueError: if there is no such kind.
    """
    if kind and kind not in REGISTRIES:
        raise ValueError(unknown_name("something to list", REGISTRIES, kind))
    chosen = [kind] if kind else list(REGISTRIES)
    for index, word in enumerate(chosen):
        if index:
            print()
        print_names(REGISTRIES[word])


def print_environment() -> None:
    """Print what a report of an error has to say of the machine and of what is installed."""
    import torch  # late: nothing else here needs it

    from agents.records.provenance import facts

    made_by = facts("")
    print(f"cory-env: {__version__}")
    print(f"commit: {made_by['commit'] or 'none, installed from a wheel'}")
    print(f"code: {made_by['sources']}")
    print(f"python: {platform.python_implementation()} {made_by['python']}")
    print(f"platform: {platform.platform()}")
    print(f"processor: {made_by['processor']}, {made_by['threads']} threads")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"GPUs: {', '.join(names) or 'none'}; CUDA of torch: {torch.version.cuda or 'none'}")
    for name in _LIBRARIES:
        print(f"{name}: {_version(name)}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def print_completion(shell: str, commands: Mapping[str, type[Any]]) -> None:
    """Print a script by which a shell completes the command `cory`.

    Args:
        shell: one of `SHELLS`.
        commands: their flags, by name.

    Raises:
        ValueError: if there is no such shell, or shtab is not installed.
    """
    if shell not in SHELLS:
        raise ValueError(unknown_name("a shell", SHELLS, shell))
    if find_spec("shtab") is None:
        raise ValueError("Expected the package shtab, found none: pip install shtab.")
    import shtab  # late: a command of its own needs it

    parser = argparse.ArgumentParser(prog="cory")
    parser.add_argument("--version", action="store_true", help="print the version")
    added = parser.add_subparsers()
    for name, kind in commands.items():
        one = added.add_parser(name, help=(kind.__doc__ or "").strip().partition("\n")[0])
        takes_fields = name in ("train", "compare")
        _add_flags(one, [kind, *(every_owner() if takes_fields else ())])
    print(shtab.complete(parser, shell))


def _add_flags(parser: argparse.ArgumentParser, kinds: list[type[Any]]) -> None:
    """Add the fields of dataclasses to a parser that is only asked what there is."""
    for kind in kinds:
        hints, docs = get_type_hints(kind, include_extras=True), field_docs(kind)
        for one in fields(kind):
            notes = getattr(hints[one.name], "__metadata__", ())
            flag, said = flag_of(one.name), docs.get(one.name, "")
            if tyro.conf.Suppress in notes or flag in parser._option_string_actions:
                continue
            plain = get_type_hints(kind)[one.name]
            if tyro.conf.Positional in notes or one.default is MISSING:
                words: dict[str, Any] = {"dest": one.name, "nargs": "?"}
            elif plain is bool:
                words = {"action": argparse.BooleanOptionalAction}
            else:
                words = {"dest": one.name, "nargs": "*" if "tuple" in str(plain) else None}
            names = () if "dest" in words and words["nargs"] == "?" else (flag,)
            if plain is not bool and (choices := _choices(one.name, plain)):
                words["choices"] = choices
            parser.add_argument(*names, help=said.replace("%", "%%"), **words)


def _choices(name: str, kind: Any) -> list[str]:
    """Return the words that a field may be, if they are known: names, or those of its type."""
    for registry in REGISTRIES.values():
        word = registry.kind.replace(" ", "_")
        if name in (word, f"{word}s"):
            return [known for known in registry.known() if "NAME" not in known]
    literal = getattr(kind, "__args__", ())
    return [word for word in literal if isinstance(word, str)]
