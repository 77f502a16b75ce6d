"""Checks of a run before torch is loaded and a file is written: splits, model, reward, plug-ins."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from agents.config.named_models import NAMED_MODELS
from agents.config.reward_terms import classifiers, reward_terms
from agents.config.sources import check_repository
from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.tasks import build_task


def check_run(run: Path, split: str = "") -> TrainConfig:
    """Return the configuration of a run, with all that it names imported and there.

    Args:
        run: the run folder.
        split: of the task, that is wanted besides the run's own.

    Raises:
        ValueError: if there is no run in the folder, or what it needs is not there.
    """
    config = RunFolder(run).read_config()
    check_before_loading(config.replace(test_split=split or config.test_split))
    return config


@cache
def check_before_loading(config: TrainConfig) -> None:
    """Check that the splits of the task, the model and the reward are there.

    Raises:
        ValueError: if one is not.
    """
    config.check_names()
    for split in (config.train_split, config.test_split):
        build_task(config.task, split, config.task_arguments)
    for model in config.models:
        if model not in NAMED_MODELS:
            check_repository("causal language model", model)
    for name in classifiers(name for _, name in reward_terms(config.reward) if name):
        check_repository("sequence classifier", name)
