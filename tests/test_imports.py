"""What loads what: the environment never loads the learner, and the command line starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
    "terminal": set(),
    "maths": set(),
    "config": {"algorithms"},
    "tasks": set(),
    "distributed": {"errors"},
    "records": {"config"},
    "models": {"config", "maths", "distributed"},
    "policies": {"types", "maths", "models", "terminal"},
    "engines": {"types", "errors", "config", "models", "policies"},
    "rewards": {"config", "models"},
    "rollouts": {"types", "policies", "engines"},
    "algorithms": {"types", "config", "maths", "distributed", "models", "policies"},
    "parts": {"config", "distributed", "models", "rewards", "tasks"},
    "checks": {"config", "records", "tasks"},
    "watching": {"config", "records", "maths", "terminal"},
    "reports": {"config", "records", "maths"},
    "publishing": {"config", "models", "records", "reports", "terminal"},
    "evaluation": {
        *("types", "config", "maths", "models", "policies", "rollouts", "records"),
        *("parts", "checks", "tasks", "terminal", "training"),
    },
    "training": {
        *("types", "errors", "config", "maths", "distributed", "records", "models", "policies"),
        *("engines", "rewards", "rollouts", "algorithms", "parts", "checks", "tasks", "terminal"),
        *("watching", "reports", "publishing", "evaluation"),
    },
    "studies": {"algorithms", "config", "maths", "records", "reports", "terminal"},
}
UPWARD = {("config", "algorithms"), ("evaluation", "training")}
"""Still to be turned round."""
ANYTHING = {"__init__", "__main__", "cli", "play"}
FILES = sorted((ROOT / "agents").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_what_it_may(path):
    room = path.relative_to(ROOT / "agents").parts[0].removesuffix(".py")
    if room in ANYTHING:
        return
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("agents.")}
    assert rooms - {room} <= ROOMS[room]


def test_no_arrow_between_rooms_points_up():
    rows = list(ROOMS)
    up = {(a, b) for a, some in ROOMS.items() for b in some if rows.index(b) >= rows.index(a)}
    assert up == UPWARD


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


@pytest.mark.parametrize("module", ["maths.figures", "maths.statistics", "studies.outcomes"])
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
