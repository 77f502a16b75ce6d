"""Every registered algorithm learns: the reward rises far above what luck or habit could give."""

from __future__ import annotations

from functools import partial

import pytest

from agents import TrainConfig
from agents.algorithms import ALGORITHMS
from agents.presets import preset_values
from agents.trainer import Trainer
from cory_env.registry import TASKS
from cory_env.tasks.toy import ToyTask

LENGTH, SYMBOLS = 2, 3
ITERATIONS = 48


@pytest.fixture
def small_toy(monkeypatch):
    monkeypatch.setitem(TASKS, "small", partial(ToyTask, length=LENGTH, symbols=SYMBOLS))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_policies_learn_and_the_observer_reads_its_partner(small_toy, algorithm):
    observers = 0 if algorithm == "ppo" else 1
    values = {
        **preset_values("toy"),
        "task": "small",
        "algorithm": algorithm,
        "observers": observers,
    }
    # Fixed roles: after a swap a policy shows a role that it is still learning.
    trainer = Trainer(TrainConfig(**values, swap_every=0, seed=0))
    rows = [trainer.iterate(iteration) for iteration in range(ITERATIONS)]
    task = ToyTask(length=LENGTH, symbols=SYMBOLS)
    blind = task.optimum(observers=1, knowledge_transfer=False)[1]
    for i in range(observers + 1):
        last = sum(float(row[f"llm_{i}/task_reward"]) for row in rows[-5:]) / 5
        # Blind, an observer's optimum is 1/3, and so is the reward of a constant pioneer.
        assert last > blind + 0.3, f"llm_{i} ended at {last:.2f}"


def test_without_knowledge_transfer_the_observer_cannot_pass_the_blind_optimum(small_toy):
    values = {**preset_values("toy"), "task": "small", "knowledge_transfer": False, "swap_every": 0}
    trainer = Trainer(TrainConfig(**values, seed=0))
    rows = [trainer.iterate(iteration) for iteration in range(25)]
    last = sum(float(row["llm_1/task_reward"]) for row in rows[-5:]) / 5
    # 5 x 256 episodes of 2 letters: a standard error of 0.01 around at most 1/3
    assert last < 1 / SYMBOLS + 0.05
