"""Configurations in files: read back as they were printed, and refused by file and line."""

from __future__ import annotations

import json
import re

import pytest

from agents.cli.main import main
from agents.config.archives import RESOLVED
from agents.config.files import config_text, read_config, read_fields
from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.records.view import read_run
from agents.registries import ALGORITHMS, PRESETS
from agents.yaml_files import read_yaml, yaml_text
from tests.agents.cli.test_main import SMALL

TOY = ["toy", *SMALL]


def printed(capsys, *words: str) -> str:
    assert main(["train", *words, "--print-config"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def no_model(monkeypatch):
    """Fail if a run begins."""
    monkeypatch.setattr("agents.parts.Parts.build", lambda *args, **kwargs: 1 / 0)


def refused(capsys, *words: str) -> str:
    assert main(["train", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: Expected ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("1.5E+2", 150.0), (".5", 0.5), ("-3", -3), ("1.", 1.0)),
        *(("no", "no"), ("off", "off"), ("true", True), ("null", None), ("~", None), ("", None)),
        *(("012", 12), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("1_000", "1_000")),
        *(("none", "none"), ("4bit", "4bit"), ("[a, 1]", ["a", 1]), ("{a: 1e1}", {"a": 10.0})),
        *(("'1e-3'", "1e-3"), ('"a\\nb"', "a\nb"), ("e5", "e5"), (".inf", float("inf"))),
    ],
)
def test_yaml_is_read_as_its_version_1_2_has_it(text, value, tmp_path):
    (tmp_path / "x.yaml").write_text(f"# note\n\nx: {text}\n")
    entry = read_yaml(tmp_path / "x.yaml")["x"]
    assert (entry.value, type(entry.value)) == (value, type(value))
    assert entry.place == f"line 3 of {tmp_path / 'x.yaml'}"


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -1, 1e-05, 0.28, 1e22, "", "imdb", "true", "1e-3", "null", "0.5", "a: b"),
        *(
            "# no",
            "q_proj,v_proj",
            "Right. ",
            "é\u2028",
            'say "x"',
            ["a", "1"],
            "runs/x",
            "- a",
            "a:",
        ),
    ],
)
def test_a_value_is_read_back_as_it_was(value, tmp_path):
    (tmp_path / "x.yaml").write_text(f"x: {yaml_text(value)}\n", encoding="utf-8")
    found = read_yaml(tmp_path / "x.yaml")["x"].value
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_printed_preset_says_all_and_is_read_back(preset, tmp_path):
    config = TrainConfig(**PRESETS.find(preset)())
    path = tmp_path / "run.yaml"
    path.write_text(config_text(config), encoding="utf-8")
    assert read_config(path).to_json() == config.to_json()
    given = read_fields(path)
    assert given.keys() == config.to_json().keys() - {"imports", "format"}


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_every_field_is_printed_behind_its_help(algorithm, tmp_path):
    observers = 0 if algorithm == "ppo" else 1
    text = config_text(TrainConfig(algorithm=algorithm, observers=observers))
    for block in text.strip().split("\n\n")[1:]:
        *comments, last = block.split("\n")
        assert all(line.startswith("# ") and len(line) <= 100 for line in comments), block
        assert last.startswith("# ==== ") or (comments and re.match(r"\w+: ", last)), block


