"""A disk that is full, or may not be written, costs no iteration that was saved before."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from agents.config.train import TrainConfig
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.training.loop import train

QUIET = Console(quiet=True)
VALUES = {
    **{"task": "toy", "model": "tiny", "adapter": "full", "dtype": "float32", "device": "cpu"},
    **{"batch_size": 8, "minibatch_size": 4, "save_every": 1, "sample_every": 9, "keep": 1},
    **{"iterations": 3, "evaluation_queries": 0},
}


def resume(config: TrainConfig, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agents", "train", "toy", "--resume", "--out", config.out]
    return subprocess.run(
        [*command, "--iterations", str(config.iterations)],
        capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def final_tensors(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_checkpoint(RunFolder(config.run_folder).checkpoints()[-1])[0]


def no_large_files() -> None:
    """Let every file end at 200 kB, as on a disk that fills up; a checkpoint has 1 MB and more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_disk_that_fills_up_in_a_save_leaves_the_checkpoint_before(tmp_path):
    whole = TrainConfig(**VALUES, out=str(tmp_path / "whole"))
    parts = TrainConfig(**VALUES, out=str(tmp_path / "parts"))
    train(whole, console=QUIET)
    train(parts.replace(iterations=1), console=QUIET)
    failed = resume(parts, preexec_fn=no_large_files)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert "step_2" in failed.stderr
    folder = parts.run_folder / "checkpoints"
    assert [p.name for p in folder.iterdir()] == ["step_1"]
    assert resume(parts).returncode == 0
    found, expected = final_tensors(parts), final_tensors(whole)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_becomes_read_only_leaves_the_checkpoint_before(tmp_path):
    parts = TrainConfig(**VALUES, out=str(tmp_path / "parts"))
    train(parts.replace(iterations=1), console=QUIET)
    folder = parts.run_folder / "checkpoints"
    folder.chmod(0o500)
    failed = resume(parts)
    folder.chmod(0o700)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert [p.name for p in folder.iterdir()] == ["step_1"]
    assert resume(parts).returncode == 0
