"""Objects in place of names: they are trained with, and found again by what looks names up."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

import cory_env
from agents import TrainConfig, evaluate, train
from agents.training.given import given_fields
from cory_env import Example, Task
from cory_env.registry import REWARDS, TASKS
from cory_env.tasks.toy import ToyTask

SMALL = {"iterations": 1, "batch_size": 4, "minibatch_size": 4, "evaluation_queries": 2}


@pytest.fixture(autouse=True)
def own_names(monkeypatch, tmp_path):
    """Forget what is registered, and keep to a cache of the test's own."""
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    monkeypatch.setattr(REWARDS, "_entries", dict(REWARDS._entries))
    monkeypatch.setattr("agents.training.given._given", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sums(*numbers: int) -> Task:
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in numbers]
    return Task.from_dataset(rows, name="my sums", max_new_tokens=4)


def vowels(examples, responses):
    """Return a list, as people write it."""
    return [sum(c in "aeiou" for c in text) / max(1, len(text)) for text in responses]


def test_a_task_and_a_reward_are_objects(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    out = str(tmp_path / "run")
    run = train(TrainConfig(out=out, **SMALL), task=sums(1, 2, 3), reward=vowels, console=console)
    stored = json.loads((run.folder / "config.json").read_text())
    assert (stored["task"], stored["reward"]) == ("my-sums", "vowels")
    assert "One task object was given" in console.file.getvalue()  # type: ignore[attr-defined]
    assert 0 <= run.metrics[0]["llm_0/task_reward"] <= 1
    scored = evaluate(out, num_queries=2)
    assert scored["num_queries"] == 2
    more = TrainConfig(out=out, **{**SMALL, "iterations": 2})
    again = train(more, task=sums(1, 2, 3), reward=vowels, resume=True, console=console)
    assert len(again.metrics) == 2


def test_splits_of_a_mapping_and_of_a_class_are_kept():
    fields = given_fields(task={"train": sums(1), "test": sums(5)})
    assert cory_env.make_task(fields["task"], "test").examples == [
        Example("What is 5 + 1?", reference="6")
    ]
    with pytest.raises(ValueError, match=r"Expected a split \(train, test\), got 'dev'"):
        cory_env.make_task(fields["task"], "dev")
    named = given_fields(task=ToyTask)["task"]
    assert named == "toy-given"  # `toy` stays what it is
    assert cory_env.make_task(named, "test", length=2).max_new_tokens == 2
    assert given_fields(task=sums(2))["task"] == fields["task"]  # given anew


def test_a_reward_of_the_name_of_another_gets_its_own():
    def match(examples, responses):
        return np.ones(len(responses))

    name = given_fields(reward=match)["reward"]
    assert name == "match-given"
    assert cory_env.make_reward(name)([Example("a")], ["b"]).tolist() == [1.0]
    unnamed = given_fields(reward=lambda examples, responses: responses)["reward"]
    assert unnamed == "lambda"


def test_a_model_and_its_tokenizer_are_objects(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from agents.models.files import EMBEDDED_MODEL

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    small = {"dtype": "float32", **SMALL}
    given = train(
        TrainConfig(out=str(tmp_path / "given"), **small),
        model=model,
        tokenizer=tokenizer,
        console=Console(quiet=True),
    )
    named = train(TrainConfig(out=str(tmp_path / "named"), **small), console=Console(quiet=True))
    assert given.metrics[0]["llm_1/kl"] == named.metrics[0]["llm_1/kl"]
    assert given.metrics[0]["llm_1/task_reward"] == named.metrics[0]["llm_1/task_reward"]
    folder = given_fields(model=model, tokenizer=tokenizer)["model"]
    stored = json.loads((given.folder / "config.json").read_text())["model"]
    assert stored == folder
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert given_fields(model=model, tokenizer=tokenizer)["model"] != folder


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task": 3}, "Expected a task object, a mapping of splits, or a class, got 3"),
        ({"task": {"train": 1}}, "a task for train and one for test"),
        ({"reward": "sentiment"}, "a function of examples and responses, got 'sentiment'"),
        ({"model": object()}, "a model and its tokenizer, got one of them"),
        ({"model": object(), "tokenizer": object()}, "causal language model of transformers"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(given, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(TrainConfig(out=str(tmp_path / "run"), **SMALL), **given)
    assert not (tmp_path / "run").exists()
