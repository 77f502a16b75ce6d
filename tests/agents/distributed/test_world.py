"""Two processes with half of every batch each are one process with the whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from agents.config.train import TrainConfig
from agents.distributed.world import World
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.records.rows import read_metrics
from agents.training.loop import train
from agents.training.trainer import Trainer
from tests.agents.fakes import flags
from tests.agents.world_worker import learn
from tests.trajectories import timeless

ROOT = Path(__file__).parents[3]
SMALL = {
    **{"task": "toy", "model": "tiny", "adapter": "full", "dtype": "float32", "device": "cpu"},
    **{"batch_size": 16, "minibatch_size": 8, "epochs": 2, "kl_coef": 0.1, "swap_every": 1},
}
CASES = {
    "mappo": {"value_normalization": True, "whitening": "joint", "kl_target": 1.0},
    "lora": {"algorithm": "ippo", "adapter": "lora", "reward_scaling": "normalize"}
    | {"iterations": 3, "average": 0.7, "swap": "merge"},
    "prune": {"adapter": "lora", "lora_prune": 0.5, "lora_prune_every": 2, "lora_ramp": "2:6"},
    "happo": {"algorithm": "happo", "normalization": "token", "microbatch_size": 3},
    "policy": {"critic_body": "policy", "normalization": "sequence", "value_clip": 0.2},
    "grpo": {"algorithm": "grpo", "group_size": 4, "max_step_kl": 1e-5},
    "practice": {"practice": "all", "freeze": "llm_1", "partners": "pool:1", "solo_share": 0.5},
    "vine": {"algorithm": "vine", "segment": "tokens:1", "group_size": 2},
    "archer": {"algorithm": "archer", "min_correlation": -1.0, "fresh": 2, "buffer_size": 40},
    "expert_iteration": {
        **{"algorithm": "expert_iteration", "group_size": 4, "accept": "top:0.25"},
        **{"finished": False, "learn_every": 2, "restart": "beginning", "distill": "both"},
    },
    "rcrl": {
        **{"algorithm": "rcrl", "group_size": 2, "finished": False, "learn_every": 1},
        **{"good_label": ",", "bad_label": "="},
    },
    "step_dpo": {"algorithm": "step_dpo"},
    "ahead": {"rollout_ahead": 1, "learning_rate": 0.01},
    "rounds": {"rounds": 2, "reward_sharing": "last", "swap_every": 1},
    "shared": {"shared_policy": True, "algorithm": "reinforce++"},
    "three": {"observers": 2, "algorithm": "reinforce++"},
}


def launch(*arguments: str, **options) -> subprocess.Popen:
    command = ["accelerate", "launch", "--config_file", str(ROOT / "configs/data_parallel.yaml")]
    return subprocess.Popen(
        [str(Path(sys.executable).parent / command[0]), *command[1:], *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for name, changes in CASES.items():
        (folder / f"{name}.config.json").write_text(json.dumps({**SMALL, **changes}))
    process = launch("-m", "tests.agents.world_worker", str(folder))
    assert process.wait(300) == 0, process.stdout.read()
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(two_processes, case):
    tensors, rows = learn(TrainConfig(**{**SMALL, **CASES[case]}), World())
    found = load_file(two_processes / f"{case}.st")
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        if key.startswith(("policy/", "critic/", "average/")):
            # The same sums in another order: float32 rounding, over 12 steps of Adam at 2e-3. Where
            # a gradient is nothing but rounding, Adam turns it into a step of either sign.
            differing = (found[key] - tensor).abs() > 1e-4
            assert differing.float().mean() < 0.02, key
    found = json.loads((two_processes / f"{case}.rows.json").read_text())
    for row, other in zip(found, rows, strict=True):
        assert row.keys() == other.keys()
        for key in timeless(row):
            value = other[key]
            if not (isinstance(value, str) or key.endswith("_total")):
                value = pytest.approx(value, rel=2e-3, abs=2e-4)
            assert row[key] == value, key


def test_processes_that_cannot_share_equally_are_refused(toy_config):
    with pytest.raises(ValueError, match="3 processes to share minibatches of 4"):
        Trainer(toy_config(), World(0, 3))
    with pytest.raises(ValueError, match=r"each of the 4 turns of a policy: .* that 8 divides"):
        Trainer(toy_config(rounds=2, shared_policy=True), World(0, 2))
    with pytest.raises(ValueError, match="groups of 8 equally"):
        Trainer(toy_config(algorithm="grpo"), World(0, 2))


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_run_goes_on_with_any_number(tmp_path, toy_config):
    options = {**SMALL, "iterations": 60, "save_every": 5, "evaluation_queries": 0}
    whole = toy_config(**options, out=str(tmp_path / "whole"))
    train(whole)
    parts = whole.replace(out=str(tmp_path / "parts"))
    process = launch("-m", "agents", "train", "toy", *flags(parts))
    metrics = parts.run_folder / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 12):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    ranks = [p for p in psutil.Process(process.pid).children(recursive=True)]
    victim = next(p for p in ranks if p.environ().get("RANK") == "1")
    victim.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Expected 2 processes to go on together, but process 0 has lost another one" in output
    assert not RunFolder(parts.run_folder).checkpoints()[-1].name.endswith("60")
    train(parts, resume=True)
    assert [row["iteration"] for row in read_metrics(metrics)] == list(range(60))
    rewards = [
        torch.tensor(
            [row["llm_0/task_reward"] for row in read_metrics(c.run_folder / "metrics.jsonl")]
        )
        for c in (whole, parts)
    ]
    # Not to the bit: two processes have added in another order, and rounding grows until they draw
    # another token. At first they are the same, and the data and draws are so to the end.
    assert float((rewards[0] - rewards[1])[:10].abs().max()) < 0.1
    states = [load_checkpoint(RunFolder(c.run_folder).checkpoints()[-1])[1] for c in (whole, parts)]
    assert states[0]["queries"] == states[1]["queries"]


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_with_two_and_an_interrupt_saves_it(tmp_path, toy_config):
    options = {**SMALL, "iterations": 4, "save_every": 2, "evaluation_queries": 8}
    whole = toy_config(**options, out=str(tmp_path / "whole"))
    train(whole)
    parts = whole.replace(out=str(tmp_path / "parts"), iterations=2)
    train(parts)
    process = launch("-m", "agents", "train", "toy", "--resume", "--iterations", "4", "--out",
                     parts.out)  # fmt: skip
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    found, expected = (
        load_checkpoint(RunFolder(c.run_folder).checkpoints()[-1])[0] for c in (parts, whole)
    )
    for key in expected:
        if key.startswith("policy/"):
            differing = (found[key] - expected[key]).abs() > 1e-4
            assert differing.float().mean() < 0.02, key
    assert (parts.run_folder / "report.html").exists()
