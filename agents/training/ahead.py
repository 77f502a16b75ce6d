"""What decides a batch of episodes, so that it can be asked for before it is wanted.

With `rollout_ahead` the next batch is asked for before the present one is learnt from. Its policies
are those of that moment: an engine that generates aside does so during the update; any other one
answers later, from the same weights. A checkpoint holds what was asked, not what was answered.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from agents.config.train import TrainConfig
from agents.distributed.sharding import spread_like
from agents.engines.base import Engine
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.policies.weights import Weights, part_of
from agents.rollouts.collect import Asked, ask, draw_examples
from cory_env import Example
from cory_env.game import Rules
from cory_env.task import Task
from cory_env.vector import VectorEnv


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A batch of episodes that is wanted, of all processes."""

    seats: dict[str, str]
    """The policy of each role, in turn order."""
    queries: dict[str, Any]
    """State of the generator of the queries, before they were drawn."""
    examples: list[Example]
    """(B,) the queries."""
    uniforms: dict[str, Tensor]
    """By role, (B, N·T): the randomness of the responses of N rounds."""
    weights: dict[str, Weights]
    """By policy, as whom it answers; empty where all answer as they are."""
    answers: Future[Asked] | None = None
    """What an engine that generates aside is busy with: this process's rows."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, for a checkpoint."""
        uniforms = {f"uniforms/{role}": tensor for role, tensor in self.uniforms.items()}
        return uniforms | {
            f"weights/{name}/{key}": tensor
            for name, weights in self.weights.items()
            for key, tensor in weights.items()
        }

    def state(self) -> dict[str, Any]:
        """Return what belongs to `tensors`, as JSON takes it."""
        return {"seats": self.seats, "queries": self.queries}

    @classmethod
    def load(
        cls,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        policies: Mapping[str, LLMPolicy],
        task: Task,
        config: TrainConfig,
    ) -> Self:
        """Return what `tensors` and `state` are of.

        Args:
            tensors: of an order.
            state: of the same.
            policies: by name, whose weights may be spread over processes.
            task: that the queries are of.
            config: of the run.
        """
        queries = np.random.default_rng()
        queries.bit_generator.state = state["queries"]
        weights = {
            name: {
                key: spread_like(parameter, tensors[f"weights/{name}/{key}"])
                for key, parameter in policy.parameters().items()
            }
            for name, policy in policies.items()
        }
        return cls(
            seats=dict(state["seats"]),
            queries=dict(state["queries"]),
            examples=_examples(task, config, queries),
            uniforms=part_of(tensors, "uniforms/"),
            weights=weights,
        )

    def close(self) -> None:
        """Wait for an engine that is busy with it, whatever comes of that."""
        if self.answers:
            wait([self.answers])


def draw_order(
    seats: Mapping[str, str],
    rules: Rules,
    config: TrainConfig,
    queries: np.random.Generator,
    generators: Mapping[str, torch.Generator],
) -> Order:
    """Draw what decides the next batch, of policies as they are.

    Args:
        seats: the policy of each role.
        rules: of the game.
        config: of the run.
        queries: draws them.
        generators: by policy, of its responses.
    """
    before = dict(queries.bit_generator.state)
    return Order(
        seats=dict(seats),
        queries=before,
        examples=_examples(rules.task, config, queries),
        uniforms={
            role: draw_uniforms(
                config.batch_size, rules.rounds * rules.max_new_tokens, generators[name]
            )
            for role, name in seats.items()
        },
        weights={},
    )


def _examples(task: Task, config: TrainConfig, queries: np.random.Generator) -> list[Example]:
    return draw_examples(task, queries, config.batch_size, config.algorithm_config.group_size)


def ask_aside(
    order: Order,
    games: VectorEnv,
    policies: Mapping[str, LLMPolicy],
    *,
    engine: Engine,
    rows: slice,
    isolated: Sequence[bool],
) -> Order:
    """Let an engine begin with an order in a thread of its own.

    Nothing in that thread talks to other processes, learns, or asks a reward.

    Args:
        order: which the engine has the weights for.
        games: of this process's rows; nobody else may touch them until the answers are there.
        policies: by name.
        engine: that generates aside.
        rows: of this process.
        isolated: (B,) where observers read the query alone.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="rollout-ahead")
    answers = thread.submit(
        ask,
        games,
        {role: _apart(policies[name]) for role, name in order.seats.items()},
        {role: uniforms[rows] for role, uniforms in order.uniforms.items()},
        engine=engine,
        examples=order.examples[rows],
        isolated=isolated[rows],
    )
    thread.shutdown(wait=False)
    return replace(order, answers=answers)


def _apart(policy: LLMPolicy) -> LLMPolicy:
    """Return a policy with a tokenizer of its own: one cannot serve two threads."""
    backbone = copy.copy(policy.backbone)
    backbone.tokenizer = copy.deepcopy(backbone.tokenizer)
    return replace(policy, backbone=backbone)
