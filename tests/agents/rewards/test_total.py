"""Sums of rewards: how they are written, what they pay, and what is logged of their parts."""

from __future__ import annotations

import numpy as np
import pytest

from agents.cli.main import main
from agents.config.reward_terms import Term, check_rewards, reward_terms
from agents.config.train import TrainConfig
from agents.records.rows import read_metrics
from agents.rewards.total import RewardSum
from agents.training.loop import train
from cory_env import RewardError, register_reward
from cory_env.registry import REWARDS
from cory_env.types import Example
from tests.agents.training.test_trainer import QUIET, assert_same_state, final_state

EXAMPLES = [Example("a"), Example("b"), Example("c")]
TEXTS = ["x", "yy", "zzz"]


def lengths(examples, responses):
    return np.array([float(len(text)) for text in responses])


def squares(examples, responses):
    return lengths(examples, responses) ** 2


def test_a_sum_pays_the_weighted_parts_and_tells_of_each():
    total = RewardSum({"long": (0.5, lengths), "square": (-2.0, squares), "no": (0.0, squares)})
    assert total(EXAMPLES, TEXTS).tolist() == [-1.5, -7.0, -16.5]
    assert {name: row.tolist() for name, row in total.details.items()} == {
        "reward long": [1, 2, 3],
        "reward square": [1, 4, 9],
        "reward no": [1, 4, 9],
    }
    assert total.description == "0.5 * long + -2 * square + 0 * no"
    assert total.spent() == 0


def test_a_part_that_fails_is_the_sums_failure():
    with pytest.raises(RewardError, match="3 numbers"):
        RewardSum({"one": (1.0, lambda *_: np.zeros(1))})(EXAMPLES, TEXTS)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("answer", [Term(1, "answer")]),
        ("0.5*runs/judge+0.5*answer", [Term(0.5, "runs/judge"), Term(0.5, "answer")]),
        (" 1e-2 * a/b + match + -3*c ", [Term(0.01, "a/b"), Term(1, "match"), Term(-3, "c")]),
        ("2*rubric:fun.toml", [Term(2, "rubric:fun.toml")]),
    ],
)
def test_a_sum_is_read_as_it_is_written(text, terms):
    assert reward_terms(text) == terms


def test_a_folder_with_a_plus_in_its_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b").mkdir()
    assert reward_terms("a+b") == [Term(1, "a+b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5*answr+0.5*match", "got 'answr': did you mean answer"),
        ("0.5*", "WEIGHT\\*NAME .* got '0.5\\*'"),
        ("half*answer", "WEIGHT\\*NAME .* got 'half\\*answer'"),
        ("1.2.3*answer", "got '1.2.3\\*answer'"),
        ("answer+", "WEIGHT\\*NAME .* got ''"),
        ("answer+2*answer", "Expected each reward once in a sum, got answer twice"),
        ("rubric:no.toml", "got 'rubric:no.toml': there is none"),
        ("match+./nowhere", "got './nowhere': there is no such file"),
    ],
)
def test_what_is_no_sum_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message):
        check_rewards(text)
    with pytest.raises(ValueError, match=message):
        TrainConfig(reward=text)


def test_the_command_line_says_it_in_one_line(capsys):
    assert main(["train", "toy", "--reward", "0.5*mtch+answer"]) == 2
    error = capsys.readouterr().err
    assert "did you mean match" in error
    assert error.count("\n") == 1


def test_a_label_needs_a_classifier_in_the_sum(toy_config):
    with pytest.raises(ValueError, match="sequence classifier as reward with reward_label"):
        train(toy_config(reward="1*match+0*answer", reward_label="x"), console=QUIET)


@pytest.fixture
def odd():
    register_reward("odd")(lambda: lengths)
    yield
    del REWARDS["odd"]


def test_a_weight_of_nothing_changes_no_bit_and_is_logged_by_policy(odd, toy_config, tmp_path):
    plain = toy_config(out=str(tmp_path / "plain"), observers=1)
    both = plain.replace(out=str(tmp_path / "both"), reward="1*match+0*odd")
    for config in (plain, both):
        train(config, console=QUIET)
    assert_same_state(final_state(both), final_state(plain))
    rows = [read_metrics(c.run_folder / "metrics.jsonl") for c in (both, plain)]
    for row, other in zip(*rows, strict=True):
        for name in ("llm_0", "llm_1"):
            assert row[f"{name}/reward match"] == pytest.approx(row[f"{name}/task_reward"])
            assert row[f"{name}/reward odd"] > 0
            assert f"{name}/reward odd" not in other
            assert row[f"{name}/task_reward"] == other[f"{name}/task_reward"]


def test_each_policy_is_told_of_by_its_own_responses(odd, toy_config):
    from agents.training.trainer import Trainer

    trainer = Trainer(toy_config(reward="1*match+0*odd", batch_size=4))
    rollout = trainer.collect(trainer.assign(0))
    prepared = trainer.prepare(rollout, trainer.explore(rollout, 0))
    row = trainer.row(rollout, prepared, trainer.learn(rollout, prepared, 0))
    for turn in rollout.turns:
        mean = sum(map(len, turn.responses)) / len(turn.responses)
        assert row[f"{turn.policy}/reward odd"] == pytest.approx(mean)