def test_flags_beat_the_file_and_the_file_beats_the_preset(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("task: arithmetic\nlearning_rate: 3e-4\nepochs: 2\n")
    text = printed(capsys, "--config", str(path), "--epochs", "3")
    assert "\ntask: arithmetic\n" in text
    assert "\nlearning_rate: 0.0003\n" in text  # the preset has 1.5e-3
    assert "\nepochs: 3\n" in text
    assert "\niterations: 120\n" in text  # of the preset
    other = printed(capsys, "imdb", "--config", str(path), "--preset", "imdb-individual")
    assert "\ntask: imdb\n" in other
    assert "\nreward_sharing: individual\n" in other
    assert "\nlearning_rate: 0.0003\n" in other


def test_what_is_printed_is_what_is_trained(capsys, tmp_path):
    out = ["--out", str(tmp_path / "a")]
    (tmp_path / "run.yaml").write_text(printed(capsys, *TOY, *out, "--kl-coef", "0.05"))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 0
    again = ["--config", str(tmp_path / "a" / "config.json"), "--out", str(tmp_path / "b")]
    assert main(["train", *again]) == 0
    first, second = (RunFolder(tmp_path / name).read_metrics() for name in "ab")
    kept = [[row["llm_0/kl"], row["llm_1/task_reward"], row["llm_0/kl_coef"]] for row in first]
    assert kept == [[r["llm_0/kl"], r["llm_1/task_reward"], r["llm_0/kl_coef"]] for r in second]
    assert kept[0][2] == 0.05
    capsys.readouterr()
    error = refused(capsys, *again[:2])
    assert f"Expected a new folder, got the run {tmp_path / 'a'}" in error
    assert main(["train", *again, "--resume", "--iterations", "3"]) == 0
    assert len(RunFolder(tmp_path / "b").read_metrics()) == 3
    _check_resolved(tmp_path / "a")


def _check_resolved(run):
    """What a run left to others stands in its files as it came out."""
    values = json.loads((run / "config.json").read_text())
    assert values["max_new_tokens"] is None
    resolved = values[RESOLVED]
    assert resolved["device"] in ("cpu", "cuda", "mps")
    assert {**resolved, "device": ""} == {
        "device": "",
        "dtype": "float32",
        "reward": "match",
        "max_new_tokens": 3,
        "microbatch_size": 4,
        "clip_high": 0.2,
    }
    assert read_run(run).config["max_new_tokens"] == 3
    assert '"max_new_tokens": 3' in (run / "final" / "llm_0" / "README.md").read_text()
    assert RunFolder(run).read_config().max_new_tokens is None


def test_another_algorithm_keeps_of_a_file_what_was_not_the_default_of_the_old_one(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TrainConfig(task="toy", clip=0.1, seed=3).to_json()))
    config = read_config(path, algorithm="grpo")
    assert config.seed == 3
    assert config.to_json()["clip"] == 0.1
    assert config.to_json()["kl"] == TrainConfig(algorithm="grpo").to_json()["kl"] == "k3"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("iteratons: 3\n", ["in line 1 of", "did you mean iterations?"]),
        ("task: toy\n\n# a\nseed: -1\n", ["seed to be at least 0, got -1 in line 4 of"]),
        ("seed: many\n", ["a whole number, got 'many' in line 1 of"]),
        ("kl: exakt\n", ["got 'exakt' in line 1 of", "did you mean exact?"]),
        ("task: imbd\n", ["got 'imbd' in line 1 of", "did you mean imdb?"]),
        ("seed: 1\nseed: 2\n", ["seed once", "line 2 of"]),
        ("algorithm: grpo\nhandover: value\n", ["got grpo in line 2 of", "--algorithm mappo"]),
        ("task: [toy\n", ["Expected YAML", "line 2 of"]),
        ("task: !!python/object:os.system x\n", ["Expected YAML", "line 1 of"]),
        ("- toy\n", ["names and values"]),
        ("1: 2\n", ["a name before the colon, got 1 in line 1"]),
        ("minibatch_size: 100\n", ["minibatch_size to divide batch_size"]),
        ("batch_size: \n", ["a whole number, got None in line 1"]),
        ("imports: [/nowhere/x.py#sha256=0]\n", ["/nowhere/x.py", "--import FILE"]),
    ],
)
def test_a_bad_file_is_one_line_with_the_file_and_its_line(text, parts, capsys, tmp_path, no_model):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    error = refused(capsys, "imdb", "--config", str(path))
    assert all(part in error for part in parts), error


def test_no_file_no_text_and_no_task_are_named(capsys, tmp_path, no_model):
    assert "No such file" in refused(capsys, "--config", str(tmp_path / "no.yaml"))
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "it is no text" in refused(capsys, "--config", str(tmp_path / "x.yaml"))
    (tmp_path / "x.yaml").write_text("")
    assert "Expected `train TASK`" in refused(capsys, "--config", str(tmp_path / "x.yaml"))
    (tmp_path / "old.json").write_text('{"repetition_penalty": 1.1, "task": "toy"}')
    assert "git checkout" in refused(capsys, "--config", str(tmp_path / "old.json"))


def test_presets_are_files_that_are_read_without_a_line_left_out():
    for name in PRESETS:
        path = PRESETS[name].path
        values = PRESETS.find(name)()
        lines = [line for line in path.read_text().splitlines() if re.match(r"\w+:", line)]
        assert len(lines) == len(values) > 0
        assert PRESETS.summary(name)
        assert read_config(path).task == values["task"]


def test_compare_starts_from_a_file_too(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("task: toy\nkl_coef: 0.125\n")
    words = ["toy", "--config", str(tmp_path / "run.yaml"), "--variants", "ppo", "--dry-run"]
    assert main(["compare", *words, "--seeds", "1", "--out", str(tmp_path / "c")]) == 0
