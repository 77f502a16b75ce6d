"""What a notebook or `print` shows of a run, its configuration and its evaluation."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from agents import Run, TrainConfig
from agents.evaluation.score import evaluate_policies
from agents.training.trainer import Trainer


def test_a_configuration_shows_what_differs_from_the_defaults():
    assert repr(TrainConfig()) == "TrainConfig()"
    config = TrainConfig(task="toy", kl_coef=0.5, trackers="wandb")
    assert repr(config) == "TrainConfig(task='toy', trackers='wandb', kl_coef=0.5)"


def test_a_run_shows_where_it_is_and_how_it_ended():
    first = {"iteration": 0, "llm_0/task_reward": 0.0, "llm_0/kl": 0.0}
    row = {"iteration": 1, "llm_0/task_reward": 4.0123, "llm_0/kl": 9.58, "llm_1/kl": 8.0}
    run = Run(
        folder=Path("runs/a"), metrics=[first, row], evaluation=None, stopped_by=signal.SIGINT
    )
    assert repr(run) == (
        "Run('runs/a', 2 iterations, interrupted, llm_0: reward 4.012, KL 9.580, "
        "llm_1: reward nan, KL 8.000)"
    )
    empty = Run(folder=Path("runs/a"), metrics=[], evaluation=None, stopped_by=0)
    assert repr(empty) == "Run('runs/a', 0 iterations)"


def test_an_evaluation_is_a_dictionary_that_shows_its_table(toy_config):
    trainer = Trainer(toy_config())
    options = {"split": "test", "num_queries": 4}
    found = evaluate_policies(
        trainer.config, trainer.policies, trainer.parts.test_task, trainer.parts.reward, **options
    )
    assert "4 test queries, sampled" in repr(found)
    assert "llm_1 after llm_0" in str(found)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(dict(found)))
    assert found["num_queries"] == 4
