"""Checkpoints: safetensors and JSON, written whole or not at all, verified when read.

A checkpoint is a folder `step_<n>` with `state.safetensors`, `state.json` and the checksum of both
in `manifest.json`. It is built under another name, synced to disk and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.records.folder import CHECKPOINT_TENSORS, RunFolder

_FILES = (CHECKPOINT_TENSORS, "state.json")


def save_checkpoint(
    folder: RunFolder, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], keep: int
) -> Path:
    """Write one checkpoint and remove the oldest beyond `keep`.

    Args:
        folder: of the run.
        step: iterations done.
        tensors: the tensor part of the state.
        meta: the rest, as JSON takes it.
        keep: checkpoints to leave, at least 1.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: if it cannot be written; the checkpoints before it are untouched.
    """
    final = folder.checkpoint_path(step)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.tmp")
    for cut_short in final.parent.glob(".*.tmp"):
        shutil.rmtree(cut_short)
    temporary.mkdir()
    try:
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(plain, temporary / _FILES[0])
        (temporary / _FILES[1]).write_text(json.dumps(meta), encoding="utf-8")
        sums = {name: _checksum(temporary / name) for name in _FILES}
        (temporary / "manifest.json").write_text(json.dumps(sums), encoding="utf-8")
        for name in (*_FILES, "manifest.json"):
            _sync(temporary / name)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        _sync(final.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, SafetensorError):  # how safetensors reports a full disk
            raise OSError(f"Could not write the checkpoint {final}: {error}") from error
        raise
    for old in folder.checkpoints()[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read one checkpoint.

    Raises:
        ValueError: if it is incomplete or was changed after it was written.
    """
    check_checkpoint(path)
    try:
        meta = json.loads((path / _FILES[1]).read_text(encoding="utf-8"))
        return load_file(path / _FILES[0]), meta
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(path, error) from error


def check_checkpoint(path: Path) -> None:
    """Compare one checkpoint with its checksums.

    Raises:
        ValueError: if it is incomplete or was changed after it was written.
    """
    try:
        sums = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name in _FILES:
            if sums[name] != _checksum(path / name):
                raise ValueError(f"{name} does not match its checksum")
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"Expected a whole checkpoint in {path}, got a damaged one ({error}): delete this "
        "folder to resume from the one before."
    )


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors."""
    return {
        f"{prefix}/{index}/{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(
    prefix: str,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    place: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Put back what `optimizer_tensors` returned.

    Args:
        prefix: of the names.
        optimizer: of the same parameters.
        tensors: by name, whole.
        place: gives a tensor the form of a parameter.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}/"):
            index, name = key.removeprefix(f"{prefix}/").split("/")
            state.setdefault(int(index), {})[name] = place(parameters[int(index)], tensor)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
