"""Start the engine of a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from agents.config.train import TrainConfig
from agents.engines import ENGINES
from agents.engines.base import Engine, EngineRun
from agents.models.files import EMBEDDED_MODEL
from agents.models.gguf import gguf_folder, is_gguf
from agents.models.loading import pick_device, pick_dtype
from agents.policies.base import Policy
from agents.records.folder import RunFolder
from cory_env.game import Rules


def make_engine(
    config: TrainConfig, policies: Mapping[str, Policy], rules: Rules, rank: int
) -> Engine:
    """Start the engine of a run, or connect to it.

    Args:
        config: of the run.
        policies: of the run, by name.
        rules: of the game.
        rank: of this process: each has an engine of its own.

    Raises:
        EngineError: if it cannot be used for this run.
    """
    backbone = next(iter(policies.values())).backbone
    longest = rules.max_prompt_tokens + rules.max_new_tokens
    longest += int(backbone.tokenizer.num_special_tokens_to_add(pair=False))
    if backbone.tokenizer.chat_template:
        longest = backbone.context
    engine = ENGINES.find(config.engine)
    dtype = pick_dtype(config.dtype, pick_device(config.device))
    run = EngineRun(
        config=config,
        policies=policies,
        max_tokens=min(longest, backbone.context),
        model=_stored(config.model, dtype) if engine.needs_stored_base else config.model,
        dtype=str(dtype).removeprefix("torch."),
        folder=RunFolder(config.run_folder).adapters_path(rank),
    )
    return engine.from_run(run)


def _stored(model: str, dtype: torch.dtype) -> str:
    """Return the folder of a model that others can read, or its name on the hub."""
    if is_gguf(model):
        return str(gguf_folder(model, dtype))
    return str(EMBEDDED_MODEL) if model == "embedded" else model
