"""Verdicts on earlier responses, and episodes in which observers read the query alone."""

from __future__ import annotations

import numpy as np
import pytest

import cory_env
from cory_env import Example, RewardError
from cory_env.game import Rules
from cory_env.options import make_rules
from cory_env.tasks.arithmetic import ArithmeticTask

SUM = Example("What is 1 + 1?", "2")
ALONE = "Question: What is 1 + 1? Answer:"


def rules(**options) -> Rules:
    return make_rules(ArithmeticTask(), **options)


def read_by_the_last(answers: list[str], *, isolated: bool = False, **options) -> str:
    """Return what the last observer reads behind these answers."""
    game = rules(observers=len(answers), **options)
    state = game.start(SUM, isolated=isolated)
    for answer in answers:
        state = game.respond(state, game.response(answer, "somebody"))
    return game.prompt(state)


@pytest.mark.parametrize(
    ("answers", "verdict", "prompt"),
    [
        ([" 3 #### 3 "], "none", "Question: What is 1 + 1? Reference: 3 #### 3 Answer:"),
        ([" 3 #### 3 "], "all", "Question: What is 1 + 1? Reference: 3 #### 3 (wrong) Answer:"),
        (["#### 2"], "all", "Question: What is 1 + 1? Reference: #### 2 (right) Answer:"),
        (["#### 3"], "wrong", "Question: What is 1 + 1? Reference: #### 3 (wrong) Answer:"),
        (["#### 2"], "wrong", ALONE),
        (
            ["#### 2", "#### 3"],
            "all",
            "Question: What is 1 + 1? Reference: #### 2 (right) Reference: #### 3 (wrong) Answer:",
        ),
        (
            ["#### 2", "#### 3"],
            "wrong",
            "Question: What is 1 + 1? Reference: #### 3 (wrong) Answer:",
        ),
    ],
)
def test_an_observer_reads_the_verdict_behind_each_response(answers, verdict, prompt):
    assert read_by_the_last(answers, verdict=verdict) == prompt
    assert read_by_the_last(answers, verdict=verdict, isolated=True) == ALONE
    assert read_by_the_last(answers, verdict=verdict, knowledge_transfer=False) == ALONE


@pytest.mark.parametrize("task", ["imdb", "toy"])
def test_a_task_without_verdicts_refuses_the_switch_in_one_line(task):
    with pytest.raises(ValueError, match=f"verdicts, got {task}: leave out verdict") as error:
        make_rules(task, verdict="all")
    assert "\n" not in str(error.value)


def test_an_unknown_verdict_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="wrong"):
        rules(verdict="wrongs")


class Counting:
    """Right where the response is the reference; keeps what it was asked."""

    def __init__(self):
        self.asked: list[list[str]] = []

    def __call__(self, examples, responses):
        self.asked.append(list(responses))
        pairs = zip(examples, responses, strict=True)
        return np.array([float(response == example.reference) for example, response in pairs])


def test_a_batch_of_responses_is_judged_in_one_call_and_the_last_turn_only_in_the_end():
    reward = Counting()
    games = cory_env.vector_env(2, ArithmeticTask(), reward=reward, verdict="all")
    games.reset(examples=[SUM, SUM])
    prompts = games.step(["2", "3"])
    assert prompts == [
        "Question: What is 1 + 1? Reference: 2 (right) Answer:",
        "Question: What is 1 + 1? Reference: 3 (wrong) Answer:",
    ]
    games.step(["2", "2"])
    assert reward.asked == [["2", "3"], ["2", "2", "3", "2"]]
    assert games.task_rewards["observer_0"].tolist() == [1.0, 1.0]


def test_without_verdicts_the_reward_is_called_once():
    reward = Counting()
    games = cory_env.vector_env(1, ArithmeticTask(), reward=reward)
    games.reset(examples=[SUM])
    games.step(["2"])
    games.step(["3"])
    assert reward.asked == [["2", "3"]]


def test_some_episodes_of_a_batch_are_isolated():
    games = cory_env.vector_env(2, ArithmeticTask())
    games.reset(examples=[SUM, SUM], isolated=[True, False])
    assert games.step(["3", "3"]) == [ALONE, "Question: What is 1 + 1? Reference: 3 Answer:"]
    with pytest.raises(ValueError, match="2 truth values as isolated, got 1"):
        games.reset(isolated=[True])


def test_a_reward_that_fails_between_turns_leaves_the_episodes_as_they_were():
    def broken(examples, responses):
        raise KeyError("no")

    games = cory_env.vector_env(1, ArithmeticTask(), reward=broken, verdict="wrong")
    games.reset(examples=[SUM])
    with pytest.raises(RewardError, match="no"):
        games.step(["2"])
    assert games.agent_selection == "pioneer_0"
    assert not games.responses


def test_every_form_of_the_environment_tells_the_verdict():
    env = cory_env.raw_env(ArithmeticTask(), action_level="response", verdict="all")
    env.reset(options={"example": SUM})
    env.step(" 3")
    assert "Reference: 3 (wrong) Answer:" in env.infos["observer_0"]["prompt"]
