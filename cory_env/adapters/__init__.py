"""The game in the trainers of others: a module for each, which imports that trainer's package."""

from __future__ import annotations


def missing(package: str, error: ImportError) -> ImportError:
    """Return the error of an adapter whose package is not there: it names the extra."""
    return ImportError(
        f"Expected the package {package}, got {error}: pip install cory-env[{package}], in an "
        "environment of its own."
    )
