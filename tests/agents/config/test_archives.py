"""config.json of earlier versions: read as it was meant, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.records.objects import write_json
from agents.records.view import read_run

FOLDER = Path(__file__).parents[2] / "fixtures/configs"


def stored(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_what_a_run_of_an_earlier_version_did_is_kept(name):
    values = stored(name)
    config = TrainConfig.from_json(values).to_json()
    assert TrainConfig.from_json(config).to_json() == config
    left = ("auto", 0, None)
    for field, value in config.items():
        if field in values and values[field] not in left:
            assert value == values[field], field
    # What a file no longer holds had no effect: it is of other algorithms and engines.
    gone = values.keys() - config.keys()
    others = {"critic_learning_rate", "critic_body", "gae_lambda", "handover"}
    others |= {"value_clip", "value_coef", "value_normalization"}
    free = others if values["algorithm"] == "grpo" else set()
    assert gone == {"engine_url", "engine_memory"} | free | (
        {"swap_resets", "repetition_penalty"} & values.keys()
    )


def test_auto_and_0_mean_what_they_meant():
    grpo = TrainConfig.from_json(stored("grpo"))
    own = grpo.algorithm_config
    assert (own.kl, own.group_size, own.normalization, own.whitening) == (
        "k3",
        8,
        "sequence",
        "none",
    )
    assert (own.clip, own.clip_high, own.max_step_kl, own.kl_target) == (0.2, None, None, None)
    assert (own.importance_cap, grpo.max_new_tokens, grpo.microbatch_size) == (None, None, None)
    ppo = TrainConfig.from_json(stored("ppo"))
    assert ppo.algorithm_config.value_clip is None
    assert (ppo.algorithm_config.kl, ppo.algorithm_config.group_size) == ("exact", 1)
    varied = TrainConfig.from_json(stored("ippo_varied"))
    assert varied.algorithm_config.value_clip == 0.2
    assert varied.algorithm_config.kl_target == 0.2
    assert varied.microbatch_size == 2
    handover = TrainConfig.from_json(stored("mappo_handover")).algorithm_config
    assert handover.handover == "value"


def test_0_is_0_in_a_file_of_today():
    config = TrainConfig(algorithm="gspo", clip=0.0)
    assert TrainConfig.from_json(config.to_json()).algorithm_config.clip == 0.0
    assert (
        TrainConfig.from_json({**stored("grpo"), "algorithm": "gspo"}).algorithm_config.clip == 3e-4
    )


def test_no_exchange_has_one_name_now():
    assert TrainConfig.from_json({**stored("grpo"), "swap_every": 0}).swap == "never"


def test_another_engine_had_its_own_cap():
    values = {**stored("grpo"), "adapter": "lora", "model": "embedded", "engine": "vllm"}
    config = TrainConfig.from_json(values)
    assert config.algorithm_config.importance_cap == 2.0
    assert config.engine_config.engine_memory == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"handover": "value"}, "git checkout 95eb8ae"),
        ({"swap_resets": True}, "git checkout 57e4a78"),
        ({"iteratons": 3}, "did you mean iterations?"),
        ({"format": 3}, "written by a later version"),
        ({"algorithm": "elsewhere"}, "your own comes with --import FILE"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=r"^Expected ") as caught:
        TrainConfig.from_json({**stored("grpo"), **changes})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_page_shows_a_run_of_an_earlier_version_like_the_same_run_of_today(name, tmp_path):
    written = RunFolder(tmp_path / "new")
    written.path.mkdir()
    written.write_config(TrainConfig.from_json(stored(name)))
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(FOLDER / f"{name}.json", old / "config.json")
    assert read_run(old).config == read_run(written.path).config


def test_a_page_shows_what_is_no_longer_read_as_it_stands(tmp_path):
    values = {**stored("ppo"), "swap_resets": True}
    write_json(tmp_path / "config.json", values)
    assert read_run(tmp_path).config == values
