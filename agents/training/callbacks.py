"""Callbacks: what a user's own code is told of a run, and may add to it or end it with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.records.rows import MetricRow, number, policy_names

if TYPE_CHECKING:
    from agents.evaluation.rows import Evaluation
    from agents.training.run import Run
    from agents.training.trainer import Trainer
    from agents.types import Rollout


class Callback:
    """Methods that `train` calls, all of them empty: override those that you need.

    Of several processes each has callbacks of its own, which are all called, in the same order:
    `trainer.world.writes` holds in the one that writes the run. What they raise ends the run, and
    `resume` goes on from its last checkpoint. After an interrupt neither `evaluation` nor `end` is
    called: that comes when the resumed run has ended.
    """

    @property
    def stops(self) -> bool:
        """Whether the run is to end after this iteration as after its last; asked after `step`.

        If it holds in one process, all end.
        """
        return False

    def start(self, trainer: Trainer, done: int) -> None:
        """Take note of a run that begins, or goes on after `done` iterations."""

    def rollout(self, trainer: Trainer, rollout: Rollout) -> None:
        """Look at this process's rows of a batch of episodes, before anybody learns from them."""

    def step(self, trainer: Trainer, row: MetricRow) -> None:
        """Look at the metrics of an iteration, before they are logged; add figures of your own.

        `my_score` is the name of a figure of the run, `llm_0/my_score` of one of its policies.
        """

    def save(self, trainer: Trainer, checkpoint: Path) -> None:
        """Take note of a checkpoint that is written; only in the process that writes."""

    def evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """Look at the evaluation on held-out queries at the end."""

    def end(self, run: Run) -> None:
        """Take note of a run that has ended."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to know, as JSON: it is part of every checkpoint.

        Of several processes all get back that of the one that writes.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what `state` has returned in the run that is resumed."""


class EarlyStop(Callback):
    """Ends a run whose figure has not risen for some iterations.

    Args:
        figure: of a policy, of which the mean over policies is looked at.
        patience: iterations without a rise after which the run ends; >= 1.
        rise: by how much a figure has to be above the best one so far; >= 0.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, figure: str = "combined_reward", *, patience: int = 10, rise: float = 0.0):
        if patience < 1 or rise < 0:
            raise ValueError(
                f"Expected a patience of at least 1 and a rise of at least 0, got {patience} and "
                f"{rise}: try EarlyStop(patience=10)."
            )
        self.figure = figure
        self.patience = patience
        self.rise = rise
        self.best = -math.inf
        self.waited = 0

    @property
    def stops(self) -> bool:
        """Whether the patience is at its end."""
        return self.waited >= self.patience

    def step(self, trainer: Trainer, row: MetricRow) -> None:
        """Compare the figure with the best one so far.

        Raises:
            ValueError: if no policy has such a figure.
        """
        values = [number(row, f"{name}/{self.figure}") for name in policy_names([row])]
        if not any(f"{name}/{self.figure}" in row for name in policy_names([row])):
            raise ValueError(
                f"Expected a figure of the policies, got {self.figure!r}: metrics.jsonl has them."
            )
        mean = sum(values) / len(values)
        if mean > self.best + self.rise:
            self.best, self.waited = mean, 0
        else:
            self.waited += 1

    def state(self) -> dict[str, Any]:
        """Return the best figure, and since when."""
        return {"best": self.best if math.isfinite(self.best) else None, "waited": self.waited}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to them."""
        self.best = -math.inf if state["best"] is None else state["best"]
        self.waited = state["waited"]


def take_step(callbacks: Sequence[Callback], trainer: Trainer, row: MetricRow) -> None:
    """Show the metrics of an iteration to callbacks, and let them add to it.

    Raises:
        ValueError: if a new figure is of a policy that there is not.
    """
    before = set(row)
    for callback in callbacks:
        callback.step(trainer, row)
    for name in row.keys() - before:
        policy, slash, _ = name.partition("/")
        if slash and policy not in trainer.policies:
            raise ValueError(
                f"Expected a figure of the run, such as my_score, or of a policy "
                f"({', '.join(trainer.policies)}), got {name!r}."
            )


def states_of(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Return the states of callbacks that have one, by their classes and places among these."""
    return {key: state for key, callback in _keyed(callbacks) if (state := callback.state())}


def load_states(callbacks: Sequence[Callback], states: dict[str, Any]) -> None:
    """Give callbacks their states back; one that the run did not have begins anew."""
    for key, callback in _keyed(callbacks):
        if key in states:
            callback.load_state(states[key])


def _keyed(callbacks: Sequence[Callback]) -> list[tuple[str, Callback]]:
    names = [type(callback).__name__ for callback in callbacks]
    return [(f"{n} {names[:i].count(n)}", callbacks[i]) for i, n in enumerate(names)]
