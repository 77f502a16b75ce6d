"""Learners for language models that play `cory_env` together.

Names are imported when they are used: `import agents` loads no torch.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.terminal.hush import hushed

if TYPE_CHECKING:
    from agents.acting.evaluation import evaluate_environment
    from agents.acting.loop import EnvRun, train_environment
    from agents.config.environment import EnvConfig
    from agents.config.files import read_config
    from agents.config.plugins import import_plugins
    from agents.config.train import TrainConfig
    from agents.evaluation.finished import evaluate
    from agents.policies.load import load_policy
    from agents.training.callbacks import Callback, EarlyStop
    from agents.training.loop import train
    from agents.training.run import Run
    from agents.training.trainer import Trainer

_HOMES = {
    "TrainConfig": "agents.config.train",
    "Run": "agents.training.run",
    "train": "agents.training.loop",
    "evaluate": "agents.evaluation.finished",
    "load_policy": "agents.policies.load",
    "import_plugins": "agents.config.plugins",
    "EnvConfig": "agents.config.environment",
    "EnvRun": "agents.acting.loop",
    "train_environment": "agents.acting.loop",
    "evaluate_environment": "agents.acting.evaluation",
    "read_config": "agents.config.files",
    "Callback": "agents.training.callbacks",
    "EarlyStop": "agents.training.callbacks",
    "Trainer": "agents.training.trainer",
}

__all__ = [
    "Callback",
    "EarlyStop",
    "EnvConfig",
    "EnvRun",
    "Run",
    "TrainConfig",
    "Trainer",
    "evaluate",
    "evaluate_environment",
    "import_plugins",
    "load_policy",
    "read_config",
    "train",
    "train_environment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    # The configuration is plain data; what comes with the others has advice to give.
    with nullcontext() if name in ("TrainConfig", "EnvConfig") else hushed():
        return getattr(import_module(_HOMES[name]), name)
