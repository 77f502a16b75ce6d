"""What `train` returns: a run that has ended, and its page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from agents.evaluation.rows import Evaluation
from agents.records.folder import RunFolder
from agents.records.rows import MetricRow, number, policy_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that has ended."""

    folder: Path
    metrics: list[MetricRow]
    """One row per iteration."""
    evaluation: Evaluation | None
    """On held-out queries; None if it was interrupted or asked for none."""
    stopped_by: int
    """Number of the signal that stopped it before its last iteration; 0 if none did."""

    @property
    def interrupted(self) -> bool:
        """Whether it stopped at a checkpoint before its last iteration."""
        return self.stopped_by != 0

    def to_pandas(self) -> Any:
        """Return a data frame with a row per iteration, which `iteration` counts.

        Raises:
            ValueError: if pandas is not installed.
        """
        try:
            import pandas  # late: nothing else needs it
        except ImportError:
            raise ValueError(
                "Expected pandas to be installed, found no such package: pip install pandas."
            ) from None
        return pandas.DataFrame(self.metrics).set_index("iteration")

    def report(self) -> Page:
        """Return the page of the run, which a notebook shows below the cell."""
        return Page(RunFolder(self.folder).report_path)

    def __repr__(self) -> str:
        """Return where it is and how it ended."""
        last = self.metrics[-1] if self.metrics else {}
        parts = [repr(str(self.folder)), f"{len(self.metrics)} iterations"]
        parts += ["interrupted"] * self.interrupted
        for name in policy_names([last]):
            reward, kl = (number(last, f"{name}/{key}") for key in ("task_reward", "kl"))
            parts.append(f"{name}: reward {reward:.3f}, KL {kl:.3f}")
        return f"Run({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a run."""

    path: Path

    def _repr_html_(self) -> str:
        """Return the page in a frame: its styles and scripts are its own."""
        text = escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{text}" width="100%" height="{_PAGE_HEIGHT}"></iframe>'


_PAGE_HEIGHT = 640
"""Of a page in a notebook, in pixels."""
