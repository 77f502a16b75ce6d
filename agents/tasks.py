"""Build a task with its options, and turn a wrong option into a `ValueError` of one line."""

from __future__ import annotations

from collections.abc import Mapping

from cory_env import make_task
from cory_env.task import Task


def build_task(name: str, split: str, options: Mapping[str, bool | int | float | str]) -> Task:
    """Build a registered task.

    Args:
        name: the name it is registered under.
        split: which examples.
        options: what the task itself takes.

    Raises:
        ValueError: if there is no such task, split or option.
    """
    try:
        return make_task(name, split, **options)
    except TypeError as error:
        if not options:
            raise
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ValueError(
            f"Expected task_options that {name} takes, got {given}: {error}."
        ) from error
