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


def test_the_learner_arrows_point_one_way():
    allowed = {
        "advantages": set(),
        "distributions": set(),
        "losses": set(),
        "schedules": set(),
        "kl": set(),
        "roles": set(),
        "figures": set(),
        "statistics": set(),
        "critic": set(),
        "checkpoint": {"agents.run_folder"},
        "fields": set(),
        "models": set(),
        "sources": set(),
        "flags": set(),
        "config": {"agents.algorithms", "agents.fields", "agents.models", "agents.sources"},
    }
    for module, some in allowed.items():
        names = imported(ROOT / "agents" / f"{module}.py")
        assert {name for name in names if name.split(".")[0] == "agents"} <= some, module
    for path in (ROOT / "agents" / "algorithms").glob("*.py"):
        assert not {n for n in imported(path) if n.startswith(("agents.trainer", "agents.cli"))}


@pytest.mark.parametrize(
    "statement",
    ["import agents", "import agents.cli", "from agents import TrainConfig", "import agents.play"],
)
def test_the_command_line_starts_without_torch(statement):
    assert not modules_after(statement) & {"torch", "transformers", "peft", "matplotlib"}


@pytest.mark.parametrize("module", ["figures", "outcomes", "statistics"])
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
