"""From a configuration to what it names: tasks, reward, policies, critics, games.

Nothing here learns: what does is in `agents.training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal, Self

import numpy as np

from agents.config.algorithm import AlgorithmConfig, CriticConfig
from agents.config.reward_terms import RUBRIC, classifiers, is_sum, reward_terms
from agents.config.train import TrainConfig
from agents.distributed.sharding import Sharding, asked_sharding
from agents.distributed.world import World
from agents.models.backbone import Backbone
from agents.models.compiled import CompiledLayers
from agents.models.critic import Critic
from agents.models.critic_bodies import CriticBody
from agents.models.gain import Gain, measure_gain
from agents.models.loading import load_base, pick_device, pick_dtype
from agents.models.make import make_backbone
from agents.models.tiny import tiny_model
from agents.policies.fitting import check_prompts
from agents.policies.llm import LLMPolicy
from agents.registries import ALGORITHMS, CRITIC_BODIES
from agents.rewards.classifier import ClassifierReward
from agents.rewards.rubric import RubricReward
from agents.rewards.total import RewardSum
from agents.tasks import build_task
from cory_env import make_reward, vector_env
from cory_env.game import Verdicts
from cory_env.registry import REWARDS
from cory_env.task import Task
from cory_env.types import Reward
from cory_env.vector import VectorEnv


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """Seeds of the random streams of a run: they must not coincide.

    They are children of one SeedSequence, which are independent.
    """

    queries: int
    generators: dict[str, int]
    """By policy: of its responses and of the order in which it learns."""
    critics: dict[str, int]
    """By policy: of the weights of its critic."""

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """Return the seeds of a run."""
        names = config.policy_names
        drawn = np.random.SeedSequence(config.seed).generate_state(3 * len(names) + 1).tolist()
        # The first ones are spare: taking others would change every run that there is.
        return cls(
            queries=drawn.pop(),
            generators={name: drawn.pop() for name in names},
            critics={name: drawn.pop() for name in names},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a configuration names, built once."""

    config: TrainConfig
    """With nothing left to the algorithm or the engine."""
    seeds: Seeds
    test_task: Task
    """Held-out queries."""
    reward: Reward
    policies: dict[str, LLMPolicy]
    critics: dict[str, Critic]
    """By policy; one object for all whom it serves."""
    games: VectorEnv
    """What is learnt from: this process's rows of a batch."""

    @classmethod
    def build(cls, config: TrainConfig, world: World | None = None, *, learns: bool = True) -> Self:
        """Build the parts of a run; the cheap ones come before the models.

        Args:
            config: of the run.
            world: the processes that share it; None for this one alone.
            learns: whether critics are wanted, too.

        Raises:
            ValueError: if something that the configuration names is not there or does not fit.
        """
        world = world or World()
        algorithm = ALGORITHMS.find(config.algorithm)
        task = build_task(config.task, config.train_split, config.task_arguments)
        if algorithm.needs_gold and task.worked_answer(task.examples[0]) is None:
            raise ValueError(
                f"Expected a task with gold answers with algorithm {config.algorithm}, got "
                f"{config.task}: pass another --algorithm, or a task such as arithmetic."
            )
        _check_teaching(config, task)
        reward = build_reward(config, task)
        _check_shares(config, world.size)
        critic = algorithm.critic if learns else None
        sharding = asked_sharding(world, pick_device(config.device), config.quantization)
        test_task = build_task(config.task, config.test_split, config.task_arguments)
        backbones = build_backbones(config, critic, sharding)
        first = next(iter(backbones.values()))
        rows = config.batch_size // world.size
        games = build_games(
            config,
            task,
            reward,
            first,
            num_envs=rows,
            observers=config.observers,
            rounds=config.rounds,
            verdict=config.verdict,
        )
        seeds = Seeds.of(config)
        return cls(
            config=config,
            seeds=seeds,
            test_task=test_task,
            reward=reward,
            policies={name: _policy(config, name, b) for name, b in backbones.items()},
            critics=build_critics(
                config, critic, backbones, games.rules.max_new_tokens, seeds.critics
            ),
            games=games,
        )

    def resolved(self, world: World) -> dict[str, object]:
        """Return what the fields of the configuration came to that leave it to others.

        Args:
            world: the processes that share the run.
        """
        config, device = self.config, pick_device(self.config.device)
        brought, more = config.algorithm_config, dict[str, object]()
        if isinstance(brought, AlgorithmConfig):
            more["clip_high"] = brought.clip if brought.clip_high is None else brought.clip_high
        return {
            "device": str(device),
            "dtype": str(pick_dtype(config.dtype, device)).removeprefix("torch."),
            "reward": config.reward or self.games.rules.task.reward,
            "max_new_tokens": self.games.rules.max_new_tokens,
            "microbatch_size": config.microbatch_size or config.minibatch_size // world.size,
            **more,
        }

    def gains(self, world: World) -> list[Gain]:
        """Compile what is to be compiled, and return what that has cost and saves.

        Args:
            world: the processes that share the run.

        Raises:
            ValueError: if it cannot be compiled.
        """
        config = self.config
        rows = max(2, config.microbatch_size or config.minibatch_size // world.size)
        # An observer reads about as many tokens as it answers.
        tokens = max(3, 2 * self.games.rules.max_new_tokens)
        first = {id(policy.backbone): policy for policy in self.policies.values()}
        return [
            measure_gain(policy.backbone, policy.name, rows, min(tokens, policy.backbone.context))
            for policy in first.values()
            if config.compile
        ]

    def check_prompts(self) -> None:
        """Check that what is asked, in training and of the first held-out queries, can be read.

        Raises:
            ValueError: if not, or if there is no such query to sample.
        """
        config, rules = self.config, self.games.rules
        last, there = max(config.sample_places), len(self.test_task.examples)
        if last >= there and not config.sample_queries.startswith("first:"):
            raise ValueError(
                f"Expected sample_queries below {there}, the queries of {config.test_split}, got "
                f"{last}: they count from 0."
            )
        held_out = max(config.evaluation_queries, last + 1)
        # Queries that are too long for the game are found by the game.
        self.games.reset(seed=config.seed)
        everybody = list(self.policies.values())
        stays = config.swap == "never"
        for task, count in ((rules.task, None), (self.test_task, held_out)):
            readers = {
                role: [policy] if stays and task is rules.task else everybody
                for role, policy in zip(rules.roles, cycle(everybody))
            }
            check_prompts(replace(rules, task=task), task.examples[:count], readers)


def _check_shares(config: TrainConfig, size: int) -> None:
    """Check that every process gets as many rows of each batch, and whole groups.

    Raises:
        ValueError: if not.
    """
    group_size = config.algorithm_config.group_size
    if config.minibatch_size % size or (config.batch_size // size) % group_size:
        raise ValueError(
            f"Expected {size} processes to share minibatches of {config.minibatch_size} and "
            f"batches of {config.batch_size} in groups of {group_size} equally: pass "
            "sizes that their number divides."
        )
    turns = config.rounds * (config.observers + 1 if config.shared_policy else 1)
    if size > 1 and config.minibatch_size % (size * turns):
        raise ValueError(
            f"Expected {size} processes to share minibatches of {config.minibatch_size} equally in "
            f"each of the {turns} turns of a policy: pass a --minibatch-size that {size * turns} "
            "divides."
        )


def _check_teaching(config: TrainConfig, task: Task) -> None:
    """Check that nobody learns a teacher's messages as answers.

    Raises:
        ValueError: if somebody does.
    """
    brought = config.algorithm_config
    practises = isinstance(brought, AlgorithmConfig) and brought.practice == "all"
    if not (task.teaches and config.observers):
        return
    if practises or not isinstance(brought, AlgorithmConfig):
        learns = "practice all" if practises else f"algorithm {config.algorithm}"
        raise ValueError(
            f"Expected an algorithm that follows what is paid with task {config.task}, whose "
            f"teacher's messages are no answers, got {learns}, which learns answers: pass "
            "--algorithm mappo and --practice own."
        )


def _policy(config: TrainConfig, name: str, backbone: Backbone) -> LLMPolicy:
    return LLMPolicy(
        name=name,
        backbone=backbone,
        temperature=config.temperature,
        top_p=config.top_p,
        label=config.algorithm_config.prompt_label,
    )


def build_reward(config: TrainConfig, task: Task) -> Reward:
    """Return the task's own reward, a registered one, a classifier, or a sum of such."""
    terms = reward_terms(config.reward or task.reward)
    names = [name for _, name in terms]
    if config.reward_label and not classifiers(names):
        raise ValueError(
            f"Expected a sequence classifier as reward with reward_label, got "
            f"{config.reward or task.reward!r}, which has no labels: leave out --reward-label."
        )
    rewards = {name: _build_reward(config, name) for name in names}
    if not is_sum(config.reward):
        return rewards[names[0]]
    return RewardSum({name: (weight, rewards[name]) for weight, name in terms})


def _build_reward(config: TrainConfig, name: str) -> Reward:
    if name in REWARDS.known():
        return make_reward(name)
    if name.startswith(RUBRIC):
        return RubricReward(name.removeprefix(RUBRIC))
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
        critic: what the algorithm has; with a body of its own it gets that next to its
            policies', named by `critic_names`.
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
        critics = dict.fromkeys(critic_names(config, critic)[name] for name in policies if critic)
        own_bodies = bool(critics) and _critic_body(config).own
        backbone = make_backbone(
            base,
            tokenizer,
            [*policies, *(critics if own_bodies else ())],
            adapter=config.adapter,
            rank=config.lora_rank,
            dtype=dtype,
            device=device,
            seed=config.seed,
            targets=config.targets,
            rank_pattern=config.rank_pattern,
            ramp=config.ramp,
            gradient_checkpointing=config.gradient_checkpointing,
            sharding=sharding,
            compiled=_compiled(config, sharding),
        )
        backbones |= dict.fromkeys(policies, backbone)
    return {name: backbones[name] for name in config.policy_names}


def _compiled(config: TrainConfig, sharding: Sharding | None) -> CompiledLayers | None:
    if config.compile and sharding:
        raise ValueError(
            "Expected decoder layers that are whole in every process with compile, got sharded "
            "ones: leave out --compile, or take configs/data_parallel.yaml."
        )
    return CompiledLayers() if config.compile else None


def critic_names(config: TrainConfig, critic: Literal["local", "central"] | None) -> dict[str, str]:
    """Return the name of each policy's critic.

    A local critic serves one policy, a central one all policies of one base model.
    """
    if critic is None:
        return {}
    names = config.policy_names
    if critic == "local":
        return {name: f"critic_{name}" for name in names}
    owners = {model: name for name, model in reversed([*zip(names, config.models, strict=True)])}
    shared = {model: f"critic_{owner}" for model, owner in owners.items()}
    shared[config.models[0]] = "critic"
    return {name: shared[model] for name, model in zip(names, config.models, strict=True)}


def build_critics(
    config: TrainConfig,
    critic: Literal["local", "central"] | None,
    backbones: Mapping[str, Backbone],
    max_new_tokens: int,
    seeds: Mapping[str, int],
) -> dict[str, Critic]:
    """Return the critics by policy: none, one each, or one for all policies of a base model."""
    critics: dict[str, Critic] = {}
    by_policy: dict[str, Critic] = {}
    for policy, name in critic_names(config, critic).items():
        if name not in critics:
            backbone = backbones[policy]
            critics[name] = Critic(
                int(backbone.config.hidden_size),
                (config.observers + 1) * config.rounds,
                max_new_tokens,
                seeds[policy],
                body=_critic_body(config)(),
                name=name,
                owner=policy,
            ).to(backbone.device)
        by_policy[policy] = critics[name]
    return by_policy


def _critic_body(config: TrainConfig) -> type[CriticBody]:
    brought = config.algorithm_config
    assert isinstance(brought, CriticConfig)
    return CRITIC_BODIES.find(brought.critic_body)


def build_games(
    config: TrainConfig,
    task: Task,
    reward: Reward,
    backbone: Backbone,
    *,
    num_envs: int,
    observers: int,
    rounds: int,
    verdict: Verdicts = "none",
) -> VectorEnv:
    """Return the environment that a run learns from, or is evaluated in: without verdicts."""
    return vector_env(
        num_envs,
        task,
        reward=reward,
        observers=observers,
        rounds=rounds,
        reward_sharing=config.sharing,
        knowledge_transfer=config.knowledge_transfer,
        verdict=verdict,
        max_new_tokens=config.max_new_tokens,
        tokenizer=backbone.tokenizer,  # type: ignore[arg-type]
    )
