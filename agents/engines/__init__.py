"""Where responses are generated: by the learner's own model, or by vLLM, or by an engine of yours.

None of the engines loads torch before a run has: the configuration asks them what they need.
"""

from __future__ import annotations

from agents import registries
from agents.engines.base import Engine
from agents.engines.builtin import BuiltinEngine
from agents.registries import register_engine
from cory_env.registry import Registry

ENGINES: Registry[type[Engine]] = registries.ENGINES

__all__ = ["ENGINES", "BuiltinEngine", "Engine", "register_engine"]
