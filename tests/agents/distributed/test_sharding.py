"""Two processes with half of every layer each learn what one learns with all of it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.distributed.sharding import asked_sharding, clip_gradients
from agents.distributed.world import World
from agents.errors import ProcessError
from agents.models.tiny import tiny_model
from agents.policies.averages import shown
from agents.records.checkpoint import load_checkpoint
from agents.training.trainer import Trainer
from cory_env import make_task
from tests.agents.sharding_worker import learn
from tests.trajectories import timeless

ROOT = Path(__file__).parents[3]
SMALL = {
    **{"task": "toy", "model": "tiny", "adapter": "full", "dtype": "float32", "device": "cpu"},
    **{"batch_size": 16, "minibatch_size": 8, "epochs": 2, "kl_coef": 0.1, "swap_every": 1},
    "iterations": 3,
}
CASES = {
    "full": {"critic_body": "own", "microbatch_size": 3, "max_grad_norm": 0.05, "average": 0.7},
    "lora": {
        **{"adapter": "lora", "algorithm": "ippo", "gradient_checkpointing": True},
        "average": 0.7,
    },
    "resumed": {"critic_body": "policy", "rollout_ahead": 1},
}
# Two layers of tiny, float32: 4 · 64 · 64 + 3 · 64 · 128 weights and 2 norms of 64.
LAYERS = 2 * 4 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64)
MORE = {
    "dora": {"adapter": "dora", "critic_body": "own"},
    "happo": {"algorithm": "happo", "gradient_checkpointing": True, "microbatch_size": 2},
    "three": {"adapter": "lora", "observers": 2, "algorithm": "reinforce++"},
}


def launch(folder: Path, config: str, *flags: str) -> None:
    command = ["accelerate", "launch", "--config_file", str(ROOT / "configs" / config), *flags]
    command[0] = str(Path(sys.executable).parent / command[0])
    result = subprocess.run(
        [*command, "-m", "tests.agents.sharding_worker", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout


def configure(folder: Path, cases: dict[str, dict]) -> dict[str, TrainConfig]:
    configs = {
        name: TrainConfig(**{**SMALL, **changes, "out": str(folder / name)})
        for name, changes in cases.items()
    }
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config.to_json()))
    return configs


@pytest.fixture(scope="module")
def spread(tmp_path_factory) -> dict[str, TrainConfig]:
    folder = tmp_path_factory.mktemp("spread")
    configs = configure(folder, CASES)
    learn(configs["resumed"], World(), until=1)
    launch(folder, "fsdp2.yaml")
    return configs


def assert_alike(found: TrainConfig, expected: TrainConfig, step: int = 3) -> None:
    tensors, others = (
        load_checkpoint(config.run_folder / f"checkpoints/step_{step}")[0]
        for config in (found, expected)
    )
    # More, if anything: what gets no gradient has one of zeros, and moments, among several.
    assert tensors.keys() >= others.keys()
    for key, tensor in others.items():
        assert tensors[key].shape == tensor.shape, key
        if key.startswith(("policy/", "critic/", "average/")):
            # The same sums in another order: float32 rounding, over 12 steps of Adam at 2e-3. Where
            # a gradient is nothing but rounding, Adam turns it into a step of either sign.
            differing = (tensors[key] - tensor).abs() > 1e-4
            assert differing.float().mean() < 0.02, key


def result(config: TrainConfig) -> dict:
    return json.loads((config.run_folder / "rows.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_spread_layers_learn_what_whole_ones_learn(spread, case, tmp_path):
    alone = spread[case].replace(out=str(tmp_path))
    _, rows = learn(alone, World())
    assert_alike(spread[case], alone)
    for row, other in zip(result(spread[case])["rows"][::-1], rows[::-1], strict=False):
        assert row.keys() == other.keys()
        for key in timeless(row):
            value = other[key]
            if not isinstance(value, str):
                value = pytest.approx(value, rel=2e-3, abs=2e-4)
            assert row[key] == value, key


def test_a_run_of_spread_layers_goes_on_in_one_process(spread, tmp_path):
    alone, parts = (spread["full"].replace(out=str(tmp_path / name)) for name in "ab")
    shutil.copytree(spread["full"].run_folder, parts.run_folder)
    learn(alone, World(), until=4)
    _, rows = learn(parts, World(), until=4)
    assert len(rows) == 1
    assert_alike(parts, alone, step=4)


@pytest.mark.parametrize("case", ["full", "lora"])
def test_each_process_holds_half_of_the_layers(spread, case):
    assert result(spread[case])["held"] == [LAYERS // 2, LAYERS // 2]


def test_layers_that_each_machine_has_a_copy_of_learn_what_whole_ones_learn(tmp_path):
    # with a norm that gradients are clipped to: what two machines hold counts once
    configs = configure(tmp_path, {"copies": {**CASES["full"], "adapter": "full"}})
    launch(tmp_path, "hsdp.yaml", "--num_machines=1")
    alone = configs["copies"].replace(out=str(tmp_path / "alone"))
    _, rows = learn(alone, World())
    assert_alike(configs["copies"], alone)
    assert result(configs["copies"])["held"] == [LAYERS // 2] * 4
    found = result(configs["copies"])["rows"]
    for name in ("llm_0/gradient_norm", "llm_1/gradient_norm"):
        assert [row[name] for row in found] == pytest.approx([r[name] for r in rows], rel=2e-3)


@pytest.mark.parametrize("case", ["full", "lora"])
def test_the_final_policies_load_without_this_package(spread, case):
    run = spread[case].run_folder
    trainer = Trainer(spread[case], World())
    trainer.load_state(*load_checkpoint(run / "checkpoints/step_3"))
    base, _ = tiny_model(make_task("toy"), spread[case].seed)
    ids, policies = torch.arange(5)[None], trainer.policies
    assert trainer.averages.taken == [2, 3]
    for folder, means in (("final", trainer.averages.means()), ("final/last", {})):
        path = run / folder / "llm_1"
        if case == "full":
            model = AutoModelForCausalLM.from_pretrained(path)
        else:
            model = PeftModel.from_pretrained(copy.deepcopy(base), path).eval()
        of_policy = policies["llm_1"].backbone.use_adapter("llm_1")
        with torch.no_grad(), shown(policies, means), of_policy as expected:
            torch.testing.assert_close(model(ids).logits, expected(ids).logits)


def test_gradients_of_whole_parameters_are_clipped_as_torch_does():
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    weights[0].grad, weights[1].grad = torch.tensor([0.0, 3.0, 0.0]), torch.tensor([4.0, 0.0])
    assert float(clip_gradients(weights, 2.5, World())) == 5.0
    torch.testing.assert_close(weights[0].grad, torch.tensor([0.0, 1.5, 0.0]))


def refuse(monkeypatch, match: str, quantization: str = "none", **variables: str) -> None:
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=match):
        asked_sharding(World(0, 2), torch.device("cpu"), quantization)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("FSDP_VERSION", "1", "fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "--gradient-checkpointing"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "fsdp_auto_wrap_policy"),
    ],
)
def test_what_the_launcher_asks_for_in_vain_is_refused(monkeypatch, name, value, match):
    refuse(monkeypatch, match, **{name: value})


def test_deepspeed_is_refused_before_processes_meet(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert main(["train", "toy", "--model", "tiny", "--out", str(tmp_path / "run")]) == 2
    assert "take configs/zero2.yaml or configs/zero3.yaml" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_copies_times_shards_are_all_processes(monkeypatch):
    sizes = {"PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "3"}
    refuse(monkeypatch, r"to be the 2 processes, got 2 × 3", **sizes)


def test_quantized_layers_are_not_spread(monkeypatch):
    refuse(monkeypatch, "quantization none with FSDP2", quantization="4bit")


def test_one_process_spreads_nothing(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert asked_sharding(World(), torch.device("cpu"), "4bit") is None


@pytest.mark.slow
@pytest.mark.parametrize("config", ["zero2.yaml", "zero3.yaml"])
def test_every_form_of_it_learns_the_same(tmp_path, config):
    cases = CASES | MORE
    configs = configure(tmp_path, cases)
    launch(tmp_path, config)
    for name, there in configs.items():
        alone = there.replace(out=str(tmp_path / f"{name}-alone"))
        learn(alone, World())
        assert_alike(there, alone)


def test_the_loss_of_a_process_is_one_line_and_other_errors_are_left():
    with pytest.raises(ProcessError, match="process 0 has lost another"), World(0, 2).together():
        raise RuntimeError("[/x/gloo/transport/tcp/pair.cc:1] Read error: Connection reset")
    with pytest.raises(RuntimeError, match="shapes"), World(0, 2).together():
        raise RuntimeError("shapes do not fit")
