"""The life of a run folder: whether it can be used, how far its run is, how it is begun anew.

What a run has done is its rows and its checkpoints. A folder with neither, as a start that failed
or was killed may leave it, is in nobody's way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.config.train import TrainConfig
from agents.records.rows import read_metrics

MAY_CHANGE_ON_RESUME = {
    "out",
    "device",
    "iterations",
    "save_every",
    "keep",
    "sample_every",
    "evaluation_queries",
    "trackers",
    "engine_url",
    "engine_memory",
    "imports",
}


_REPLACED = ".replaced"
"""Where a new run keeps what it replaces until it has a row of its own."""


_ENDING = ("final", ".final.tmp", "evaluation.json", "report.html")
"""What is written of a run once it has ended; untrue when it goes on."""


_LOG = "log.txt"
"""Where `compare`, or a shell, sends what a run prints: known, but not ours to move."""


_ENTRIES = {
    *("config.json", "provenance.json", "checkpoints", *_ENDING),
    *("metrics.jsonl", "samples.jsonl", "histograms.jsonl", "tensorboard", "wandb"),
}


_CUT_SHORT = re.compile(r"\..+\.tmp")
"""A file that was being written when its process was killed."""


def check_run_folder(config: TrainConfig, *, resume: bool = False, overwrite: bool = False) -> None:
    """Check that a run can be written, before anything expensive.

    Raises:
        ValueError: if the folder is not a run, is one already, or cannot be written.
    """
    folder = config.run_folder
    if resume and overwrite:
        raise ValueError(
            "Expected resume or overwrite, got both: one goes on with the run, the other begins "
            "it anew."
        )
    if resume:
        _check_resumption(config)
    else:
        if not overwrite and (folder / "config.json").exists() and has_progress(folder):
            raise ValueError(
                f"Expected a new folder, got the run {folder}: pass --resume to go on, --overwrite "
                "to replace it, or another --out."
            )
        _check_foreign(folder)
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(
            f"Expected a folder that can be written, got {parent} ({error.strerror}): pass another "
            "--out."
        ) from error


def _check_resumption(config: TrainConfig) -> None:
    folder = config.run_folder
    if not (folder / "config.json").exists():
        raise ValueError(
            f"Expected a run in {folder} to resume, found none: leave out --resume, or name "
            "the run with --out."
        )
    before = read_config(folder).to_json()
    for name, value in config.to_json().items():
        if name not in MAY_CHANGE_ON_RESUME and before[name] != value:
            raise ValueError(
                f"Expected {name}={before[name]!r} as in the run to resume, got {value!r}: "
                "resume without it, or begin a new run with another --out."
            )
    done = iterations_done(folder)
    if config.iterations < done:
        raise ValueError(
            f"Expected at least {done} iterations, which the run has, got {config.iterations}: "
            "leave out --iterations, or pass more to go on."
        )


def _check_foreign(folder: Path) -> None:
    """Check that a folder that a new run is to be written to holds nothing but a run."""
    if not folder.exists():
        return
    entries = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else [folder.name]
    is_run = (folder / "config.json").is_file()
    beside_runs = (_LOG, _REPLACED)
    for name in entries:
        known = name in beside_runs or _CUT_SHORT.fullmatch(name) or (is_run and name in _ENTRIES)
        if not known:
            raise ValueError(
                f"Expected a new or empty folder for the run, got {folder}, which holds something "
                f"else ({name}): pass another --out."
            )


def read_config(run: Path) -> TrainConfig:
    """Read the configuration of a run.

    Raises:
        ValueError: if there is no run in the folder.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"Expected a run folder with a config.json, got {run}.")
    try:
        return TrainConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"Expected a configuration in {path}, got something else: {error}"
        ) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in `checkpoints/` of a run, oldest first."""
    found = [p for p in folder.glob("step_*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def iterations_done(folder: Path) -> int:
    """Return how many iterations the last checkpoint of a run has behind it; 0 without one."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    return int(checkpoints[-1].name.removeprefix("step_")) if checkpoints else 0


def num_rows(folder: Path) -> int:
    """Return how many iterations a run has logged; it may be more than its checkpoints hold."""
    path = folder / "metrics.jsonl"
    return len(read_metrics(path)) if path.is_file() else 0


def has_progress(folder: Path) -> bool:
    """Return whether there is anything of a run to lose."""
    return iterations_done(folder) > 0 or num_rows(folder) > 0


def is_finished(config: TrainConfig) -> bool:
    """Return whether the run that is in the folder of a configuration is this one, to its end."""
    folder = config.run_folder
    evaluated = not config.evaluation_queries or (folder / "evaluation.json").is_file()
    return (
        iterations_done(folder) == config.iterations
        and evaluated
        and all((folder / name).exists() for name in ("final", "report.html"))
        and {**read_config(folder).to_json(), "out": ""} == {**config.to_json(), "out": ""}
    )


@contextmanager
def begun(folder: Path, *, resume: bool) -> Iterator[Callable[[], None]]:
    """Begin a run in a folder, or go on with it, so that a start that fails changes nothing.

    What a new run replaces is set aside first. The end of a shorter run goes when this one goes on.

    Yields:
        What to call once there is a row of the run. An error before that gives back what was there.
    """
    missing = [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / _REPLACED
    if not resume:
        _set_aside(folder, aside)
    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        if not has_begun:
            _remove([aside, *((folder / name for name in _ENDING) if resume else ())])
            has_begun = True

    try:
        yield begin
    except BaseException:
        if not has_begun and not resume:
            _remove(_entries(folder))
            for path in aside.iterdir() if aside.is_dir() else ():
                os.replace(path, folder / path.name)
            for path in (aside, *missing):
                with suppress(OSError):
                    path.rmdir()
        raise


def _set_aside(folder: Path, aside: Path) -> None:
    """Move a run out of the way, or what a start that was killed has left beside one."""
    if aside.exists():
        _remove(_entries(folder))
    elif entries := _entries(folder):
        aside.mkdir()
        for path in entries:
            os.replace(path, aside / path.name)


def _entries(folder: Path) -> list[Path]:
    """Return what a run has written to its folder."""
    return [
        path
        for path in folder.iterdir()
        if path.name in _ENTRIES or _CUT_SHORT.fullmatch(path.name)
    ]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
