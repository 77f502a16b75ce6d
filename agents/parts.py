"""Build the parts of a run from its configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from agents.config.train import TrainConfig
from agents.distributed.sharding import Sharding
from agents.models.backbone import Backbone
from agents.models.critic import Critic
from agents.models.loading import load_base, pick_device, pick_dtype
from agents.models.make import make_backbone
from agents.models.tiny import tiny_model
from agents.rewards.classifier import ClassifierReward
from agents.tasks import build_task
from cory_env import make_reward, vector_env
from cory_env.registry import REWARDS
from cory_env.task import Task
from cory_env.types import Reward
from cory_env.vector import VectorEnv


def build_reward(config: TrainConfig, task: Task) -> Reward:
    """Return the task's own reward, a registered one, or a Hugging Face classifier."""
    name = config.reward or task.reward
    if name in REWARDS.known():
        if config.reward_label:
            raise ValueError(
                f"Expected a sequence classifier as reward with reward_label, got {name!r}, which "
                "has no labels: leave out --reward-label."
            )
        return make_reward(name)
    label, device = config.reward_label or None, str(pick_device(config.device))
    return ClassifierReward(name, positive_label=label, device=device)


def build_backbones(
    config: TrainConfig,
    critic: Literal["local", "central"] | None,
    sharding: Sharding | None = None,
) -> dict[str, Backbone]:
    """Load the base models and give every policy, and every critic that has one, its own part.

    Args:
        config: of the run.
        critic: what the algorithm has; with `critic_body="own"` it gets a body next to its
            policies', named by `critic_name`.
        sharding: how layers are spread over processes; None for all in each.

    Returns:
        By policy, the same object for all that share a base model.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    backbones: dict[str, Backbone] = {}
    sources = dict(zip(config.policy_names, config.models, strict=True))
    for model in dict.fromkeys(config.models):
        if model == "tiny":
            task = build_task(config.task, config.train_split, config.task_arguments)
            base, tokenizer = tiny_model(task, config.seed)
        else:
            base, tokenizer = load_base(
                model, dtype, quantization=config.quantization, device=device
            )
        if not config.chat_template:
            tokenizer.chat_template = None  # saved so: who loads the policy asks it the same way
        policies = [name for name, source in sources.items() if source == model]
        critics = [critic_name(critic, name) for name in policies] if critic else []
        backbone = make_backbone(
            base,
            tokenizer,
            [*policies, *(dict.fromkeys(critics) if config.critic_body == "own" else ())],
            adapter=config.adapter,
            rank=config.lora_rank,
            dtype=dtype,
            device=device,
            seed=config.seed,
            targets=config.targets,
            rank_pattern=config.rank_pattern,
            gradient_checkpointing=config.gradient_checkpointing,
            sharding=sharding,
        )
        backbones |= dict.fromkeys(policies, backbone)
    return {name: backbones[name] for name in config.policy_names}


def critic_name(critic: Literal["local", "central"], policy: str) -> str:
    """Return the name of a critic's own body; a central one serves all policies of a base model."""
    return "critic" if critic == "central" else f"critic_{policy}"


def build_critics(
    config: TrainConfig,
    critic: Literal["local", "central"] | None,
    backbones: Mapping[str, Backbone],
    max_new_tokens: int,
    seeds: Sequence[int],
) -> dict[str, Critic]:
    """Return the critics by policy: none, one each, or one for all policies of a base model."""
    critics: dict[tuple[int, str], Critic] = {}
    by_policy: dict[str, Critic] = {}
    for (policy, backbone), seed in zip(backbones.items(), seeds, strict=True):
        if critic is None:
            break
        name = critic_name(critic, policy)
        by_policy[policy] = critics.setdefault(
            (id(backbone), name),
            Critic(
                int(backbone.config.hidden_size),
                len(backbones),
                max_new_tokens,
                seed,
                body=config.critic_body,
                name=name,
            ).to(backbone.device),
        )
    return by_policy


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
