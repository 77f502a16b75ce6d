"""Every registered algorithm learns: the reward rises far above what luck or habit could give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import pytest

from agents import TrainConfig
from agents.algorithms import ALGORITHMS
from agents.config.presets import preset_values
from agents.training.trainer import Trainer
from cory_env import Example
from cory_env.registry import TASKS
from cory_env.task import Task
from cory_env.tasks.toy import ToyTask
from cory_env.tokenization import SymbolTokenizer
from tests import learning
from tests.learning import FAST, WINDOW, assert_learns, chance_of_failing, seed_learns

SYMBOLS = 4
BOUND = 0.6
"""Of six sums the most frequent answer is right for two; a blind observer of one of four letters is
right once in four. In a window are at least 80 queries (groups of 8 share theirs), so that 0.6 is
five standard errors above 1/3: who knows the habit alone passes with less than one seed in 10,000.
"""


class Sums(Task):
    """Word problems without words: `2+1` is 3, judged by the last number as gsm8k is."""

    name, reward, max_new_tokens = "sums", "answer", 2

    def __init__(self, split: str = "train"):
        self.tokenizer = SymbolTokenizer("0123+=,")
        self.examples = [Example(f"{a}+{b}", str(a + b)) for a in range(3) for b in range(2)]

    def pioneer_prompt(self, query: str) -> str:
        return f"{query}="

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        return "".join(f"{response}," for response in responses) + f"{query}="


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    monkeypatch.setitem(TASKS, "sums", Sums)
    monkeypatch.setitem(TASKS, "letter", partial(ToyTask, length=1, symbols=SYMBOLS))


def small(task: str, algorithm: str = "mappo", **changes) -> TrainConfig:
    values = {**preset_values("toy"), **FAST, "task": task, "algorithm": algorithm}
    values |= {"observers": 0 if algorithm == "ppo" else 1, "schedule": "constant"}
    values |= ALGORITHMS.find(algorithm).smoke
    # Fixed roles: after a swap a policy shows a role that it is still learning.
    return TrainConfig(**{**values, "swap": "never", **changes})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_policies_learn_to_add(algorithm):
    assert_learns(small("sums", algorithm), BOUND)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_policies_learn_and_the_observer_reads_its_partner(algorithm):
    assert_learns(small("letter", algorithm), BOUND)


def test_a_chain_of_three_learns():
    assert_learns(small("letter", observers=2), BOUND)


def test_without_knowledge_transfer_the_observer_cannot_pass_the_blind_optimum():
    trainer = Trainer(small("letter", knowledge_transfer=False, seed=0))
    rows = [trainer.iterate(iteration) for iteration in range(20)]
    last = sum(float(row["llm_1/task_reward"]) for row in rows[-WINDOW:]) / WINDOW
    # 640 letters, each right with a chance of 1/4 whatever is answered: a binomial that exceeds
    # 0.08 above its mean four times in a million.
    assert last < 1 / SYMBOLS + 0.08


# ---- the criterion itself


def test_a_sound_learner_fails_less_than_once_in_ten_thousand_times():
    assert chance_of_failing(0.35) < 1e-4


def without_steps(config: TrainConfig) -> Trainer:
    # Adam's steps are of the size of the rate: no float32 weight notices this one.
    return Trainer(config.replace(learning_rate=1e-12))


def with_the_sign_turned(config: TrainConfig) -> Trainer:
    trainer = Trainer(config)
    loss = trainer.algorithm.loss

    def turned(*arguments):
        output = loss(*arguments)
        return replace(output, loss=-output.loss)

    trainer.algorithm.loss = turned
    return trainer


SPOILT = {"no steps": without_steps, "the sign turned": with_the_sign_turned}
QUICK = {("letter", "mappo"), ("sums", "rloo")}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize(
    ("task", "algorithm"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in product(("letter", "sums"), ALGORITHMS)
    ],
)
def test_a_learner_that_cannot_learn_has_no_seed_that_does(spoilt, task, algorithm):
    assert not seed_learns(SPOILT[spoilt](small(task, algorithm)), BOUND)


def test_a_learner_fails_once_two_seeds_can_no_longer_learn(monkeypatch):
    played = []
    monkeypatch.setattr(learning, "seed_learns", lambda seed, bound: played.append(seed))
    with pytest.raises(AssertionError, match="11 of 11 seeds did not pass"):
        assert_learns(small("letter"), BOUND, lambda config: config.seed)
    assert played == list(range(11))
