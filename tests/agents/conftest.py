"""Fixtures of the learner's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.config import plugins
from agents.config.train import TrainConfig


@pytest.fixture(autouse=True)
def _nothing_imported(monkeypatch):
    """Let each test begin as a process in which the user has named no plug-ins."""
    monkeypatch.setattr(plugins, "_own", [])


@pytest.fixture
def toy_config(tmp_path: Path):
    """Return a function that configures a run of seconds: two tiny models on the toy task."""

    def make(**changes) -> TrainConfig:
        values = {
            **{"task": "toy", "model": "tiny", "adapter": "full", "dtype": "float32"},
            **{"iterations": 4, "batch_size": 8, "minibatch_size": 4, "epochs": 1, "kl_coef": 0.1},
            **{"swap_every": 1, "save_every": 2, "sample_every": 2, "evaluation_queries": 0},
            "out": str(tmp_path / "run"),
        }
        return TrainConfig(**{**values, **changes})

    return make
