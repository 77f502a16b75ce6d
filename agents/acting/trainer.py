"""One iteration in somebody else's environment: assign agents → play → prepare → learn → row.

Environments cannot be saved. So an iteration plays whole episodes, and all of its randomness comes
from the seed and the number of the iteration: a resumed run draws what it would have drawn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.acting.actors import Learnt, ScoredPolicy, WritingPolicy
from agents.acting.episodes import Episode, Trajectory, play_episodes
from agents.acting.learning import ActorLearner, Batch
from agents.config.environment import EnvConfig
from agents.environments.base import Environment
from agents.environments.opening import open_environment
from agents.errors import PlayError
from agents.ledger import Ledger
from agents.models.backbone import Backbone
from agents.models.loading import load_base, pick_device, pick_dtype
from agents.models.make import make_backbone
from agents.models.tiny import keyboard_model
from agents.policies.llm import LLMPolicy
from agents.policies.weights import load_policies, part_of
from agents.records.rows import MetricRow, SampleRow, number
from agents.training.partners import PartnerPool
from agents.training.roles import RoleSchedule

FAILURES = (PlayError, ValueError)
"""What may be met while episodes are played, before anybody learns."""

TRAINING, EVALUATION, SAMPLES = range(3)
"""Streams of randomness, which must not coincide."""

MOST_SHOWN = 20
"""Actions of each policy that are written down of an episode."""


def generators(seed: int, stream: int, iteration: int, count: int) -> list[np.random.Generator]:
    """Return the randomness of each of some episodes."""
    return [np.random.default_rng([seed, stream, iteration, n]) for n in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Players:
    """An environment to look at, and who plays in it."""

    environment: Environment
    actors: dict[str, Learnt]
    """By policy, in order."""

    @classmethod
    def build(cls, config: EnvConfig) -> Players:
        """Open an environment and load a policy for each of its agents, or one for all.

        Raises:
            ValueError: if something that the configuration names is not there or does not fit.
        """
        environment = open_environment(config)
        count = 1 if config.shared_policy else len(environment.agents)
        names = [f"llm_{n}" for n in range(count)]
        backbone = _backbone(config, names)
        policies = {
            name: LLMPolicy(name=name, backbone=backbone, temperature=config.temperature)
            for name in names
        }
        actors = {name: _actor(config, environment, p) for name, p in policies.items()}
        return cls(environment=environment, actors=actors)

    @property
    def policies(self) -> dict[str, LLMPolicy]:
        """The language models by name."""
        return {name: actor.policy for name, actor in self.actors.items()}


def _backbone(config: EnvConfig, names: list[str]) -> Backbone:
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    if config.model == "tiny":
        base, tokenizer = keyboard_model(config.seed)
    else:
        base, tokenizer = load_base(config.model, dtype, device=device)
    if not config.chat_template:
        tokenizer.chat_template = None  # saved so: who loads the policy asks it the same way
    return make_backbone(
        base,
        tokenizer,
        names,
        adapter=config.adapter,
        rank=config.lora_rank,
        dtype=dtype,
        device=device,
        seed=config.seed,
    )


def _actor(config: EnvConfig, environment: Environment, policy: LLMPolicy) -> Learnt:
    if environment.actions is None:
        return WritingPolicy(policy, config.max_new_tokens)
    return ScoredPolicy(policy, environment.actions, config.normalise)


class ActingTrainer:
    """The state of a run, and one iteration of it."""

    def __init__(self, config: EnvConfig) -> None:
        """Open the environments, load the policies, and look at a first state."""
        self.config = config
        self.players = Players.build(config)
        first = self.players.environment
        self.agents = list(first.agents)
        self._check_first_look()
        self.environments = [first, *(open_environment(config) for _ in range(config.episodes - 1))]
        seeds = np.random.SeedSequence(config.seed).generate_state(len(self.players.actors))
        self.learners = {
            name: ActorLearner(config, actor, self.agents, int(seed))
            for (name, actor), seed in zip(self.players.actors.items(), seeds, strict=True)
        }
        self.roles = RoleSchedule(kind=config.swap, every=config.swap_every, seed=config.seed)
        self.pool = PartnerPool(
            self.players.policies, list(self.learners), size=config.pool_size, seed=config.seed
        )
        self.ledger = Ledger()

    def _check_first_look(self) -> None:
        """Meet what is wrong with descriptions and actions before a run has begun.

        Raises:
            ValueError: if an agent cannot read the first state, or the model cannot tell actions.
        """
        try:
            self.players.environment.reset(self.config.seed)
            look = self.players.environment.look()
        except PlayError as error:
            raise ValueError(str(error)) from error
        if look is None or look.ended != "no":
            raise ValueError(f"Expected {self.config.env} to begin with somebody on turn.")
        for actor in self.players.actors.values():
            actor.policy.encode([look.text], 1)
            if isinstance(actor, ScoredPolicy):
                actor.token_counts(look.text)

    @property
    def action_tokens(self) -> dict[str, int]:
        """How many tokens each action has behind the first description; nothing for free texts."""
        actor = next(iter(self.players.actors.values()))
        if not isinstance(actor, ScoredPolicy):
            return {}
        self.players.environment.reset(self.config.seed)
        look = self.players.environment.look()
        return actor.token_counts(look.text) if look else {}

    def planned(self, done: int) -> int:
        """Return how many iterations the run will have, as far as is known after `done`."""
        return self.config.planned(done, self.ledger.row())

    def assign(self, iteration: int) -> dict[str, str]:
        """Return the policy of each agent."""
        return self.roles.assign(self.agents, list(self.players.actors), iteration)

    def iterate(self, iteration: int) -> MetricRow:
        """Play one batch of episodes, learn from it, and return the metrics."""
        begun = time.perf_counter()
        seats = self.assign(iteration)
        with self.pool.playing(iteration):
            episodes = self.play(seats, iteration)
        played = time.perf_counter() - begun
        row: MetricRow = {}
        played_by = {name: trajectories_of(episodes, seats, name) for name in self.learners}
        # All that can fail comes before anybody learns.
        absent = self.pool.absent(iteration)
        batches = {
            name: None if name in absent else self._prepare(name, own)
            for name, own in played_by.items()
        }
        for name, own in played_by.items():
            figures = self._played(own) | self._learn(name, own, batches[name], iteration)
            row |= {f"{name}/{key}": value for key, value in figures.items()}
        if (iteration + 1) % self.config.swap_every == 0:
            self.pool.keep()
        self.roles.observe(sum(number(row, f"{name}/task_reward") for name in self.learners))
        steps = [s for e in episodes for t in e.values() for s in t.steps]
        tokens = sum(len(step.choice.tokens) for step in steps)
        seconds = time.perf_counter() - begun
        self.ledger.add(responses=len(steps), tokens=tokens, seconds=seconds)
        self.ledger.settle([self.ledger.here])
        return {
            "iteration": iteration,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "steps_per_second": len(steps) / seconds,
            "steps_per_second_played": len(steps) / played,
            **self.ledger.row(),
            **row,
        }

    def play(self, seats: Mapping[str, str], iteration: int) -> list[Episode]:
        """Play a batch of episodes.

        Args:
            seats: the policy of each agent.
            iteration: that the randomness is of.

        Raises:
            PlayError: if an environment fails.
        """
        return play_episodes(
            self.environments,
            {agent: self.players.actors[name] for agent, name in seats.items()},
            generators(self.config.seed, TRAINING, iteration, len(self.environments)),
            max_steps=self.config.max_steps,
        )

    def _played(self, own: list[Trajectory]) -> dict[str, float | str]:
        """Return what a policy's trajectories were like."""
        played = {t.agent for t in own}
        return {
            "role": "+".join(agent for agent in self.agents if agent in played),
            "task_reward": float(np.mean([t.total for t in own])),
            "positive": float(np.mean([t.total > 0 for t in own])),
            "response_length": float(np.mean([len(t.steps) for t in own])),
        }

    def _prepare(self, name: str, own: list[Trajectory]) -> Batch | None:
        """Return what a policy learns of its trajectories; None if it has not acted in any."""
        acted = [t for t in own if t.steps]
        return self.learners[name].prepare(acted) if acted else None

    def _learn(
        self, name: str, own: list[Trajectory], batch: Batch | None, iteration: int
    ) -> dict[str, float]:
        """Let a policy learn; return what is logged of it."""
        learner, figures = self.learners[name], dict[str, float]()
        if batch:
            seeds = [self.config.seed, iteration, list(self.learners).index(name)]
            (seed,) = np.random.SeedSequence(seeds).generate_state(1).tolist()
            figures = learner.learn(batch, torch.Generator().manual_seed(seed))
            spoken = sum(len(step.choice.tokens) for step in batch.steps)
            self.ledger.add(update_tokens=self.config.epochs * spoken)
            kl = figures.pop("state_kl") * len(batch.steps) / len(own)
            reward = float(np.mean([t.total for t in own]))
            figures |= {"kl": kl, "combined_reward": reward - self.config.kl_coef * kl}
        rates = {part: o.param_groups[0]["lr"] for part, o in learner.optimizers.items()}
        return {
            **figures,
            "kl_coef": self.config.kl_coef,
            "learning_rate": rates["policy"],
            "critic_learning_rate": rates["critic"],
        }

    def samples(self, done: int) -> list[SampleRow]:
        """Return what the policies do in one episode, the same seed every time."""
        seats = self.assign(max(0, done - 1))
        (episode,) = play_episodes(
            self.environments[:1],
            {agent: self.players.actors[name] for agent, name in seats.items()},
            generators(self.config.seed, SAMPLES, 0, 1),
            max_steps=self.config.max_steps,
        )
        return [
            SampleRow(
                iteration=done,
                policy=seats[agent],
                role=agent,
                query=step.prompt,
                response=self.players.actors[seats[agent]].describe(step.choice),
                task_reward=step.reward,
            )
            for agent, trajectory in episode.items()
            for step in trajectory.steps[:MOST_SHOWN]
        ]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next iteration depends on: tensors, and the rest as JSON."""
        parts = [learner.state() for learner in self.learners.values()]
        tensors = {key: tensor for part in parts for key, tensor in part.items()}
        tensors |= {f"partner/{key}": tensor for key, tensor in self.pool.tensors().items()}
        skipped = {name: learner.skipped_in_a_row for name, learner in self.learners.items()}
        roles, ledger = self.roles.state(), self.ledger.state()
        return tensors, {"roles": roles, "ledger": ledger, "skipped_in_a_row": skipped}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: if it is of another model or configuration.
        """
        load_policies(self.players.policies, tensors)
        for name, learner in self.learners.items():
            learner.load_state(tensors)
            learner.skipped_in_a_row = meta["skipped_in_a_row"][name]
        self.pool.load_tensors(part_of(tensors, "partner/"))
        self.roles.load_state(meta["roles"])
        self.ledger.load_state(meta["ledger"])

    def close(self) -> None:
        """Close the environments."""
        for environment in self.environments:
            environment.close()


def trajectories_of(
    episodes: list[Episode], seats: Mapping[str, str], policy: str
) -> list[Trajectory]:
    """Return the trajectories of the agents that a policy has played."""
    played = [agent for agent, name in seats.items() if name == policy]
    return list(chain.from_iterable((e[agent] for agent in played) for e in episodes))
