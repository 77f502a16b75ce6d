"""The commands in environments of others: `train --env`, and `evaluate` and `play` of runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.cli.flags import parse
from agents.cli.threads import use_threads
from agents.config.environment import EnvConfig
from agents.config.options import field_names
from agents.records.folder import RunFolder
from agents.records.start import check_run_folder
from agents.terminal.hush import hushed
from agents.terminal.interrupts import exit_code

_PROG = "train --env ENV"


@dataclass(frozen=True, kw_only=True)
class _EnvFlags:
    """What `train --env` takes besides the fields of the configuration."""

    import_: Annotated[
        tuple[str, ...], tyro.conf.arg(name="import", metavar="FILE"), tyro.conf.UseAppendAction
    ] = ()
    """A file or module that registers environments of your own; may be repeated."""
    resume: bool = False
    """Go on from the last checkpoint of the run."""
    overwrite: bool = False
    """Begin anew in the folder of a run, which is deleted once the new one has begun."""
    yes: bool = False
    """Do not ask before that."""
    threads: str = "auto"
    """How many threads to compute with; `auto` for OMP_NUM_THREADS, or else one for every core that
    is free."""


@dataclass(frozen=True, kw_only=True)
class _EvaluateFlags:
    """Score the policies of a run in an environment: by themselves, or against chance."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    episodes: int = 100
    """Of each row; >= 1."""
    seed: int = 0
    """Of the episodes."""
    device: str = ""
    """Where to compute: `auto`, `cpu`, `cuda`, …; empty for the run's own."""
    threads: str = "auto"
    """See `train --help`."""


@dataclass(frozen=True, kw_only=True)
class _PlayFlags:
    """Take the place of an agent: read what it reads, type its action."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; its policies have the other places."""
    seat: str = ""
    """Yours, by the name of the agent; empty for the first."""
    seed: int | None = None
    """Of the episodes; None for new ones every time."""


def names_environment(argv: Sequence[str]) -> bool:
    """Return whether `train` is to learn in an environment of others."""
    return any(word.split("=")[0] == "--env" for word in argv)


def is_environment_run(argv: Sequence[str]) -> bool:
    """Return whether a command is about a run in an environment of others."""
    words = [word for word in argv if not word.startswith("-")]
    return bool(words) and RunFolder(Path(words[0])).plays_environment


def train(argv: list[str], agrees: Callable[[RunFolder], bool]) -> int:
    """Run `train --env`.

    Args:
        argv: the words behind the command.
        agrees: asks whether a run may be deleted.
    """
    if "-h" in argv or "--help" in argv:
        shown = [("run", EnvConfig(env="gym:ID")), ("start", _EnvFlags())]
        kinds = [(name, type(part), field(default=part)) for name, part in shown]
        parse(make_dataclass("Fields", kinds), argv, prog=_PROG)
    flags, rest = parse(_EnvFlags, argv, prog=_PROG, more=field_names(EnvConfig))
    start = EnvConfig(env="gym:ID")
    if flags.resume:
        asked, _ = parse(_fields(start), rest, prog=_PROG)
        if (folder := RunFolder(asked.run.run_folder)).config_path.is_file():
            start = folder.read_env_config()
    fields, _ = parse(_fields(start), rest, prog=_PROG)
    config: EnvConfig = fields.run
    _use_threads(flags.threads)
    with hushed():
        from agents.acting.loop import train_environment
        from agents.environments.opening import with_imports
        from agents.models.kernels import keep_freed_memory

    if not flags.resume:
        config = with_imports(config, *flags.import_)
    if flags.yes and not flags.overwrite:
        raise ValueError("Expected --yes with --overwrite only: it asks before nothing else.")
    if flags.overwrite:
        check_run_folder(config, resume=flags.resume, overwrite=True)
        if not (flags.yes or agrees(RunFolder(config.run_folder))):
            print("Nothing was changed.")
            return 1
    keep_freed_memory()
    run = train_environment(config, resume=flags.resume, overwrite=flags.overwrite)
    return exit_code(run.stopped_by) if run.stopped_by else 0


def _use_threads(asked: str) -> None:
    if line := use_threads(asked):
        print(line, file=sys.stderr)


def _fields(start: EnvConfig) -> type[Any]:
    """Return a dataclass whose flags are the fields of a configuration."""
    return make_dataclass("Fields", [("run", EnvConfig, field(default=start))])


def evaluate(argv: list[str]) -> int:
    """Run `evaluate` of a run in an environment."""
    flags, _ = parse(_EvaluateFlags, argv, prog="evaluate")
    _use_threads(flags.threads)
    from rich.console import Console

    with hushed():
        from agents.acting.evaluation import evaluate_environment, print_actors

    print_actors(
        evaluate_environment(
            flags.run, episodes=flags.episodes, seed=flags.seed, device=flags.device
        ),
        Console(),
    )
    return 0


def play(argv: list[str]) -> int:
    """Run `play` of a run in an environment."""
    flags, _ = parse(_PlayFlags, argv, prog="play")
    with hushed():
        from agents.acting.person import play_environment

    play_environment(flags.run, seat=flags.seat, seed=flags.seed)
    return 0
