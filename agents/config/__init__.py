"""What decides a run. Its public names are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.config.presets import preset_values
    from agents.config.train import TrainConfig

_HOMES = {"TrainConfig": "agents.config.train", "preset_values": "agents.config.presets"}

__all__ = ["TrainConfig", "preset_values"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'agents.config' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
