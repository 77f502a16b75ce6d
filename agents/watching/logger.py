"""`MetricLogger`: the numbers and sample texts of a run, kept on disk and shown while it goes.

On a terminal and in a notebook a live table, elsewhere one plain line per iteration. Not for
messages to people: they go through `logging`, with `RichHandler(console=logger.console)` of
`rich.logging`, so that they stay clear of the live table.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

from rich.console import Console, RenderableType
from rich.live import Live

from agents.records.folder import RunFolder
from agents.records.rows import (
    HistogramRow,
    MetricValue,
    SampleRow,
    append_histograms,
    append_rows,
    is_reference,
    number,
    truncate_rows,
)
from agents.watching.display import Progress, live_view, plain_line
from agents.watching.notebook import NotebookCell
from agents.watching.tracker import Tracker

_SPEED_WINDOW = 20
"""Iterations that the time left is estimated from: enough to hold an evaluation or a checkpoint."""


_REFRESHES_PER_SECOND = 2.0


Planned = Callable[[int, Mapping[str, object]], int]
"""How many iterations there will be, by how many are done and the last of their rows."""


class MetricLogger:
    """Appends rows to the `.jsonl` files in `out` and shows the progress.

    `trackers` get every row as well, and are closed when the context is left.

    A context manager; leaving it, also by Ctrl-C, gives the terminal back as it was. Rows that are
    in the folder already count as the beginning of this run: a new run in an old folder starts with
    `truncate_after(-1)`.

    Attributes:
        console: Where the progress goes. What is printed here appears above the live table.
    """

    def __init__(
        self,
        out: Path,
        planned: Planned,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.console = console or Console()
        self._folder = RunFolder(out)
        self._trackers = trackers
        self._planned = planned
        self._clock = clock
        self._started_at = clock()
        self._logged_at: deque[float] = deque(maxlen=_SPEED_WINDOW + 1)
        self._live: Live | None = None
        self._cell: NotebookCell | None = None
        out.mkdir(parents=True, exist_ok=True)
        self._drop_cut_short_lines()
        self._load()

    def __enter__(self) -> MetricLogger:
        self._started_at = self._clock()
        if self.console.is_jupyter:
            self._cell = NotebookCell(self.console.width)
        elif self.console.is_interactive:
            self._live = Live(
                get_renderable=self._view,
                console=self.console,
                refresh_per_second=_REFRESHES_PER_SECOND,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        for tracker in self._trackers:
            tracker.close()

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None = None) -> None:
        """Append the metrics of one iteration; NaN and infinities are written as null.

        Args:
            row: `iteration`, counted from 0 and greater than in the row before; `seconds` this
                iteration took; `tokens_per_second`; and `llm_i/<metric>` per policy.
            histograms: of the same iteration.

        Raises:
            ValueError: The iteration is missing or not after the last one.
        """
        iteration, last = row.get("iteration"), self._last_iteration()
        if not isinstance(iteration, int) or iteration <= last:
            raise ValueError(
                f"Expected an `iteration` after {last}, got {iteration!r}. "
                f"To go on from there, call `truncate_after` first."
            )
        append_rows(self._folder.metrics_path, [row])
        if histograms is not None:
            append_histograms(self._folder.histograms_path, histograms)
        self._rows.append(dict(row))
        self._logged_at.append(self._clock())
        if self._cell is not None:
            self._cell.show(self._view())
        elif self._live is None:
            self.console.print(
                plain_line(self._rows[-1], self._progress()),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        for tracker in self._trackers:
            tracker.log(row, histograms)

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Append sample texts; the first one of each policy is shown until the next call."""
        append_rows(self._folder.samples_path, rows)
        self._show_texts(rows)
        for tracker in self._trackers:
            tracker.samples(rows)

    def truncate_after(self, iteration: int) -> None:
        """Forget all that came after metrics row `iteration`; -1 forgets everything.

        A run that resumes with iteration k calls `truncate_after(k - 1)`, which keeps the samples
        of up to k updates. Each file is replaced atomically.
        """
        folder = self._folder
        truncate_rows(folder.metrics_path, iteration)
        truncate_rows(folder.histograms_path, iteration)
        truncate_rows(folder.samples_path, iteration + 1 if iteration >= 0 else -1)
        self._load()

    def _drop_cut_short_lines(self) -> None:
        """Or the next row would be appended to the stump."""
        folder = self._folder
        for path in (folder.metrics_path, folder.samples_path, folder.histograms_path):
            if path.exists() and not path.read_bytes().endswith(b"\n"):
                truncate_rows(path)

    def _load(self) -> None:
        self._rows, texts = self._folder.read_metrics(), self._folder.read_samples()
        self._latest_texts: dict[str, SampleRow] = {}
        last = max((text["iteration"] for text in texts), default=0)
        self._show_texts([text for text in texts if text["iteration"] == last])

    def _show_texts(self, rows: Sequence[SampleRow]) -> None:
        first: dict[str, SampleRow] = {}
        for row in rows:
            if not is_reference(row["policy"]):
                first.setdefault(row["policy"], row)
        self._latest_texts = first or self._latest_texts

    def _view(self) -> RenderableType:
        # A copy: the live display draws in a thread of its own.
        return live_view(list(self._rows), self._latest_texts, self._progress(), self.console.width)

    def _progress(self) -> Progress:
        now, done = self._clock(), self._last_iteration() + 1
        total = self._planned(done, self._rows[-1] if self._rows else {})
        since_last = now - self._logged_at[-1] if self._logged_at else 0.0
        left = self._seconds_per_iteration() * (total - done) - since_last
        return Progress(
            done=done,
            total=total,
            elapsed_s=now - self._started_at,
            left_s=left if math.isnan(left) else max(0.0, left),
        )

    def _seconds_per_iteration(self) -> float:
        if len(self._logged_at) >= 2:
            return (self._logged_at[-1] - self._logged_at[0]) / (len(self._logged_at) - 1)
        return number(self._rows[-1], "seconds") if self._rows else math.nan

    def _last_iteration(self) -> int:
        return cast("int", self._rows[-1]["iteration"]) if self._rows else -1
