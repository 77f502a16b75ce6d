"""Whether a run folder can be used, checked before anything expensive."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from agents.config import TrainConfig

MAY_CHANGE_ON_RESUME = {
    "out",
    "iterations",
    "save_every",
    "keep",
    "sample_every",
    "evaluation_queries",
    "trackers",
    "engine_url",
    "engine_memory",
}


def check_run_folder(config: TrainConfig, resume: bool) -> None:
    """Check that a run can be written, before anything expensive.

    Raises:
        ValueError: if the folder is not a run, is one already, or cannot be written.
    """
    folder = config.run_folder
    stored = folder / "config.json"
    if resume:
        if not stored.exists():
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
    elif stored.exists():
        raise ValueError(
            f"Expected a new folder, got the run {folder}: pass --resume to go on, or another "
            "--out."
        )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"Expected a new or empty folder for the run, got {folder}, which holds something "
            "else: pass another --out."
        )
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(
            f"Expected a folder that can be written, got {parent} ({error.strerror}): pass another "
            "--out."
        ) from error


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
