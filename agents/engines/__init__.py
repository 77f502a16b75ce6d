"""Where responses are generated: by the learner's own model, or by vLLM.

An engine is a class in this package and a name in `ENGINES`, which `TrainConfig.engine` lists, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from agents.config.train import TrainConfig
from agents.engines.base import Engine
from agents.engines.builtin import BuiltinEngine
from agents.engines.client import VLLMClient
from agents.engines.vllm_local import VLLMEngine, start_vllm
from agents.engines.vllm_server import VLLMServerEngine
from agents.models.backbone import Backbone
from agents.models.gguf import gguf_folder, is_gguf
from agents.models.loading import EMBEDDED_MODEL, pick_device, pick_dtype
from agents.policies.llm import LLMPolicy
from cory_env.game import Rules

__all__ = ["ENGINES", "BuiltinEngine", "Engine", "VLLMEngine", "VLLMServerEngine", "make_engine"]


def make_engine(
    config: TrainConfig, policies: Mapping[str, LLMPolicy], rules: Rules, rank: int
) -> Engine:
    """Start the engine of a run, or connect to it.

    Args:
        config: of the run.
        policies: all of one base model, but for the built-in engine.
        rules: of the game.
        rank: of this process: each pushes adapters of its own.

    Raises:
        EngineError: if it cannot be used for this run.
    """
    backbone = next(iter(policies.values())).backbone
    longest = rules.max_prompt_tokens + rules.max_new_tokens
    longest += int(backbone.tokenizer.num_special_tokens_to_add(pair=False))
    if backbone.tokenizer.chat_template:
        longest = backbone.context
    folder = config.run_folder / f"adapters_{rank}"
    return ENGINES[config.engine](config, backbone, min(longest, backbone.context), folder)


def _builtin(config: TrainConfig, backbone: Backbone, max_tokens: int, folder: Path) -> Engine:
    return BuiltinEngine()


def _vllm(config: TrainConfig, backbone: Backbone, max_tokens: int, folder: Path) -> Engine:
    dtype = pick_dtype(config.dtype, pick_device(config.device))
    llm = start_vllm(
        _model(config),
        num_policies=len(config.policy_names),
        rank=config.lora_rank,
        dtype=str(dtype).removeprefix("torch."),
        memory=config.engine_memory,
        max_tokens=max_tokens,
        seed=config.seed,
    )
    return VLLMEngine(llm, folder)


def _vllm_server(config: TrainConfig, backbone: Backbone, max_tokens: int, folder: Path) -> Engine:
    shaped = (config.temperature, config.top_p) != (1.0, 1.0)
    return VLLMServerEngine(
        VLLMClient(config.engine_url),
        model=_model(config),
        folder=folder,
        max_tokens=max_tokens,
        reshaped=shaped or len(backbone.tokenless_ids) > 0,
    )


def _model(config: TrainConfig) -> str:
    if is_gguf(config.model):
        return str(gguf_folder(config.model, pick_dtype(config.dtype, pick_device(config.device))))
    return str(EMBEDDED_MODEL) if config.model == "embedded" else config.model


ENGINES: dict[str, Callable[[TrainConfig, Backbone, int, Path], Engine]] = {
    "builtin": _builtin,
    "vllm": _vllm,
    "vllm_server": _vllm_server,
}
