"""Prompts that cannot fit are found before anything is written."""

from __future__ import annotations

import pytest
from rich.console import Console

from agents.cli.main import main
from agents.policies.fitting import check_prompts
from agents.training.loop import train
from cory_env import Example, vector_env
from cory_env.registry import TASKS
from cory_env.tasks.imdb import ImdbTask

QUIET = Console(quiet=True)


def test_a_chain_that_outgrows_the_prompt_is_refused_and_its_mend_takes_the_folder(toy_config):
    with pytest.raises(ValueError, match=r"observer_8 behind 9 responses.*--no-knowledge-transfer"):
        train(toy_config(observers=10, iterations=1), console=QUIET)
    assert not toy_config().run_folder.exists()
    train(toy_config(observers=10, iterations=1, knowledge_transfer=False), console=QUIET)


def test_a_response_that_the_context_has_no_room_for_is_named(tmp_path, capsys):
    argv = ["train", "imdb", "--max-new-tokens", "500", "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "max_new_tokens=500 to fit the model's context of 256 tokens" in error
    assert error.count("\n") == 1
    assert "-2" not in error, "a negative count is no message"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("long_split", ["train", "test"])
def test_the_longest_query_of_either_split_counts(monkeypatch, toy_config, long_split):
    class LongTask(ImdbTask):
        def __init__(self, split: str = "train"):
            self.examples = [Example("one")] * 9
            if split == long_split:
                self.examples[5] = Example("word " * 400)

    monkeypatch.setitem(TASKS, "long", LongTask)
    config = toy_config(task="long", model="embedded", adapter="lora", evaluation_queries=6)
    with pytest.raises(ValueError, match="max_prompt_tokens=240 tokens, got 40"):
        train(config, console=QUIET)
    assert not config.run_folder.exists()


@pytest.mark.parametrize("task", ["imdb", "arithmetic", "gsm8k", "toy"])
@pytest.mark.parametrize("observers", [0, 1, 2])
def test_the_games_that_ship_fit(task, observers):
    rules = vector_env(1, task, observers=observers).rules
    check_prompts(rules, rules.task.examples, {role: [] for role in rules.roles})
