"""From a configuration to environments: modules, registries, descriptions.

Nothing is imported here that `agents.config.plugins` has not: the user has named it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import pettingzoo
from pettingzoo.env_registry.exceptions import FailedToImport, PettingZooRegistryError
from pettingzoo.utils import parallel_to_aec

from agents.config.environment import EnvConfig
from agents.config.plugins import import_plugins
from agents.environments.base import Describe, Environment, LegalActions, failing
from agents.environments.several import SeveralEnvironment
from agents.environments.single import SingleEnvironment
from agents.errors import PlayError
from cory_env.adapters import textarena
from cory_env.names import check_arguments, nearest

_MISSING = re.compile(r"(?:No module named '?|import of )(\w+)")


def with_imports(config: EnvConfig, *more: str) -> EnvConfig:
    """Import what a configuration names, and return it as a run folder remembers it.

    Args:
        config: of a new run.
        more: files and modules besides, which may register environments.

    Raises:
        ValueError: if something is not there, or a package that it needs is missing.
    """
    named = dict.fromkeys([*more, *config.sources])
    try:
        imports = import_plugins(*named)
    except ValueError as error:
        if not _MISSING.search(str(error)) or isinstance(error.__cause__, SyntaxError):
            raise
        raise _missing(config, str(error)) from error
    return config.replace(imports=imports)


def open_environment(config: EnvConfig) -> Environment:
    """Open one environment of a configuration whose imports have been imported.

    Raises:
        ValueError: if there is none, it takes no such options, or learners cannot play it.
    """
    describe, legal_actions = _functions(config) if config.describe else (None, None)
    make, kind = _OPENERS[config.kind]
    try:
        texts = tuple(config.action_texts)
        return kind(config.env, make(config), describe, texts, legal_actions)
    except PlayError as error:
        raise ValueError(str(error)) from error


def _gym(config: EnvConfig) -> Any:
    name = config.env_name.partition(":")[2] or config.env_name
    options: dict[str, Any] = {**config.env_arguments}
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        near = nearest(name, gymnasium.registry)
        end = f": did you mean {near}?" if near else ": your own comes with --import FILE."
        raise ValueError(f"Expected an environment of Gymnasium, got {name!r}{end}") from error
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise _missing(config, str(error)) from error
    except Exception as error:  # of an environment's own making
        raise _unopened(config, error) from error


def _pettingzoo(config: EnvConfig) -> Any:
    options = config.env_arguments
    try:
        if config.is_registered:
            return _of_registry(config.env_name, options)
        module = module_of(config.env_name)
        make: Any = getattr(module, "env", None) or getattr(module, "parallel_env", None)
        if not callable(make):
            raise ValueError(
                f"Expected a module with env or parallel_env, got {config.env_name!r} without: see "
                "PettingZoo's page on creating environments."
            )
        check_arguments(make, options, f"an option of {config.env}")
        opened: Any = make(**options)
        return opened if hasattr(opened, "agent_iter") else parallel_to_aec(opened)
    except ValueError:
        raise
    except (ImportError, FailedToImport) as error:
        raise _missing(config, str(error)) from error
    except Exception as error:  # of an environment's own making
        raise _unopened(config, error) from error


def _textarena(config: EnvConfig) -> Any:
    try:
        options: dict[str, Any] = {**config.env_arguments}
        return textarena.env(config.env_name, **options)
    except ValueError:
        raise
    except ImportError as error:
        raise _missing(config, str(error)) from error
    except Exception as error:  # of a game's own making
        raise _unopened(config, error) from error


def _openenv(config: EnvConfig) -> Any:
    options: dict[str, Any] = {**config.env_arguments}
    try:
        from cory_env.adapters.openenv_client import ServedEnv  # wants its package

        check_arguments(ServedEnv, {"url": "", **options}, f"an option of {config.env}")
        return ServedEnv(config.env_name, **options)
    except ImportError as error:
        raise _missing(config, str(error)) from error


_OPENERS: dict[str, tuple[Callable[[EnvConfig], Any], Callable[..., Environment]]] = {
    "gym": (_gym, SingleEnvironment),
    "pettingzoo": (_pettingzoo, SeveralEnvironment),
    "textarena": (_textarena, SeveralEnvironment),
    "openenv": (_openenv, SingleEnvironment),
}
"""By what stands before the colon: how it is opened, and what learners make of it."""


def _of_registry(name: str, options: dict[str, Any]) -> Any:
    try:
        return pettingzoo.make("aec", name, **options)
    except FailedToImport:
        raise
    except PettingZooRegistryError as error:
        near = nearest(name, pettingzoo.aec_registry)
        end = f": did you mean {near}?" if near else "."
        raise ValueError(f"Expected an environment of PettingZoo, got {name!r}{end}") from error


def _missing(config: EnvConfig, text: str) -> ValueError:
    """Return the line for a package that an environment needs."""
    found = _MISSING.search(text)
    family = re.search(r"(atari|butterfly|classic|magent|mpe|sisl)", config.env_name)
    if hint := re.search(r"pip install [^`\n]+", text):
        mend = hint[0].rstrip(" .'\"") + ('"' if hint[0].count('"') % 2 else "")
    elif config.kind == "pettingzoo" and family:
        mend = f'pip install "pettingzoo[{family[0]}]"'
    else:
        mend = f"pip install {found[1] if found else 'what it needs'}"
    got = f"none of {found[1]}" if found else text.splitlines()[0]
    return ValueError(f"Expected the packages of {config.env}, got {got}: {mend}.")


def _unopened(config: EnvConfig, error: Exception) -> ValueError:
    text = (str(error).strip().splitlines() or [""])[0]
    return ValueError(
        f"Expected {config.env} to open, got {type(error).__name__}: {text}. See --env-options."
    )


def _functions(config: EnvConfig) -> tuple[Describe, LegalActions | None]:
    """Return `describe` of the user's file, and `legal_actions` if it has that, too."""
    file, name = config.describe_parts
    module = module_of(file)
    function: Callable[[Any], str] | None = getattr(module, name, None)
    if not callable(function):
        near = nearest(name, [n for n in vars(module) if not n.startswith("_")])
        end = f": did you mean --describe {file}:{near}?" if near else "."
        raise ValueError(f"Expected a function {name}(observation) in {file}, got none{end}")
    legal_actions: LegalActions | None = getattr(module, "legal_actions", None)
    return function, legal_actions


def module_of(name: str) -> ModuleType:
    """Return a module by its name, or the one that a file has been imported as."""
    if not name.endswith(".py"):
        with failing(name):
            return import_module(name)
    path = Path(name).expanduser().resolve()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).name == path.name and Path(file).resolve() == path:
            return module
    raise ValueError(f"Expected {name} to be imported: pass --import {name}.")
