"""What a run starts from goes by its task and its model; what the user says wins."""

from __future__ import annotations

import pytest

from agents.cli.main import main
from agents.config.presets import starting_values
from agents.config.train import TrainConfig
from agents.registries import PRESETS, VARIANTS

REAL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize("task", ["imdb", "arithmetic", "gsm8k", "toy", "lesson"])
def test_the_embedded_model_starts_from_the_preset_of_its_task(task):
    values, line = starting_values(task)
    assert values == PRESETS[task]()
    assert line == ""


@pytest.mark.parametrize("model", [REAL, "gpt2-large", f"embedded,{REAL}"])
@pytest.mark.parametrize("task", ["imdb", "arithmetic", "gsm8k"])
def test_a_real_model_gets_limits_batches_and_a_rate_of_its_own(task, model):
    values, line = starting_values(task, model=model)
    config = TrainConfig(**values)
    assert (config.task, config.model) == (task, model)
    assert config.task_options == ""
    assert config.microbatch_size
    assert config.learning_rate == pytest.approx(1e-4)
    assert "not the embedded model" in line
    assert "learning_rate 0.0001" in line
    assert "\n" not in line


@pytest.mark.parametrize("task", ["arithmetic", "gsm8k"])
def test_a_real_model_may_write_a_chain_of_thought(task):
    config = TrainConfig(**starting_values(task, model=REAL)[0])
    # Nothing set is the task's own limit: 256 of gsm8k.
    limit = config.max_new_tokens
    assert limit is None if task == "gsm8k" else limit is not None and limit >= 100


def test_a_whole_model_learns_more_slowly_than_its_adapter():
    lora, full = (
        starting_values("gsm8k", model=REAL, adapter=kind)[0] for kind in ("lora", "full")
    )
    assert full["learning_rate"] < lora["learning_rate"]
    assert full["adapter"] == "full"


def test_a_preset_that_is_named_wins():
    values, line = starting_values("gsm8k", preset="gsm8k", model=REAL)
    assert values == {**PRESETS["gsm8k"](), "model": REAL}
    assert line == ""


def test_a_preset_that_bears_the_name_of_a_model_is_made_for_it():
    values, line = starting_values("arithmetic", model="smollm2")
    assert values == PRESETS["smollm2"]()
    assert "smollm2" in line
    values, line = starting_values("gsm8k", model="smollm2")
    assert values["batch_size"] == 32
    assert "max_new_tokens" not in values


def test_flags_win_and_the_line_comes_before_the_run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr("agents.cli.main.check_before_loading", seen.append)
    monkeypatch.setattr("agents.training.loop.train", lambda config, **flags: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", "gsm8k", "--model", REAL, "--batch-size", "64", "--learning-rate", "1e-3"])
    (config,) = seen
    assert (config.batch_size, config.learning_rate, config.minibatch_size) == (64, 1e-3, 32)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert REAL in error


def test_a_task_of_ones_own_starts_from_the_defaults_or_the_real_ones():
    assert starting_values("mine") == ({"task": "mine"}, "")
    assert starting_values("mine", model=REAL)[0]["learning_rate"] == pytest.approx(1e-4)


@pytest.mark.parametrize("returned", [["task"], None, {1: "toy"}])
def test_a_preset_or_variant_that_returns_no_fields_is_named(returned, monkeypatch, capsys):
    for registry in (PRESETS, VARIANTS):
        monkeypatch.setitem(registry._entries, "mine", lambda: returned)
    for arguments, kind in (
        (["train", "toy", "--preset", "mine"], "preset"),
        (["compare", "toy", "--variants", "ppo", "mine", "--out", "unused"], "variant"),
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line == (
            f"error: Expected the {kind} mine to return fields and their values, got {returned!r}: "
            'return {"learning_rate": 1e-3}.'
        )
