"""Objects in place of names: a task, a reward, a model that `train` is given from Python.

Each gets a name in the registries of this process, or a folder, so that all that looks things up by
their names finds it: `evaluate`, `play` and a resumption in the same program do. Another program
has to give the object again, or to register it in a file that it imports.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from agents.models.gguf import cache_folder
from cory_env import Example, Task
from cory_env.registry import REWARDS, TASKS, Registry
from cory_env.types import Reward

_DIGEST = 16
"""Hexadecimal digits of the SHA-256 that name a folder."""


_given: set[tuple[str, str]] = set()
"""Kind and name of what was registered here: it may be given anew."""


GivenTask = Task | Mapping[str, Task] | Callable[..., Task]
GivenReward = Callable[[Sequence[Example], Sequence[str]], Any]


def given_fields(
    *,
    task: GivenTask | None = None,
    reward: GivenReward | None = None,
    model: Any = None,
    tokenizer: Any = None,
) -> dict[str, str]:
    """Return the fields of a configuration that stand for objects.

    Args:
        task: an object, which then has the same queries for both splits; one by split, with `train`
            and `test`; or what is called with `split=` and returns one, such as a class.
        reward: a batched function `(examples, responses) -> (B,) numbers`.
        model: a causal language model of transformers, which is written to the cache as it is.
        tokenizer: of the model.

    Raises:
        ValueError: if one is something else.
    """
    fields: dict[str, str] = {}
    if task is not None:
        fields["task"] = _named_task(task)
    if reward is not None:
        if not callable(reward):
            raise ValueError(
                "Expected reward to be a function of examples and responses, got "
                f"{reward!r}: write a name into the configuration."
            )
        fields["reward"] = _name(REWARDS, getattr(reward, "__name__", type(reward).__name__))
        REWARDS[fields["reward"]] = lambda: _array_of(reward)
    if (model is None) != (tokenizer is None):
        raise ValueError("Expected a model and its tokenizer, got one of them: pass both.")
    if model is not None:
        fields["model"] = str(_model_folder(model, tokenizer))
    return fields


def _named_task(task: GivenTask) -> str:
    if isinstance(task, Task):
        name, make = task.name, lambda split="train": task
    elif isinstance(task, Mapping):
        if not {"train", "test"} <= task.keys() or not _are_tasks(task.values()):
            raise ValueError(
                f"Expected a task for train and one for test, got {task!r}: write "
                '{"train": …, "test": …}.'
            )
        splits = dict(task)
        name, make = splits["train"].name, lambda split="train": _split(splits, split)
    elif callable(task):
        name, make = getattr(task, "name", getattr(task, "__name__", "given")), task
    else:
        raise ValueError(
            f"Expected a task object, a mapping of splits, or a class, got {task!r}: write a name "
            "into the configuration."
        )
    named = _name(TASKS, str(name))
    TASKS[named] = make
    return named


def _are_tasks(values: Any) -> bool:
    return all(isinstance(value, Task) for value in values)


def _split(splits: Mapping[str, Task], split: str) -> Task:
    if split not in splits:
        raise ValueError(f"Expected a split ({', '.join(splits)}), got {split!r}.")
    return splits[split]


def _name(registry: Registry[Any], wanted: str) -> str:
    """Return a name under which an object may be registered: no other entry bears it."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in wanted).strip("-") or "given"
    while name in registry.known() and (registry.kind, name) not in _given:
        name += "-given"
    _given.add((registry.kind, name))
    return name


def _array_of(reward: GivenReward) -> Reward:
    """Return a reward whose numbers are an array, lists and tensors on a CPU included."""

    def score(examples: Sequence[Example], responses: Sequence[str]) -> np.ndarray:
        return np.asarray(reward(examples, responses))

    return score


def _model_folder(model: Any, tokenizer: Any) -> Path:
    """Write a model with its tokenizer to the cache, whole or not at all, and return the folder.

    Its name has the digest of the weights, so that adapters name a base that does not change.
    """
    if not isinstance(model, PreTrainedModel) or not hasattr(tokenizer, "save_pretrained"):
        raise ValueError(
            "Expected a causal language model of transformers and its tokenizer, got "
            f"{type(model).__name__} and {type(tokenizer).__name__}: load them with "
            "AutoModelForCausalLM and AutoTokenizer."
        )
    parent = cache_folder() / "given"
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        digest = hashlib.sha256()
        for path in sorted(temporary.iterdir()):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        folder = parent / f"{type(model).__name__}-{digest.hexdigest()[:_DIGEST]}"
        if not folder.is_dir():
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
