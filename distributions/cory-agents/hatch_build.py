"""What the learners' distribution takes from the rest of the repository.

The version and the files; in an unpacked source distribution they lie beside this file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

REPOSITORY = Path(__file__).parents[2]


class SameVersion(MetadataHookInterface):
    """The learners are of the version of the environment, and need that one."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the version, and the dependency on the environment with the extra for learners."""
        text = (REPOSITORY / "cory_env" / "__init__.py").read_text(encoding="utf-8")
        found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
        assert found, "cory_env/__init__.py sets __version__"
        metadata["version"] = found[1]
        metadata["dependencies"] = [f"cory-env[agents]=={found[1]}"]


class Files(BuildHookInterface):
    """The package `agents`, and with the sources the terms of what it embeds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files that lie elsewhere in the repository."""
        if version == "editable":
            return
        unpacked = Path(self.root)
        source = unpacked if (unpacked / "agents").is_dir() else REPOSITORY
        licenses = ("LICENSE", "ATTRIBUTIONS.md") if self.target_name == "sdist" else ()
        for name in ("agents", *licenses):
            build_data["force_include"][str(source / name)] = name
