"""How a run is begun in a folder: whether it can be, and a start that changes nothing if it fails.

A folder with neither rows nor checkpoints, as a start that failed or was killed may leave it, is in
nobody's way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agents.config.environment import EnvConfig
from agents.config.train import TrainConfig
from agents.records.folder import RunFolder


def check_run_folder(
    config: TrainConfig | EnvConfig, *, resume: bool = False, overwrite: bool = False
) -> None:
    """Check that a run can be written, before anything expensive.

    Raises:
        ValueError: if the folder is not a run, is one already, or cannot be written.
    """
    folder = RunFolder(config.run_folder)
    if resume and overwrite:
        raise ValueError(
            "Expected resume or overwrite, got both: one goes on with the run, the other begins "
            "it anew."
        )
    if resume:
        _check_resumption(folder, config)
    else:
        if not overwrite and folder.config_path.exists() and folder.has_progress():
            raise ValueError(
                f"Expected a new folder, got the run {folder}: pass --resume to go on, --overwrite "
                "to replace it, or another --out."
            )
        _check_foreign(folder)
    parent = next(p for p in (folder.path, *folder.path.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(
            f"Expected a folder that can be written, got {parent} ({error.strerror}): pass another "
            "--out."
        ) from error


def _check_resumption(folder: RunFolder, config: TrainConfig | EnvConfig) -> None:
    if not folder.config_path.exists():
        raise ValueError(
            f"Expected a run in {folder} to resume, found none: leave out --resume, or name "
            "the run with --out."
        )
    before, free = folder.read_alike(config).to_json(), config.changeable()
    for name, value in config.to_json().items():
        if name not in free and before.get(name) != value:
            raise ValueError(
                f"Expected {name}={before[name]!r} as in the run to resume, got {value!r}: "
                "resume without it, or begin a new run with another --out."
            )
    done = folder.iterations_done()
    if not config.budget and config.iterations < done:
        raise ValueError(
            f"Expected at least {done} iterations, which the run has, got {config.iterations}: "
            "leave out --iterations, or pass more to go on."
        )


def _check_foreign(folder: RunFolder) -> None:
    """Check that a folder that a new run is to be written to holds nothing but a run."""
    if not folder.path.exists():
        return
    foreign = [folder.path]
    if folder.path.is_dir():
        known = [folder.log_path, folder.replaced_path]
        # Without a configuration it is no run, but files may have been cut short in a first start.
        known += folder.entries() if folder.config_path.is_file() else folder.cut_short()
        foreign = sorted(path for path in folder.path.iterdir() if path not in known)
    if foreign:
        raise ValueError(
            f"Expected a new or empty folder for the run, got {folder}, which holds something "
            f"else ({foreign[0].name}): pass another --out."
        )


@contextmanager
def begun(folder: RunFolder, *, resume: bool) -> Iterator[Callable[[], None]]:
    """Begin a run in a folder, or go on with it, so that a start that fails changes nothing.

    What a new run replaces is set aside first. The end of a shorter run goes when this one goes on.

    Yields:
        What to call once there is a row of the run. An error before that gives back what was there.
    """
    missing = [p for p in (folder.path, *folder.path.absolute().parents) if not p.exists()]
    folder.path.mkdir(parents=True, exist_ok=True)
    aside = folder.replaced_path
    if not resume:
        _set_aside(folder)
    has_begun = False

    def begin() -> None:
        nonlocal has_begun
        if not has_begun:
            _remove([aside, *(folder.ending if resume else ())])
            has_begun = True

    try:
        yield begin
    except BaseException:
        if not has_begun and not resume:
            _remove(folder.entries())
            for path in aside.iterdir() if aside.is_dir() else ():
                os.replace(path, folder.path / path.name)
            for path in (aside, *missing):
                with suppress(OSError):
                    path.rmdir()
        raise


def _set_aside(folder: RunFolder) -> None:
    """Move a run out of the way, or what a start that was killed has left beside one."""
    aside = folder.replaced_path
    if aside.exists():
        _remove(folder.entries())
    elif entries := folder.entries():
        aside.mkdir()
        for path in entries:
            os.replace(path, aside / path.name)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
