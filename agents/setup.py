"""Build the parts of a run from its configuration."""

from __future__ import annotations

from collections.abc import Sequence

from agents.backbone import Backbone, load_base, make_backbone, pick_device, pick_dtype
from agents.config import TrainConfig
from agents.rewards import ClassifierReward
from agents.tiny import tiny_model
from cory_env import make_reward, make_task, vector_env
from cory_env.registry import known_rewards
from cory_env.task import Task
from cory_env.types import Reward
from cory_env.vector import VectorEnv


def build_reward(config: TrainConfig, task: Task) -> Reward:
    """Return the task's own reward, a registered one, or a Hugging Face classifier."""
    name = config.reward or task.reward
    if name in known_rewards():
        return make_reward(name)
    try:
        return ClassifierReward(name, device=str(pick_device(config.device)))
    except ValueError as error:
        raise ValueError(
            f"Expected a registered reward ({', '.join(known_rewards())}) or a sequence "
            f"classifier, got {name!r}: {error}"
        ) from error


def build_backbone(config: TrainConfig, names: Sequence[str]) -> Backbone:
    """Load the model and give every policy its trainable part."""
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    if config.model == "tiny":
        base, tokenizer = tiny_model(make_task(config.task), config.seed)
    else:
        base, tokenizer = load_base(
            config.model, dtype, quantization=config.quantization, device=device
        )
    if not config.chat_template:
        tokenizer.chat_template = None  # saved so: who loads the policy asks it in the same way
    return make_backbone(
        base,
        tokenizer,
        names,
        adapter=config.adapter,
        rank=config.lora_rank,
        dtype=dtype,
        device=device,
        seed=config.seed,
        targets=config.targets,
        rank_pattern=config.rank_pattern,
        gradient_checkpointing=config.gradient_checkpointing,
    )


def build_games(
    config: TrainConfig,
    task: Task,
    reward: Reward,
    backbone: Backbone,
    *,
    num_envs: int,
    observers: int,
) -> VectorEnv:
    """Return the environment that a run learns from, or is evaluated in."""
    return vector_env(
        num_envs,
        task,
        reward=reward,
        observers=observers,
        reward_sharing=config.sharing,
        knowledge_transfer=config.knowledge_transfer,
        max_new_tokens=config.max_new_tokens or None,
        tokenizer=backbone.tokenizer,  # type: ignore[arg-type]
    )
