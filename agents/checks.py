"""What can be found out about a run before torch is loaded and anything is written."""

from __future__ import annotations

from functools import cache

from agents.config import TrainConfig
from agents.models import NAMED_MODELS
from agents.sources import check_repository
from agents.tasks import build_task
from cory_env.registry import REWARDS


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
    if config.reward and config.reward not in REWARDS.known():
        check_repository("sequence classifier", config.reward)
