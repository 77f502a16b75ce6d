"""The command `cory`: `python -m agents`, once it is sure whose package `agents` is.

`openai-agents` has a package of that name as well. Of two such distributions in one environment
only one can be imported, and neither says so by itself; this module has a name of its own.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_MARK = "cory_env"
"""What the docstring of our package names and no other one does."""


def main() -> int:
    """Run a command of the learners and return its exit code; 2 where they are not installed."""
    if problem := _problem():
        print(f"error: {problem}", file=sys.stderr)
        return 2
    from agents.cli.main import main as run

    return run()


def _problem() -> str:
    """Return what keeps the learners from being imported; empty if nothing does."""
    found = find_spec("agents")
    if found is None or found.origin is None:
        return "Expected the package agents, got none: pip install --force-reinstall cory-agents."
    if _MARK not in Path(found.origin).read_text(encoding="utf-8"):
        return (
            f"Expected the package agents to be that of cory-agents, got {found.origin} of another "
            "distribution (openai-agents has one): use an environment of its own for each."
        )
    if find_spec("tyro") is None:
        return 'Expected the libraries of the learners, got none: pip install -e ".[agents]".'
    return ""
