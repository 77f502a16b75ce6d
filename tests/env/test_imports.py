"""Who may import whom: on the syntax tree, and in a fresh interpreter."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cory_env

PACKAGE = Path(cory_env.__file__).parent
MODULES = sorted(
    ".".join(("cory_env", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
)

# A row may import the rows above it that it names. `tasks` and `rewards` are all their modules.
# What is said of an unknown `name` is the same everywhere.
ARROWS = {
    "names": set(),
    "types": set(),
    "word_problems": {"types"},
    "rows": set(),
    "task": {"types", "rows"},
    "codec": set(),
    "tokenization": {"types", "codec"},
    "rewards": {"types"},
    "tasks": {"types", "tokenization", "word_problems", "task"},
    "game": {"types", "task"},
    "registry": {"types", "task", "tasks", "rewards"},
    "options": {"types", "task", "tokenization", "game", "registry"},
    "rendering": {"game"},
    "views": {"game"},
    "vector": {"types", "task", "game", "options"},
    "aec": {"types", "task", "game", "options", "rendering", "views"},
    "parallel": {"types", "task", "options", "views", "aec"},
    "seat": {"types", "task", "options", "views", "aec"},
    "registration": {"registry"},
    "adapters": {"types", "task", "options", "registry", "vector", "seat"},
    "testing": {"types", "task", "tokenization", "game", "registry", "vector", "views"},
}
HEAVY = {"torch", "transformers", "datasets", "peft", "rich"}


def imported(module):
    """Yield the full name of all that a module imports, anywhere in it."""
    path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_the_environment_knows_no_learner(module):
    assert not {name.split(".")[0] for name in imported(module)} & {"agents", "recipes"}


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__init__")])
def test_arrows_point_one_way(module):
    part = module.split(".")[1]
    assert part in ARROWS, f"{part} has no arrows yet: add a row"
    parts = {name.split(".")[1] for name in imported(module) if name.startswith("cory_env.")}
    assert parts - {part} <= ARROWS[part] | {"names"}


def test_no_arrow_points_up():
    rows = list(ARROWS)
    for row, allowed in ARROWS.items():
        assert allowed <= set(rows[: rows.index(row)])


def test_importing_and_playing_loads_nothing_heavy():
    program = (
        "import sys, cory_env, cory_env.testing\n"
        "cory_env.vector_env(1, 'imdb').reset()\n"
        f"print(*sorted({HEAVY} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == ""


def test_the_surface_is_small_and_all_there():
    names = [name for name in cory_env.__all__ if name != "__version__"]
    assert len(names) <= 13
    for name in names:
        assert getattr(cory_env, name).__doc__, f"{name} has no docstring"
