"""`average`: the mean of policies as a folder that peft or transformers loads by itself."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from agents import TrainConfig, load_policy, train
from agents.cli.main import main
from agents.models.loading import load_base
from agents.models.make import make_backbone
from agents.publishing.average import average
from agents.terminal.hush import hushed
from tests.agents.small_models import STORIES, make_base, move

IDS = torch.tensor([[1, 403, 407, 261, 378, 432]])
# Sums of float32 in another order; the policies below lie 0.1 and more from their base.
ORDER = {"atol": 1e-4, "rtol": 1e-4}
PAIR = ("llm_0", "llm_1")


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(input_ids=IDS).logits.float()


@pytest.fixture
def make_pair(tmp_path):
    """Return a function that saves a base and two policies of it."""

    def make(
        kind: str = "stories260K", adapter: str = "lora", moved: float = 0.05, **options
    ) -> list[Path]:
        base, tokenizer = make_base(kind)
        base.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        folders = []
        for seed, name in enumerate(PAIR):
            loaded = load_base(str(tmp_path / "base"), torch.float32)
            backbone = make_backbone(
                *loaded, [name], adapter=adapter, dtype=torch.float32, seed=seed,
                device=torch.device("cpu"), **{"rank": 4 + 2 * seed, **options},
            )  # fmt: skip
            move(backbone, (name,), moved * (1 + seed))
            folders.append(tmp_path / name)
            backbone.save_pretrained(name, folders[-1])
        return folders

    return make


def mean_of_weights(folders: list[Path], shares: list[float]) -> nn.Module:
    """Merge every adapter into a base of its own, and take the mean of all that comes of it."""
    models = [load_policy(folder, dtype="float32").backbone.base for folder in folders]
    states = [model.state_dict() for model in models]
    mean = {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
        for name in states[0]
    }
    models[0].load_state_dict(mean)
    return models[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stories260K", {}),
        ("stories260K", {"targets": ["q_proj"]}),
        ("stories260K", {"rank_pattern": {"layers.0": 1, "mlp": 3}}),
        ("stories260K", {"targets": ["lm_head", "embed_tokens"]}),
        ("gpt2", {"targets": ["wte", "lm_head", "c_attn"]}),
        ("llama", {}),
    ],
)
def test_the_mean_loads_with_peft_alone_and_has_the_logits_of_the_mean_weights(
    make_pair, tmp_path, kind, options
):
    folders = make_pair(kind, **options)
    found = average(folders, tmp_path / "mean", weights=(3, 1), rank=10)
    with hushed():
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        plain = logits(base)
        mean = logits(PeftModel.from_pretrained(base, str(found.folder)))
    torch.testing.assert_close(mean, logits(mean_of_weights(folders, [0.75, 0.25])), **ORDER)
    assert (mean - plain).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(found.folder)("Tim").input_ids
    assert json.loads((found.folder / "adapter_config.json").read_text())["r"] == 10


def test_the_rank_left_to_itself_is_said_with_its_error(make_pair, tmp_path, capsys):
    folders = make_pair()
    out = tmp_path / "mean"
    assert main(["average", *map(str, folders), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    config = json.loads((out / "adapter_config.json").read_text())
    assert said.startswith(f"{out}: mean of llm_0, llm_1, rank {config['r']}, relative error 0.")
    assert 6 < config["r"] <= 10
    assert config["lora_alpha"] == config["r"]
    assert not config["rank_pattern"]
    narrow = average(folders, tmp_path / "narrow", rank=2)
    assert narrow.error > 0.01
    assert load_file(tmp_path / "narrow" / "adapter_model.safetensors")[
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    ].shape == (2, 64)


def test_one_adapter_is_scaled(make_pair, tmp_path):
    (folder, _) = make_pair()
    average([folder], tmp_path / "half", scale=0.5, rank=4)
    half, whole = (
        load_policy(f, dtype="float32").backbone.base.state_dict()
        for f in (tmp_path / "half", folder)
    )
    base = make_base("stories260K")[0].state_dict()
    for name, weight in half.items():
        torch.testing.assert_close(weight, (base[name] + whole[name]) / 2, rtol=0, atol=1e-5)


def test_a_quantised_base_is_neither_read_nor_changed(make_pair, tmp_path):
    folders = make_pair()
    with hushed():
        base = AutoModelForCausalLM.from_pretrained(
            tmp_path / "base",
            quantization_config=BitsAndBytesConfig(load_in_4bit=True),
            device_map={"": "cpu"},
        )
        singles = []
        for folder in folders:
            adapted = PeftModel.from_pretrained(base, str(folder))
            singles.append({n: m for n, m in adapted.named_parameters() if "lora" in n})
            base = adapted.unload()
    shutil.rmtree(tmp_path / "base")
    average(folders, tmp_path / "mean", rank=10)
    with hushed():
        mean = PeftModel.from_pretrained(base, str(tmp_path / "mean"))
    layer = mean.base_model.model.model.layers[1].self_attn.q_proj
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    name = "base_model.model.model.layers.1.self_attn.q_proj"
    wanted = layer.base_layer(x) + sum(
        x @ own[f"{name}.lora_A.default.weight"].T @ own[f"{name}.lora_B.default.weight"].T
        for own in singles  # α is 2 r, and each counts half
    )
    torch.testing.assert_close(layer(x), wanted, **ORDER)


def test_dora_keeps_its_kind_has_mean_magnitudes_and_is_off_in_second_order(make_pair, tmp_path):
    layer = "model.layers.1.self_attn.q_proj"
    name = f"base_model.model.{layer}.lora_magnitude_vector"
    errors = []
    for moved in (0.01, 0.005):
        folders = make_pair(adapter="dora", moved=moved)
        out = average(folders, tmp_path / f"mean_{moved}", rank=10).folder
        states = [load_file(f / "adapter_model.safetensors") for f in (*folders, out)]
        torch.testing.assert_close(states[2][name], (states[0][name] + states[1][name]) / 2)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
        found = load_policy(out, dtype="float32").backbone.base.state_dict()
        wanted = mean_of_weights(folders, [0.5, 0.5]).state_dict()
        error, way = (found, wanted), (wanted, base)
        norms = [(a[f"{layer}.weight"] - b[f"{layer}.weight"]).norm() for a, b in (error, way)]
        errors.append(float(norms[0] / norms[1]))
    # Of the way from the base, half as much at half the way; to third order.
    assert errors[0] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)


@pytest.mark.parametrize("kind", ["stories260K", "llama"])
def test_whole_models_have_the_mean_of_their_weights(make_pair, tmp_path, kind):
    folders = make_pair(kind, adapter="full")
    found = average(folders, tmp_path / "mean", weights=(1, 3))
    assert (found.rank, found.error) == (0, 0)
    mean = AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    ours, theirs = (model.state_dict() for model in models)
    for name, weight in mean.state_dict().items():
        torch.testing.assert_close(weight, ours[name] / 4 + 3 * theirs[name] / 4)
    assert not torch.equal(logits(mean), logits(models[0]))
    assert str(tmp_path) not in (tmp_path / "mean" / "config.json").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished pair with two checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "pair"
    config = TrainConfig(
        **{"task": "imdb", "model": str(STORIES), "dtype": "float32", "iterations": 2},
        **{"batch_size": 4, "minibatch_size": 4, "evaluation_queries": 0, "learning_rate": 0.05},
        **{"save_every": 1, "max_new_tokens": 4, "lora_rank": 2},
        out=str(out),
    )
    return train(config, console=Console(file=io.StringIO())).folder


def test_a_run_stands_for_its_pair_and_its_card_says_so(run, tmp_path):
    assert main(["average", str(run), "--out", str(tmp_path / "mean")]) == 0
    names = {path.name for path in (tmp_path / "mean").iterdir()}
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= names
    assert "curves.png" not in names
    _, head, body = (tmp_path / "mean" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "peft"
    assert {"cory", "merge", "imdb"} <= set(yaml.safe_load(head)["tags"])
    assert "| pair/llm_0 | 0.5 |\n| pair/llm_1 | 0.5 |" in body
    assert 'AutoPeftModelForCausalLM.from_pretrained("mean")' in body
    assert str(STORIES) not in body
    assert str(run.parent) not in body
    # ... and is a policy like others.
    assert load_policy(tmp_path / "mean", dtype="float32").name == "mean"


def test_the_last_checkpoint_of_a_policy_is_its_final_adapter(run, tmp_path):
    ours = [run / "checkpoints" / "step_2" / "llm_1", run / "final" / "llm_1"]
    for index, source in enumerate(ours):
        average([source], tmp_path / str(index), rank=2)
    first, second = (load_file(tmp_path / i / "adapter_model.safetensors") for i in "01")
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_checkpoints_of_one_policy_are_averaged_and_those_of_all(run, tmp_path, capsys):
    steps = [str(run / "checkpoints" / name) for name in ("step_1", "step_2")]
    argv = ["--out", str(tmp_path / "one"), "--weights", "1", "2"]
    assert main(["average", f"{steps[0]}/llm_0", f"{steps[1]}/llm_0", *argv]) == 0
    assert "mean of pair/step_1/llm_0, pair/step_2/llm_0" in capsys.readouterr().out
    assert main(["average", *steps, "--out", str(tmp_path / "all")]) == 0
    assert "pair/step_1/llm_1, pair/step_2/llm_0" in capsys.readouterr().out


def test_a_checkpoint_of_an_averaged_run_is_its_last_iterate(toy_config, tmp_path):
    config = toy_config(adapter="lora", average=0.5)
    folder = train(config, console=Console(file=io.StringIO())).folder
    sources = [folder / "checkpoints/step_4/llm_1", folder / "final/last/llm_1"]
    sources.append(folder / "final/llm_1")
    found = [average([s], tmp_path / str(i), rank=16) for i, s in enumerate(sources)]
    last, checkpoint, mean = (
        load_file(tmp_path / i / "adapter_model.safetensors") for i in ("1", "0", "2")
    )
    assert found[1].policies == ("run/last/llm_1",)
    # The scaling is that of the last iterate, not that of the average beside it.
    assert all(torch.equal(tensor, last[name]) for name, tensor in checkpoint.items())
    assert any(not torch.equal(tensor, last[name]) for name, tensor in mean.items())


def test_checkpoints_of_whole_models_are_averaged(toy_config, tmp_path):
    folder = train(toy_config(), console=Console(file=io.StringIO())).folder
    average([folder / "checkpoints/step_4/llm_0"] * 2, tmp_path / "mean")
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    final = load_file(folder / "final" / "llm_0" / "model.safetensors")
    assert mean.keys() == final.keys()
    for name, tensor in final.items():
        torch.testing.assert_close(mean[name], tensor, rtol=0, atol=1e-7)


def test_policies_that_have_no_mean_are_refused_in_one_line(make_pair, tmp_path, run, capsys):
    ours, theirs = make_pair(targets=["q_proj"])
    shutil.copytree(ours, tmp_path / "other")
    capsys.readouterr()

    def refused(*words: str | Path, out: str = "new") -> str:
        assert main(["average", *map(str, words), "--out", str(tmp_path / out)]) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert not (tmp_path / "new").exists()
        return said.err.removeprefix("error: Expected ")

    def changed(**values) -> Path:
        config = json.loads((ours / "adapter_config.json").read_text())
        (tmp_path / "other" / "adapter_config.json").write_text(json.dumps({**config, **values}))
        return tmp_path / "other"

    assert refused(ours).startswith("at least two policies to average, got llm_0.")
    assert refused(ours, theirs, "--weights", "1").startswith("2 weights, for llm_0, llm_1, got 1")
    assert "weights of at least 0, and one above" in refused(ours, theirs, "--weights", "0", "0")
    assert "weights of at least 0" in refused(ours, theirs, "--weights", "1", "-1")
    assert "weights of at least 0" in refused(ours, theirs, "--weights", "1", "nan")
    assert "scale to be a finite number" in refused(ours, theirs, "--scale", "inf")
    assert "rank to be at least 0" in refused(ours, theirs, "--rank", "-1")
    assert refused(ours, run / "final" / "llm_0").startswith("policies of one base model")
    assert refused(ours, STORIES).startswith("policies of one kind, got adapter and whole")
    assert refused(ours, changed(use_dora=True)).startswith("policies of one kind, got use_dora")
    assert "fan_in_fan_out" in refused(ours, changed(fan_in_fan_out=True))
    assert "got the kind IA3" in refused(ours, changed(peft_type="IA3"))
    assert "changes the base" in refused(ours, changed(init_lora_weights="pissa"))
    assert "another base" not in refused(ours, changed(revision="v2"))
    assert "of a run, or the folder" not in refused(ours, tmp_path / "nothing")
    assert "new or empty folder" in refused(ours, theirs, out="base")
    assert "whose base is not beside" in refused(STORIES, STORIES, "--scale", "2")
    assert "a policy of the checkpoint" in refused(run / "checkpoints" / "step_1" / "llm_7")


def test_tensors_and_tokens_must_be_alike(make_pair, tmp_path):
    ours, theirs = make_pair(targets=["q_proj"])
    path = theirs / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"

    def refused(values: dict[str, Tensor], words: str) -> None:
        save_file(values, path)
        with pytest.raises(ValueError, match=words):
            average([ours, theirs], tmp_path / "new")

    refused({**tensors, name: torch.zeros(5, 6)}, r"one shape, got .*lora_B.weight of \(64,\) and")
    refused({k: v for k, v in tensors.items() if "layers.0" not in k}, "one set of layers, got no")
    refused(
        {**tensors, "base_model.model.lm_head.weight": torch.zeros(1)}, "low-rank factors alone"
    )
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="a whole safetensors file"):
        average([ours, theirs], tmp_path / "new")
    save_file(tensors, path)
    tokenizer = json.loads((theirs / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "content": "<new>"})
    (theirs / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="of one vocabulary"):
        average([ours, theirs], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_checkpoint_and_an_unfinished_run_are_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "step_1"
    (step / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="Expected a whole checkpoint"):
        average([step], tmp_path / "new")
    shutil.rmtree(tmp_path / "run" / "final")
    with pytest.raises(ValueError, match="of a finished run"):
        average([step], tmp_path / "new")
    with pytest.raises(ValueError, match="which is not finished"):
        average([tmp_path / "run"], tmp_path / "new")


def test_a_mean_that_cannot_be_written_leaves_nothing(make_pair, tmp_path, monkeypatch):
    folders = make_pair(targets=["q_proj"])

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("agents.publishing.average.save_file", full)
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["average", *map(str, folders), "--out", str(tmp_path / "mean")]) == 2
    assert {path.name for path in tmp_path.iterdir()} == before
