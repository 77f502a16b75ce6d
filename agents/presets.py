"""Named starting points for a run: the fields that differ from the defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Preset = Callable[[], dict[str, Any]]


def imdb() -> dict[str, Any]:
    """Two embedded models coevolve on film reviews within minutes on a laptop."""
    return {"task": "imdb"}


def toy() -> dict[str, Any]:
    """Two tiny untrained models learn to reverse a string, and to trust each other."""
    return {
        "task": "toy",
        "model": "tiny",
        "adapter": "full",
        "dtype": "float32",
        "iterations": 150,
        "batch_size": 256,
        "minibatch_size": 64,
        "epochs": 4,
        "learning_rate": 2e-3,
        # The untrained reference is nearly uniform: KL to it is an entropy bonus. Without it both
        # policies settle on one constant answer.
        "kl_coef": 0.03,
    }


def paper_imdb() -> dict[str, Any]:
    """Table 1 of the paper: GPT2-Large and the classifier it names; needs the hub and a GPU."""
    return {
        "task": "imdb",
        "algorithm": "ippo",
        "model": "gpt2-large",
        "adapter": "full",
        "reward": "lvwerra/distilbert-imdb",
        "iterations": 100,
        "batch_size": 256,
        "minibatch_size": 256,
        "epochs": 4,
        "learning_rate": 1.41e-5,
        "kl": "detached",
        "kl_coef": 0.3,
        "clip": 0.2,
        "value_clip": 0.2,
        "value_coef": 0.1,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "swap_every": 5,
        "credit": "shared",
    }


PRESETS: dict[str, Preset] = {"imdb": imdb, "toy": toy, "paper-imdb": paper_imdb}
"""A preset that bears a task's name is what `train TASK` starts from."""


def preset_values(name: str) -> dict[str, Any]:
    """Return the fields of a preset.

    Raises:
        ValueError: if there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"Expected a preset ({', '.join(PRESETS)}), got {name!r}.")
    return PRESETS[name]()
