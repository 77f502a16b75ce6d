"""Who may import whom, and what is loaded when: the command line starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.architecture import ENTRANCES, circles, imports, modules, room_of, rooms
from tests.trajectories import ROOT


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


# A room may import the rooms above it that it names, and no others; itself, always.
ROOMS = {
    "types": set(),
    "errors": set(),
    "ledger": set(),
    "terminal": set(),
    "yaml_files": set(),
    "registries": {"yaml_files"},
    "config": {"ledger", "yaml_files", "registries"},
    "tasks": set(),
    "maths": {"config"},
    "distributed": {"errors"},
    "records": {"config", "ledger"},
    "models": {"registries", "config", "maths", "distributed", "records"},
    "policies": {"types", "config", "maths", "distributed", "models", "terminal"},
    "engines": {"types", "errors", "registries", "config", "models", "policies", "records"},
    "rewards": {"types", "config", "models", "policies", "engines"},
    "rollouts": {"types", "errors", "ledger", "distributed", "policies", "engines"},
    "algorithms": {
        *("types", "registries", "config", "maths", "distributed", "models", "policies"),
    },
    "parts": {"registries", "config", "distributed", "models", "policies", "rewards", "tasks"},
    "checks": {"config", "records", "tasks"},
    "watching": {"registries", "config", "records", "maths", "terminal"},
    "reports": {"config", "records", "maths"},
    "publishing": {"config", "models", "records", "reports", "terminal"},
    "evaluation": {
        *("types", "config", "maths", "models", "policies", "rollouts", "records"),
        *("parts", "checks", "tasks", "terminal"),
    },
    "training": {
        *("types", "errors", "ledger", "registries", "config", "maths", "distributed"),
        *("records", "models", "policies", "engines", "rewards", "rollouts", "algorithms"),
        *("parts",),
        *("checks", "tasks", "terminal", "watching", "reports", "publishing", "evaluation"),
    },
    "environments": {"errors", "config"},
    "acting": {
        *("types", "errors", "ledger", "config", "maths", "models", "policies", "environments"),
        *("records", "terminal", "watching", "reports", "training"),
    },
    "judging": {
        *("types", "config", "models", "policies", "rewards", "evaluation", "checks", "tasks"),
        *("records", "publishing", "terminal"),
    },
    "studies": {"ledger", "registries", "config", "maths", "records", "reports", "terminal"},
}
ANYTHING = {"cli", "play"}
NAMES_ITS_FILES = {"algorithms", "engines", "config"}
"""Rooms whose `__init__` exports public names; the others hold a docstring there."""
AGENTS = modules(ROOT, "agents")


@pytest.mark.parametrize("module", AGENTS)
def test_a_file_imports_the_rooms_that_its_own_may(module):
    room = room_of(module)
    if room in ANYTHING | ENTRANCES:
        return
    found = {room_of(name) for name in imports(module, AGENTS)} - {room}
    assert found <= ROOMS[room]


def test_the_table_has_every_room():
    assert set(rooms(ROOT)) - ANYTHING <= set(ROOMS)


def test_no_arrow_of_the_table_points_up():
    order = list(ROOMS)
    assert not [(a, b) for a in ROOMS for b in ROOMS[a] if order.index(b) >= order.index(a)]


def test_no_files_import_each_other():
    known = modules(ROOT)
    assert circles({module: imports(module, known) for module in known}) == []


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d", "a"}}
    assert circles(graph) == [["b", "c"], ["d"]]


@pytest.mark.parametrize("module", AGENTS)
def test_the_learner_knows_no_tests_benchmarks_or_recipes(module):
    outside = {name.split(".")[0] for name in imported(AGENTS[module])}
    assert not outside & {"tests", "benchmarks", "recipes", "examples"}


@pytest.mark.parametrize("path", sorted((ROOT / "agents").glob("*/__init__.py")))
def test_the_entrance_of_a_room_is_empty_but_for_what_the_room_is(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(body[0], ast.Expr)
    assert len(body) == 1 or path.parent.name in NAMES_ITS_FILES


@pytest.mark.parametrize("room", ["watching", "reports", "studies"])
def test_what_shows_runs_loads_no_checkpoint(room):
    for module in AGENTS:
        if room_of(module) == room:
            assert "agents.records.checkpoint" not in imports(module, AGENTS)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("agents", ["Run", "TrainConfig", "evaluate", "import_plugins", "load_policy", "train"]),
        ("agents", ["Callback", "EarlyStop", "Trainer", "read_config"]),
        ("agents.algorithms", ["ALGORITHMS", "Algorithm", "register_algorithm"]),
        ("agents.config", ["TrainConfig", "preset_values"]),
        ("agents.maths.advantages", ["returns_to_go"]),
        ("agents.maths.figures", ["pass_at_k", "majority_at_k"]),
    ],
)
def test_public_names_stay(module, names):
    for name in names:
        assert getattr(import_module(module), name).__doc__


@pytest.mark.parametrize(
    "statement",
    [
        "import agents",
        "import agents.cli.main",
        "from agents import TrainConfig",
        "import agents.play",
    ],
)
def test_the_command_line_starts_without_torch(statement):
    assert not modules_after(statement) & {"torch", "transformers", "peft", "matplotlib"}


@pytest.mark.parametrize(
    "module", ["maths.figures", "maths.statistics", "records.view", "studies.outcomes"]
)
def test_figures_and_tables_need_neither_torch_nor_matplotlib(module):
    assert not modules_after(f"import agents.{module}") & {"torch", "transformers", "matplotlib"}


def test_unknown_names_of_the_package_are_attribute_errors():
    import agents

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        agents.trian  # noqa: B018


def test_the_shipped_tokenizers_are_one():
    ours = (ROOT / "cory_env/assets/tokenizer.json").read_bytes()
    assert ours == (ROOT / "agents/assets/model/tokenizer.json").read_bytes()


def test_the_embedded_files_keep_their_sizes():
    model = sum(f.stat().st_size for f in (ROOT / "agents/assets/model").iterdir())
    assert model <= 20e6
    assert (ROOT / "cory_env/assets/sentiment.tsv.gz").stat().st_size <= 2e6
