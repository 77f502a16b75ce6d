"""Which code and which machine made a run: `provenance.json` in its folder.

One entry for the start and one for every resumption that found something changed, so that runs of
two versions do not stand in one table unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agents.records.objects import write_json

_ROOT = Path(__file__).parents[2]


_LIBRARIES = ("torch", "transformers", "peft")


Entry = dict[str, Any]
"""`first_iteration`, and what `facts` returns."""


def facts(device: str) -> Entry:
    """Return what a run depends on besides its configuration.

    Args:
        device: that the run uses.
    """
    import torch  # late: tables and reports do without

    return {
        "sources": sources(_ROOT),
        "commit": _commit(_ROOT),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "device": device,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


def record(path: Path, first_iteration: int, now: Mapping[str, object]) -> None:
    """Note what makes the iterations from here on, if it is not what made those before.

    Args:
        path: of the file.
        first_iteration: 0, or where it is resumed.
        now: from `facts`.
    """
    kept = [e for e in read_provenance(path) if e["first_iteration"] < first_iteration]
    entry = {"first_iteration": first_iteration, **now}
    if not kept or {**kept[-1], "first_iteration": first_iteration} != entry:
        kept.append(entry)
        write_json(path, kept)


def read_provenance(path: Path) -> list[Entry]:
    """Return the entries of a file; none if there is none, as in runs of earlier versions.

    Raises:
        ValueError: if the file holds something else.
    """
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise ValueError(
            f"Expected a list of entries in {path}, got something else: remove that file."
        )
    return entries


def _is_entry(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("first_iteration"), int)
        and isinstance(value.get("sources"), str)
    )


def versions(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Return the digests of the code that made a run, in order; empty if that is not known."""
    return tuple(dict.fromkeys(entry["sources"] for entry in entries))


def version_name(entries: Sequence[Entry]) -> str:
    """Return what a reader can find the code by."""
    first = {entry["sources"]: entry for entry in reversed(entries)}
    names = [str(first[digest].get("commit") or digest) for digest in versions(entries)]
    return " then ".join(names) or "unknown"


@cache
def sources(root: Path) -> str:
    """Return a digest of the code of both packages: equal if and only if every file is."""
    digest = hashlib.sha256()
    for package in ("cory_env", "agents"):
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:12]


def _commit(root: Path) -> str | None:
    """Return the commit of a checkout, marked if the packages differ from it; None elsewhere.

    A folder of installed packages may lie inside somebody's repository, which does not track them.
    """
    try:
        _git(root, "ls-files", "--error-unmatch", "agents", "cory_env")
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "agents", "cory_env")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + (" with changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
