"""Callbacks: when they are called, what they may change, and what a kill leaves of them."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from agents import Callback, EarlyStop, TrainConfig, train
from agents.config.presets import preset_values
from agents.records.folder import RunFolder

SMALL = {"iterations": 4, "batch_size": 8, "minibatch_size": 4, "evaluation_queries": 4}
QUIET = Console(file=io.StringIO())


def config(out: Path, **changes) -> TrainConfig:
    return TrainConfig(**{**preset_values("toy"), **SMALL, "out": str(out), **changes})


class Diary(Callback):
    """Notes what it is told, and adds a figure that depends on all it has been told so far."""

    def __init__(self, interrupt_at: int | None = None):
        self.notes: list[str] = []
        self.total = 0
        self.interrupt_at = interrupt_at

    def start(self, trainer, done):
        self.notes.append(f"start {done}")

    def rollout(self, trainer, rollout):
        self.notes.append(f"rollout {len(rollout.turns)}")

    def step(self, trainer, row):
        self.total += 1 + self.total
        row["diary"] = self.total
        row["llm_0/diary"] = -self.total
        self.notes.append(f"step {row['iteration']}")
        if row["iteration"] == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def save(self, trainer, checkpoint):
        assert (checkpoint / "state.safetensors").is_file()
        self.notes.append(f"save {checkpoint.name}")

    def evaluation(self, trainer, evaluation):
        self.notes.append(f"evaluation {evaluation['num_queries']}")

    def end(self, run):
        self.notes.append(f"end {len(run.metrics)}")

    def state(self):
        return {"total": self.total}

    def load_state(self, state):
        self.total = state["total"]


def figures(run) -> list:
    return [[row["diary"], row["llm_0/diary"], row["llm_0/kl"]] for row in run.metrics]


def test_callbacks_are_told_in_order_and_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path):
    diary = Diary()
    whole = train(config(tmp_path / "whole"), callbacks=[diary], console=QUIET)
    played = [f"{what}" for i in range(4) for what in ("rollout 2", f"step {i}")]
    ending = ["save step_4", "evaluation 4", "end 4"]
    assert diary.notes == ["start 0", *played, *ending]
    assert [row[0] for row in figures(whole)] == [1, 3, 7, 15]
    first = Diary(interrupt_at=1)
    half = train(config(tmp_path / "half"), callbacks=[first], console=QUIET)
    assert half.interrupted
    assert first.notes[-1] == "save step_2"
    second = Diary()
    rest = train(config(tmp_path / "half"), resume=True, callbacks=[second], console=QUIET)
    assert second.notes == ["start 2", *played[4:], *ending]
    assert figures(rest) == figures(whole)
    assert (rest.folder / "report.html").is_file()


class StopAt(Callback):
    """Ends a run after an iteration."""

    def __init__(self, last: int):
        self.last, self.seen = last, 0

    @property
    def stops(self):
        return self.seen >= self.last

    def step(self, trainer, row):
        self.seen = row["iteration"] + 1

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]


def test_a_callback_ends_a_run_as_its_last_iteration_does(tmp_path):
    run = train(config(tmp_path / "run"), callbacks=[StopAt(2)], console=QUIET)
    folder = RunFolder(run.folder)
    assert (len(run.metrics), run.interrupted) == (2, False)
    assert run.evaluation
    assert [path.name for path in folder.final_policies()] == ["llm_0", "llm_1"]
    assert {row["iteration"] for row in folder.read_samples()} == {0, 2}
    # The same callback ends it again at once; without it, the run goes on to its last iteration.
    again = train(config(tmp_path / "run"), resume=True, callbacks=[StopAt(2)], console=QUIET)
    assert len(again.metrics) == 2
    whole = train(config(tmp_path / "run"), resume=True, console=QUIET)
    straight = train(config(tmp_path / "straight"), console=QUIET)
    assert [r["llm_0/kl"] for r in whole.metrics] == [r["llm_0/kl"] for r in straight.metrics]


def rows(*values: float) -> list[dict]:
    return [{"iteration": i, "llm_0/x": v, "llm_1/x": v + 2} for i, v in enumerate(values)]


def test_early_stop_waits_for_a_rise_and_remembers_how_long():
    stop = EarlyStop("x", patience=2, rise=0.5)
    seen = []
    for row in rows(1.0, 1.5, 1.6, 2.0, 0.0):
        stop.step(None, row)  # type: ignore[arg-type]
        seen.append((stop.waited, stop.stops))
    # 1.6 is 0.6 above 1.0; 1.5 is no more than 0.5 above it, and 2.0 is 0.4 above 1.6.
    assert seen == [(0, False), (1, False), (0, False), (1, False), (2, True)]
    other = EarlyStop("x", patience=2, rise=0.5)
    other.load_state(stop.state())
    assert (other.best, other.waited, other.stops) == (2.6, 2, True)
    fresh = EarlyStop("x")
    fresh.load_state(fresh.state())
    assert not fresh.stops
    with pytest.raises(ValueError, match="got 'y'"):
        EarlyStop("y").step(None, rows(1.0)[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patience of at least 1"):
        EarlyStop(patience=0)


def test_a_figure_of_nobody_and_what_is_no_callback_are_refused(tmp_path):
    class Wrong(Callback):
        def step(self, trainer, row):
            row["mine/score"] = 1.0

    with pytest.raises(ValueError, match=r"such as my_score, .*got 'mine/score'"):
        train(config(tmp_path / "run"), callbacks=[Wrong()], console=QUIET)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"objects of agents\.Callback"):
        train(config(tmp_path / "run"), callbacks=[Wrong], console=QUIET)  # type: ignore[list-item]


def test_a_run_is_a_data_frame_and_a_page(tmp_path):
    pandas = pytest.importorskip("pandas")
    run = train(config(tmp_path / "run", iterations=1, evaluation_queries=0), console=QUIET)
    frame = run.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["llm_0/kl"].tolist() == [run.metrics[0]["llm_0/kl"]]
    assert frame.index.name == "iteration"
    html = run.report()._repr_html_()
    assert html.startswith('<iframe srcdoc="')
    assert "<html" not in html
    assert "&lt;html" in html
