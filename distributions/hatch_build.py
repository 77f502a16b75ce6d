"""An installed checkout has the command `cory`, which a wheel leaves to `cory-agents`."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Command(BuildHookInterface):
    """The command of the learners, where they can be imported."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add it to an editable installation."""
        if version == "editable":
            self.metadata.core.scripts["cory"] = "cory_agents:main"
