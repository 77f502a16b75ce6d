"""Pack what a comparison has come to into a small folder, and unpack it again.

    python -m benchmarks.archive pack runs/frontier docs/results/frontier
    python -m benchmarks.archive unpack docs/results/frontier runs/frontier

Of every finished run the configuration, what made it, the metrics of all iterations and the
evaluation are kept; weights and texts are not. An unpacked comparison counts as finished: the same
`compare` command shows its table again, and with more seeds or variants it goes on.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from agents.records.folder import RunFolder
from agents.records.objects import write_json
from agents.studies.plan import evaluated_runs

FIGURES = ("results.json", "plane.png", "curves.png")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to do."""

    action: tyro.conf.Positional[Literal["pack", "unpack"]]
    source: tyro.conf.Positional[Path]
    target: tyro.conf.Positional[Path]


def pack(comparison: Path, folder: Path) -> int:
    """Write results, the picture and `runs.tar.xz`; return the number of runs.

    Raises:
        ValueError: if there is no finished run.
    """
    runs = evaluated_runs(comparison)
    if not runs:
        raise ValueError(f"Expected finished runs in {comparison}/runs, got none.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        if (comparison / name).exists():
            shutil.copy(comparison / name, folder / name)
    partial = folder / "runs.tar.xz.tmp"
    with tarfile.open(partial, "w:xz", preset=9) as archive:
        for run in runs:
            for path, content in _kept(run).items():
                _add(archive, str(path.relative_to(comparison)), content)
    partial.replace(folder / "runs.tar.xz")
    return len(runs)


def _kept(run: RunFolder) -> dict[Path, bytes]:
    """Return the files of a run that are kept, without its folder's name: `unpack` gives another.

    A run may be of a version that is no longer read, so its configuration is left as it stands.
    """
    config = json.dumps(run.read_config_values() | {"out": ""}, indent=2) + "\n"
    paths = (run.provenance_path, run.metrics_path, run.evaluation_path)
    others = {path: path.read_bytes() for path in paths if path.exists()}
    return {run.config_path: config.encode(), **others}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without owner and time: the same runs give the same archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def unpack(folder: Path, comparison: Path) -> int:
    """Put the runs into a comparison's folder; return their number.

    Raises:
        ValueError: if a run is there already.
    """
    with tarfile.open(folder / "runs.tar.xz") as archive:
        names = archive.getnames()
        for name in names:
            if (comparison / name).exists():
                raise ValueError(f"Expected a folder without {name}, got {comparison}.")
        archive.extractall(comparison, filter="data")
    runs = [RunFolder(path) for path in {(comparison / name).parent for name in names}]
    for run in runs:  # a run knows where it lies
        write_json(run.config_path, run.read_config_values() | {"out": str(run)})
    return len(runs)


def main() -> None:
    """Pack or unpack."""
    arguments = tyro.cli(Arguments, description=__doc__)
    act = {"pack": pack, "unpack": unpack}[arguments.action]
    print(f"{act(arguments.source, arguments.target)} runs: {arguments.target}")


if __name__ == "__main__":
    main()
