"""Learners for language models that play `cory_env` together.

Names are imported when they are used: `import agents` loads no torch.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.hush import hushed

if TYPE_CHECKING:
    from agents.config import TrainConfig
    from agents.plugins import import_plugins
    from agents.run import evaluate, load_policy
    from agents.trainer import Run, train

_HOMES = {
    "TrainConfig": "agents.config",
    "Run": "agents.trainer",
    "train": "agents.trainer",
    "evaluate": "agents.run",
    "load_policy": "agents.run",
    "import_plugins": "agents.plugins",
}

__all__ = ["Run", "TrainConfig", "evaluate", "import_plugins", "load_policy", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    # The configuration is plain data; what comes with the others has advice to give.
    with nullcontext() if name == "TrainConfig" else hushed():
        return getattr(import_module(_HOMES[name]), name)
