"""What evaluation of the student is worth to its teacher: `lesson`, beside four other forms.

    python -m benchmarks.lesson --out runs/lesson      # five forms, three seeds; resumes
    python -m benchmarks.lesson --out runs/lesson --forms preset --seeds 0

A teacher who alone reads the query and a student who alone answers learn it by the preset
`lesson`, and exchange their roles. In `shuffled marks` a mark says nothing: it is drawn from the
texts, and not from whether the answer was right. In `last answer pays` both are paid for the
student's last answer, and not for those of both rounds. In `no exchange` each keeps its role, and
in `frozen teacher` the student alone learns.

A run is read off its training batches: task rewards of the student by round. `learnt after` is the
first iteration that ends ten in whose mean the last round is at 80 % of the way from an answer
without messages to always right (0.825 with eight letters). After the method of arXiv 2401.06603,
whose game it is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console

from agents.config.presets import starting_values
from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.tasks import build_task
from agents.terminal.tables import Column, stacked
from agents.training.loop import train
from cory_env.registry import TASKS
from cory_env.tasks.lesson import RIGHT, WRONG, LessonTask

WINDOW = 10
"""Iterations that a figure is the mean of."""
SHARE = 0.8
"""Of the way from a message-free student to a perfect one."""


class ShuffledLesson(LessonTask):
    """`lesson` whose marks have nothing to do with the answers."""

    name = "lesson-shuffled"

    def feedback_prompt(self, query: str, responses: Sequence[str], verdicts: Sequence[str]) -> str:
        """Return what `lesson` asks, with marks drawn from the texts: half of them right."""
        marks = [verdict and _coin(query, *responses) for verdict in verdicts]
        return super().feedback_prompt(query, responses, marks)


def _coin(*texts: str) -> str:
    return (RIGHT, WRONG)[hashlib.sha256("\0".join(texts).encode()).digest()[0] % 2]


HEADINGS = {
    "first round": "first",
    "last round": "last",
    "most ahead": "gain",
}
"""Columns of the table, and the figures that they show."""


FORMS: Mapping[str, Mapping[str, Any]] = {
    "preset": {},
    "shuffled marks": {"task": ShuffledLesson.name},
    "last answer pays": {"reward_sharing": "last"},
    "no exchange": {"swap": "never"},
    "frozen teacher": {"swap": "never", "freeze": "llm_0"},
}
"""Fields beside those of the preset."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to train."""

    out: Path = Path("runs/lesson")
    """Folder of the runs."""
    forms: tuple[str, ...] = tuple(FORMS)
    """Of `FORMS`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int | None = None
    """Those of the preset, if left out."""


class Figures(NamedTuple):
    """Of one run."""

    first: float
    """The student's task reward in the first round, mean of the last iterations."""
    last: float
    """In the last round."""
    gain: float
    """The most that the last round was ahead, in the mean over consecutive iterations."""
    learnt: int | None
    """Iterations until the last round had learnt; None if it has not."""


def figures(rows: Sequence[Mapping[str, Any]], least: float) -> Figures:
    """Read a run.

    Args:
        rows: of its `metrics.jsonl`; at least one.
        least: task reward from which the last round counts as learnt.
    """
    rounds = np.array([_of_student(row) for row in rows])
    width = min(WINDOW, len(rows))
    means = np.stack([np.convolve(r, np.ones(width) / width, "valid") for r in rounds.T], 1)
    learnt = np.flatnonzero(means[:, 1] >= least)
    return Figures(
        *means[-1].tolist(),
        gain=(means[:, 1] - means[:, 0]).max().item(),
        learnt=int(learnt[0]) + width if len(learnt) else None,
    )


def _of_student(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the task rewards of both rounds of who is the student in an iteration."""
    name = next(n for n in ("llm_0", "llm_1") if str(row[f"{n}/role"]).startswith("observer"))
    return row[f"{name}/task_reward_1"], row[f"{name}/task_reward_2"]


def configure(arguments: Arguments, form: str, seed: int) -> TrainConfig:
    """Return the run of a form."""
    values, _ = starting_values("lesson", preset="lesson")
    if arguments.iterations:
        values = {**values, "iterations": arguments.iterations}
    folder = arguments.out / f"{form.replace(' ', '_')}_seed{seed}"
    changes = {"seed": seed, "out": str(folder), "evaluation_queries": 0, **FORMS[form]}
    return TrainConfig(**{**values, **changes})


def main() -> None:
    """Train what is not trained, and show the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    TASKS[ShuffledLesson.name] = ShuffledLesson
    console = Console(width=110)
    rows = [
        (form, seed, measure(configure(arguments, form, seed), console))
        for seed in arguments.seeds
        for form in arguments.forms
    ]
    for table in stacked(columns(rows), console.width):
        console.print(table)


def measure(config: TrainConfig, console: Console) -> Figures:
    """Train a run to its end, from where it stands, and read it."""
    folder = RunFolder(config.run_folder)
    if not folder.final_path.exists():
        resume = folder.has_progress()
        train(config, resume=resume, overwrite=not resume, console=console)
    task = build_task("lesson", "test", config.task_arguments)
    assert isinstance(task, LessonTask)
    floor = task.optimum(knowledge_transfer=False)[-1]
    return figures(folder.read_metrics(), floor + SHARE * (1 - floor))


def columns(rows: Sequence[tuple[str, int, Figures]]) -> list[Column]:
    """Return the table: one row per run."""
    return [
        Column("form", [form for form, _, _ in rows], "left"),
        Column("seed", [str(seed) for _, seed, _ in rows]),
        *(
            Column(heading, [f"{getattr(found, name):.2f}" for _, _, found in rows])
            for heading, name in HEADINGS.items()
        ),
        Column("learnt after", [str(found.learnt or "-") for _, _, found in rows]),
    ]


if __name__ == "__main__":
    main()
