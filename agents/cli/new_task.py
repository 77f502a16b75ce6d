"""`new-task NAME`: a package with a task, a reward, tests and entry points, to be changed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from cory_env import __version__
from cory_env.registry import REWARDS, TASKS

_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
description = "A task for cory-env."
requires-python = ">=3.11"
dependencies = ["cory-env>=$version"]

# What cory-env finds by its name once this package is installed.
[project.entry-points."cory_env.tasks"]
$name = "$package:$kind"

[project.entry-points."cory_env.rewards"]
$name = "$package:${package}_reward"

[tool.hatch.build.targets.wheel]
packages = ["$package"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
""",
    "README.md": """\
# $name

A task for [cory-env](https://github.com/cory-env/cory-env): queries, prompts and a reward
in `$package/__init__.py`.

```bash
python -m pytest                                     # the task and the reward keep to the rules
python -m agents train $name --import $package/__init__.py     # without an installation
pip install -e . && python -m agents train $name     # or found by its name everywhere
```
""",
    "$package/__init__.py": '''\
"""The task `$name`: where queries come from, how they are put, and what an answer earns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import cory_env
from cory_env import Example, Task

SUMS = [(a, b) for a in range(1, 10) for b in range(1, 10)]


@cory_env.register_task("$name")
class $kind(Task):
    """Add two small numbers."""

    name = "$name"
    reward = "$name"
    max_new_tokens = 4

    def __init__(self, split: str = "train") -> None:
        """Make the examples of a split: one sum in five is held out."""
        if split not in ("train", "test"):
            raise ValueError(f"Expected a split (train, test), got {split!r}.")
        chosen = [pair for i, pair in enumerate(SUMS) if (i % 5 == 0) == (split == "test")]
        self.examples = [Example(f"{a} + {b} =", reference=str(a + b)) for a, b in chosen]

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        """Return what an observer reads: the earlier answers, then the query again."""
        return "".join(f"{query}{response}\\n" for response in responses) + query


@cory_env.register_reward("$name")
def ${package}_reward() -> cory_env.types.Reward:
    """Return a reward: 1 for an answer that begins with the reference, else 0."""

    def score(examples: Sequence[Example], responses: Sequence[str]) -> np.ndarray:
        firsts = [(text.split() or [""])[0] for text in responses]
        pairs = zip(examples, firsts, strict=True)
        return np.array([float(example.reference == first) for example, first in pairs])

    return score
''',
    "tests/test_$package.py": '''\
"""The task keeps to the rules of cory-env, and a right answer is paid."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from $package import $kind, ${package}_reward

import cory_env
from cory_env.testing import check_reward, check_task


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_task_can_be_played(split):
    check_task(cory_env.make_task("$name", split=split))


def test_no_query_is_in_both_splits():
    train, test = ({e.query for e in $kind(split).examples} for split in ("train", "test"))
    assert train
    assert test
    assert not train & test


def test_the_reward_keeps_to_the_rules():
    check_reward(cory_env.make_reward("$name"), $kind().examples[:4])


def test_a_right_answer_is_paid_and_a_wrong_one_is_not():
    examples = $kind().examples[:4]
    right = [f" {example.reference}" for example in examples]
    assert ${package}_reward()(examples, right).tolist() == [1.0] * 4
    assert ${package}_reward()(examples, [" no idea"] * 4).tolist() == [0.0] * 4


def test_an_episode_is_played_to_its_end():
    env = cory_env.env("$name", action_level="response")
    env.reset(seed=0)
    for _agent in env.agent_iter():
        _, _, termination, truncation, _ = env.last()
        env.step(None if termination or truncation else " 5")
    assert not env.agents


@pytest.mark.parametrize("kind", ["tasks", "rewards"])
def test_the_entry_points_name_what_is_there(kind):
    file = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    module, _, attribute = project["entry-points"][f"cory_env.{kind}"]["$name"].partition(":")
    assert callable(getattr(import_module(module), attribute))
''',
}
"""Contents by path, both with the names of the package left open."""


def new_task(name: str, parent: Path) -> Path:
    """Write the package of a new task, whole or not at all, and return its folder.

    Args:
        name: of the task, and of its folder: small letters, digits and `-` or `_` between them.
        parent: folder that it is written in.

    Raises:
        ValueError: if there is such a task, reward or folder, or no package can bear the name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise ValueError(
            f"Expected a name of small letters, digits and - or _ between them, got {name!r}: try "
            f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-0123456789') or 'my-task'}."
        )
    for registry in (TASKS, REWARDS):
        if name in registry.known():
            raise ValueError(f"Expected a new name, got {name!r}, a {registry.kind} that there is.")
    folder = parent / name
    if folder.exists():
        raise ValueError(f"Expected a new folder, got {folder}: take another name, or --out.")
    package = name.replace("-", "_")
    kind = "".join(part.capitalize() for part in package.split("_"))
    words = {"name": name, "package": package, "kind": kind, "version": __version__}
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=parent))
    try:
        for path, content in _FILES.items():
            file = partial / Template(path).substitute(words)
            file.parent.mkdir(exist_ok=True)
            file.write_text(Template(content).substitute(words), encoding="utf-8")
        partial.chmod(0o777 & ~_umask())
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
