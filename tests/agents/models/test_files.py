"""Folders that are given as a model: what they must hold, and what is never done with them."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from agents import TrainConfig, evaluate, load_policy, train
from agents.cli.main import main
from agents.models.files import EMBEDDED_MODEL
from agents.models.loading import load_base
from agents.rewards.classifier import ClassifierReward
from tests.agents.small_models import STORIES

SMALL = {
    **{"task": "imdb", "model": "embedded", "dtype": "float32", "iterations": 1},
    **{"batch_size": 4, "minibatch_size": 4, "max_new_tokens": 4, "evaluation_queries": 4},
    **{"lora_targets": "q_proj"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of adapters on the embedded model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(TrainConfig(**{**SMALL, "out": str(folder)})).folder


# ---- where a base is found


def test_an_adapter_of_the_embedded_model_names_a_base_that_is_there_from_any_folder(run):
    config = json.loads((run / "final" / "llm_0" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == EMBEDDED_MODEL


def test_an_adapter_of_a_relative_folder_names_the_whole_path(tmp_path, monkeypatch):
    shutil.copytree(STORIES, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    base, _ = load_base("mine", torch.float32)
    assert base.name_or_path == str(tmp_path / "mine")


@pytest.mark.parametrize("named", ["agents/assets/model", "/elsewhere/agents/assets/model"])
def test_an_adapter_of_an_embedded_model_that_lay_elsewhere_loads(
    run, tmp_path, monkeypatch, named
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run / "final" / "llm_0", "llm_0")
    path = Path("llm_0/adapter_config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": named}))
    prompt, options = ["This film"], {"max_new_tokens": 8, "greedy": True}
    expected = load_policy(run / "final" / "llm_0", dtype="float32").generate(prompt, **options)
    found = load_policy("llm_0", dtype="float32").generate(prompt, **options)
    assert found.texts == expected.texts
    assert main(["merge", "llm_0", "merged"]) == 0


def test_a_base_that_is_gone_is_one_line_that_says_how_to_name_another(run, tmp_path):
    shutil.copytree(run / "final" / "llm_0", tmp_path / "llm_0")
    path = tmp_path / "llm_0" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": "/gone/for/good"}))
    with pytest.raises(
        ValueError, match=r"the adapter in .*got '/gone/for/good': .*base="
    ) as error:
        load_policy(tmp_path / "llm_0")
    assert "\n" not in str(error.value)
    load_policy(tmp_path / "llm_0", base="embedded")


def test_an_adapter_of_another_base_is_one_line(run):
    with pytest.raises(ValueError, match=r"Expected the base model of the adapter in ") as error:
        load_policy(run / "final" / "llm_0", base=str(STORIES))
    assert "\n" not in str(error.value)


# ---- which folder is a policy


@pytest.mark.parametrize("part", ["", "final"])
def test_a_run_in_place_of_a_policy_is_answered_by_its_policies(run, part, capsys, tmp_path):
    with pytest.raises(ValueError, match="Expected the folder of a policy") as error:
        load_policy(run / part)
    for name in ("llm_0", "llm_1"):
        assert str(run / "final" / name) in str(error.value)
    assert main(["merge", str(run / part), str(tmp_path / "out")]) == 2
    assert str(run / "final" / "llm_1") in capsys.readouterr().err
    assert main(["play", "imdb", "--partner", str(run / part)]) == 2
    assert str(run / "final" / "llm_1") in capsys.readouterr().err


def test_an_unfinished_run_a_folder_of_something_else_and_none_are_told_apart(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("final"))
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("run", "which is not finished: go on"),
        ("empty", "which holds none"),
        ("nowhere", "which is no folder"),
    ):
        with pytest.raises(ValueError, match=rf"Expected the folder of a policy.*{message}"):
            load_policy(tmp_path / name)


# ---- pickles and code


def pickled(folder: Path, weights: str, pickle: str) -> Path:
    """Turn the weights of a folder into a pickle."""
    tensors = load_file(folder / weights)
    (folder / weights).unlink()
    torch.save(tensors, folder / pickle)
    return folder


def forbid(*_, **__):
    raise AssertionError("something was unpickled")


def test_a_model_whose_weights_are_a_pickle_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(STORIES, tmp_path / "model")
    pickled(folder, "model.safetensors", "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", forbid)
    for load in (
        lambda: load_base(str(folder), torch.float32),
        lambda: load_policy(folder),
        lambda: ClassifierReward(folder),
    ):
        with pytest.raises(ValueError, match="as safetensors, got pytorch_model") as error:
            load()
        assert "\n" not in str(error.value)
    assert main(["train", "imdb", "--model", str(folder), "--out", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: Expected weights as safetensors")
    assert "reading a pickle can run code" in last
    assert not (tmp_path / "run").exists()


def test_an_adapter_whose_weights_are_a_pickle_is_refused(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run / "final" / "llm_0", tmp_path / "llm_0")
    pickled(folder, "adapter_model.safetensors", "adapter_model.bin")
    monkeypatch.setattr(torch, "load", forbid)
    with pytest.raises(ValueError, match="as safetensors, got adapter_model"):
        load_policy(folder)


def test_a_pickle_beside_safetensors_is_left_alone(tmp_path, monkeypatch):
    folder = shutil.copytree(STORIES, tmp_path / "model")
    torch.save({}, folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", forbid)
    load_base(str(folder), torch.float32)


@pytest.mark.parametrize(
    ("file", "key", "auto"),
    [("config.json", "model_type", "AutoModelForCausalLM"),
     ("tokenizer_config.json", "tokenizer_class", "AutoTokenizer")],
)  # fmt: skip
def test_code_of_a_model_or_tokenizer_is_not_run_and_nobody_is_asked(
    tmp_path, monkeypatch, file, key, auto
):
    folder = shutil.copytree(STORIES, tmp_path / "model")
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    config = json.loads((folder / file).read_text())
    owns = {"AutoConfig": "own.Own", auto: ["own.Own", None] if "Tok" in auto else "own.Own"}
    (folder / file).write_text(json.dumps({**config, key: "Own", "auto_map": owns}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match="brings code of its own, which is not run") as error:
        load_base(str(folder), torch.float32)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    folder = shutil.copytree(STORIES, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"trained causal .*lacks the weights lm_head\.weight"):
        load_base(str(folder), torch.float32)


# ---- what other libraries say


def test_nothing_of_other_libraries_is_printed_or_warned_of_outside_a_checkout(
    tmp_path, monkeypatch, capsys, recwarn
):
    monkeypatch.chdir(tmp_path)
    argv = ["--iterations", "1", "--batch-size", "4", "--minibatch-size", "4", "--dtype", "float32"]
    argv += ["--max-new-tokens", "4", "--evaluation-queries", "0", "--lora-targets"]
    targets = "q_proj,lm_head,embed_tokens"
    assert main(["train", "imdb", *argv, targets, "--out", "run"]) == 0
    assert main(["merge", "run/final/llm_0", "merged"]) == 0
    assert capsys.readouterr().err == ""
    assert not [w for w in recwarn if w.category in (UserWarning, FutureWarning)]


def test_what_is_hushed_for_a_call_speaks_again_after_it(tmp_path, capfd):
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_progress_bar()
    filters = list(warnings.filters)
    folder = train(TrainConfig(**{**SMALL, "out": str(tmp_path / "run")})).folder
    evaluate(folder, num_queries=4)
    load_policy(folder / "final" / "llm_0")
    assert "Loading weights" not in capfd.readouterr().err
    assert transformers_logging.get_verbosity() == transformers_logging.WARNING
    assert transformers_logging.is_progress_bar_enabled()
    assert not are_progress_bars_disabled()
    assert list(warnings.filters) == filters
