"""A run that is killed at any moment goes on to the very end it would have had."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from agents.config.train import TrainConfig
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.records.rows import read_metrics
from agents.training.loop import train
from tests.trajectories import timeless

VALUES = {
    **{"task": "toy", "model": "tiny", "adapter": "full", "dtype": "float32", "device": "cpu"},
    **{"batch_size": 16, "minibatch_size": 8, "kl_coef": 0.1, "kl_target": 1.0},
    **{"swap": "plateau", "swap_every": 2, "save_every": 3, "sample_every": 4},
    **{"iterations": 60, "evaluation_queries": 16},
}
CASES = {
    "mappo": {},
    # The buffer holds three of sixty iterations: it is wrapped from the fourth on.
    "archer": {"algorithm": "archer", "buffer_size": 48, "min_correlation": -1.0},
    # A policy takes eight steps an iteration: the prunes are in iterations 13, 25, 38 and 50.
    "pruned": {"adapter": "lora", "lora_prune": 0.5, "lora_prune_every": 100},
}


def learn(out: str, case: str) -> None:
    """Begin a run, or go on with it, as a user would who knows nothing of its state."""
    torch.set_num_threads(1)
    resume = (Path(out) / "config.json").exists()
    config = TrainConfig(**{**VALUES, **CASES[case]}, out=out)
    train(config, resume=resume, console=Console(quiet=True))


def rows_without_times(folder: Path) -> list[dict]:
    return [timeless(row) for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kills"), [("mappo", 30), ("archer", 10), ("pruned", 10)])
def test_kills_at_random_moments_change_nothing(tmp_path, case, kills):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agents.training.loop"])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    begun = time.monotonic()
    undisturbed = context.Process(target=learn, args=(str(whole), case))
    undisturbed.start()
    undisturbed.join()
    assert undisturbed.exitcode == 0
    duration = time.monotonic() - begun

    moments = random.Random(0)
    killed, found_at = 0, []
    while killed < kills:
        process = context.Process(target=learn, args=(str(parts), case))
        process.start()
        # Anything from the first imports to the end of a run.
        process.join(moments.uniform(0.0, duration / 4))
        if process.is_alive():
            process.kill()
            process.join()
            killed += 1
            found_at.append(len(RunFolder(parts).checkpoints()))
        elif process.exitcode != 0:
            pytest.fail(f"a run that had been killed {killed} times ended with {process.exitcode}")
    last = context.Process(target=learn, args=(str(parts), case))
    last.start()
    last.join()
    assert last.exitcode == 0

    ends = [RunFolder(folder).checkpoints()[-1] for folder in (parts, whole)]
    assert [end.name for end in ends] == ["step_60", "step_60"]
    (tensors, meta), (expected_tensors, expected_meta) = map(load_checkpoint, ends)
    assert timeless(meta) == timeless(expected_meta)
    assert all(torch.equal(tensors[key], expected_tensors[key]) for key in expected_tensors)
    assert rows_without_times(parts) == rows_without_times(whole)
    for file in ("evaluation.json", "samples.jsonl", "config.json"):
        texts = [(folder / file).read_text().replace(str(folder), "") for folder in (parts, whole)]
        assert texts[0] == texts[1], file
    assert json.loads((parts / "evaluation.json").read_text())["num_queries"] == 16
    leftovers = [p.name for p in parts.rglob("*") if p.name.endswith(".tmp")]
    assert not leftovers
