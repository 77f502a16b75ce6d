"""One iteration: assign roles → collect → prepare → learn → row.

Everything that belongs to a policy (adapter, optimizer, local critic, KL controller, random state)
is found under the policy's name and stays there: a role exchange changes who is asked first,
nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.algorithms import ALGORITHMS
from agents.algorithms.kl import KLController
from agents.config.algorithm import AlgorithmConfig
from agents.config.train import TrainConfig
from agents.distributed.world import World
from agents.engines.base import Engine
from agents.engines.builtin import BuiltinEngine
from agents.errors import EngineError
from agents.ledger import Ledger
from agents.parts import Parts
from agents.policies.averages import Averages
from agents.policies.merging import merge_if_due
from agents.policies.weights import copied, load_policies, part_of, playing_as
from agents.records.rows import MetricRow, number
from agents.rollouts.branches import BranchSampler
from agents.rollouts.collect import ask, draw_isolated, pay
from agents.training.ahead import Order, ask_aside, draw_order
from agents.training.details import RewardDetails
from agents.training.figures import Figures, asks_of
from agents.training.histograms import Histograms
from agents.training.learner import Learner
from agents.training.partners import PartnerPool
from agents.training.roles import RoleSchedule
from agents.types import Explored, Prepared, Rollout, TrainBatch
from cory_env import RewardError

FAILURES = (RewardError, EngineError, ValueError)
"""What one process may meet while it plays, before anybody learns."""


class Trainer:
    """The state of a run, and one iteration of it."""

    def __init__(self, config: TrainConfig, world: World | None = None):
        """Build everything that learns; the cheap checks come before the model is loaded."""
        self.world = world or World()
        self.parts = parts = Parts.build(config, self.world)
        self.config = config = parts.config
        parts.check_prompts()
        self.gains = parts.gains(self.world)
        self.games, self.policies = parts.games, parts.policies
        self.queries = np.random.default_rng(parts.seeds.queries)
        self.generators = {
            name: torch.Generator().manual_seed(seed)
            for name, seed in parts.seeds.generators.items()
        }
        brought = config.algorithm_config
        self.controllers = {
            name: KLController(coef=brought.kl_coef, target=brought.kl_target)
            for name in self.policies
        }
        length = self.games.rules.max_new_tokens
        self.algorithm = ALGORITHMS.find(config.algorithm)(
            brought, self.policies, parts.critics, self.controllers, length, self.world
        )
        self.details = RewardDetails(self.games.rules.reward, self.world)
        self.histograms = Histograms(self.world)
        self.ledger = Ledger()
        self.learner = Learner(config, self.algorithm, self.world, self.histograms, self.ledger)
        self.roles = RoleSchedule(kind=config.swap, every=config.swap_every, seed=config.seed)
        learners = [name for name in self.policies if name not in config.frozen]
        self.pool = PartnerPool(self.policies, learners, size=config.pool_size, seed=config.seed)
        self.figures = Figures(self.algorithm, self.learner, self.details, self.world)
        self.engine: Engine = BuiltinEngine()
        self.ahead: Order | None = None  # the next batch, if it has been asked for
        self.callbacks: Sequence[Any] = ()  # of agents.training.callbacks, which knows this class
        self.averages = Averages(
            {name: self.policies[name] for name in learners},
            config.average,
            ends=config.budget or f"iterations={config.iterations}",
        )

    def iterate(self, iteration: int) -> MetricRow:
        """Play one batch of episodes, learn from it, and return the metrics."""
        begun = time.perf_counter()
        self.details.tokens()  # those of sample texts are no cost of training
        merged = merge_if_due(self.policies, self.config, iteration, self.world)
        rollout, explored = self.play(iteration)
        if self.config.rollout_ahead:
            self.ahead = self.ask_ahead(iteration + 1)
        for callback in self.callbacks:
            callback.rollout(self, rollout)
        prepared = self.prepare(rollout, explored)
        learned = self.learn(rollout, prepared, iteration)
        row = self.row(rollout, prepared, learned) | merged
        self.steer(rollout, row)
        if (iteration + 1) % self.config.swap_every == 0:
            self.pool.keep()
        seconds = time.perf_counter() - begun
        self._settle(seconds)
        self.averages.observe(iteration + 1, self.planned(iteration + 1))
        lengths = sum(number(row, f"{name}/response_length") for name in learned)
        return {
            "iteration": iteration,
            "seconds": seconds,
            "tokens_per_second": lengths * self.config.batch_size / seconds,
            **self.ledger.row(),
            **row,
        }

    def planned(self, done: int) -> int:
        """Return how many iterations the run will have, as far as is known after `done`."""
        return self.config.planned(done, self.ledger.row())

    def _settle(self, seconds: float) -> None:
        """Add up what all processes have spent on an iteration."""
        self.ledger.add(seconds=seconds, judge_tokens=self.details.tokens())
        here = torch.tensor([self.ledger.here], dtype=torch.float64)
        self.ledger.settle(self.world.gather(here).tolist())

    def assign(self, iteration: int) -> dict[str, str]:
        """Return the policy of each role, in turn order."""
        return self.roles.assign(self.games.agents, self.config.policy_names, iteration)

    def isolated(self, iteration: int) -> list[bool]:
        """Return in which episodes of an iteration's batch observers read the query alone."""
        config, tag = self.config, 1  # another stream than that of the roles
        generator = np.random.default_rng([config.seed, iteration, tag])
        size = config.algorithm_config.group_size
        return draw_isolated(config.solo_share, generator, config.batch_size, size)

    def play(self, iteration: int) -> tuple[Rollout, Explored | None]:
        """Let the policies play the batch of an iteration, as they are or were asked to.

        Raises:
            RewardError: if a reward fails, on whatever process; so with the engine.
        """
        ahead, self.ahead = self.ahead, None
        order = ahead or self.order(self.assign(iteration))
        with playing_as(self.policies, order.weights) if ahead else self.pool.playing(iteration):
            rollout = self._played(order, self.isolated(iteration))
            return rollout, self.explore(rollout, iteration)

    def ask_ahead(self, iteration: int) -> Order:
        """Ask for the batch of an iteration to come, of the policies as they are by now.

        Raises:
            EngineError: if the engine cannot take over their weights, on whatever process.
        """
        with self.pool.playing(iteration):
            order = self.order(self.assign(iteration))
            weights = {name: copied(policy) for name, policy in self.policies.items()}
            order = replace(order, weights=weights)
            # The last batch of a run would be for nobody.
            if not self.engine.aside or iteration >= self.planned(iteration - 1):
                return order
            with self.world.failing_together(*FAILURES):
                self._sync(order)
        return ask_aside(
            order, self.games, self.policies, engine=self.engine,
            rows=self.world.rows(self.config.batch_size), isolated=self.isolated(iteration),
        )  # fmt: skip

    def order(self, seats: Mapping[str, str]) -> Order:
        """Draw what decides the next batch, whose roles these policies have."""
        return draw_order(seats, self.games.rules, self.config, self.queries, self.generators)

    def collect(self, seats: Mapping[str, str], isolated: Sequence[bool] | None = None) -> Rollout:
        """Let the policies play this process's rows of the next batch, as they are.

        Args:
            seats: the policy of each role.
            isolated: by episode of the batch, whether observers read the query alone; None for
                nowhere.

        Raises:
            RewardError: if a reward fails, on whatever process; so with the engine.
        """
        return self._played(self.order(seats), isolated)

    def _played(self, order: Order, isolated: Sequence[bool] | None) -> Rollout:
        """Return an order's episodes; the policies have its weights."""
        rows = self.world.rows(self.config.batch_size)
        with self.world.failing_together(*FAILURES):
            if order.answers is None:
                self._sync(order)
                asked = ask(
                    self.games,
                    {role: self.policies[name] for role, name in order.seats.items()},
                    {role: uniforms[rows] for role, uniforms in order.uniforms.items()},
                    engine=self.engine,
                    examples=order.examples[rows],
                    isolated=isolated and isolated[rows],
                )
            else:
                asked = order.answers.result()
            credit = self._causal_credit
            rollout = pay(self.games, order.seats, asked, ledger=self.ledger, causal_credit=credit)
        self.details.note(self.games.rules)
        return rollout

    def _sync(self, order: Order) -> None:
        for name in order.seats.values():
            self.engine.sync(self.policies[name])

    def close(self) -> None:
        """Wait for an engine that is busy with a batch nobody will learn from."""
        if self.ahead:
            self.ahead.close()

    @property
    def _causal_credit(self) -> bool:
        brought = self.config.algorithm_config
        return not isinstance(brought, AlgorithmConfig) or brought.credit == "causal"

    def explore(self, rollout: Rollout, iteration: int) -> Explored | None:
        """Let the algorithm look further than this process's rows; then the engine may rest.

        Args:
            rollout: of the same weights.
            iteration: that the randomness is of.

        Raises:
            RewardError: if a reward fails, on whatever process; so with the engine.
        """
        sampler = BranchSampler(
            self.games.rules, rollout, self.policies, engine=self.engine, ledger=self.ledger,
            key=(self.config.seed, iteration), world=self.world,
        )  # fmt: skip
        with self.world.failing_together(*FAILURES):
            explored = self.algorithm.explore(rollout, sampler)
            self.engine.rest()
        return explored

    def prepare(self, rollout: Rollout, explored: Explored | None = None) -> list[Prepared]:
        """Return what is logged and what is learnt of each turn."""
        return self.algorithm.prepare(rollout, explored)

    def learn(
        self, rollout: Rollout, prepared: Sequence[Prepared], iteration: int
    ) -> dict[str, dict[str, float]]:
        """Let every policy learn from its turns, in turn order; return its mean metrics.

        Args:
            rollout: whose turns they are.
            prepared: what is learnt of each turn.
            iteration: where the schedule of the learning rates stands.
        """
        self.learner.set_learning_rates(iteration)
        learned: dict[str, dict[str, float]] = {}
        left = list(prepared)  # an update may change what later turns teach
        for policy, asks in asks_of(rollout).items():
            own = [left[ask] for ask in asks]
            learned[policy] = self.learner.learn(policy, own, self.generators[policy])
            self.algorithm.after_update(policy, asks, left)
        brought = self.config.algorithm_config
        if isinstance(brought, AlgorithmConfig) and brought.practice == "all":
            for policy, metrics in learned.items():
                metrics |= self.practise(rollout, policy)
        return learned

    def practise(self, rollout: Rollout, policy: str) -> dict[str, float]:
        """Let a policy learn from others' answers to the query alone; return what is logged."""
        practised = []
        if policy not in self.config.frozen:
            practised = self.algorithm.practice(rollout, policy)
        self.learner.learn(policy, practised, self.generators[policy], counts=False)
        batches = [turn.batch for turn in practised if isinstance(turn.batch, TrainBatch)]
        lengths = [batch.response_mask.sum(1) for batch in batches]
        weights = [(batch.weights * batch.response_mask).sum(1) for batch in batches]
        pairs = [torch.stack(pair, dim=1).float() for pair in zip(lengths, weights, strict=True)]
        answers = self.world.gather(torch.cat([torch.zeros(0, 2), *(p.cpu() for p in pairs)]))
        tokens, weight = answers.sum(0).tolist()
        return {
            "practice_answers": float((answers[:, 0] > 0).sum()),
            "practice_weight": weight / max(tokens, 1.0),
        }

    def row(
        self,
        rollout: Rollout,
        prepared: Sequence[Prepared],
        learned: Mapping[str, Mapping[str, float]],
    ) -> MetricRow:
        """Return the metrics of an iteration, over the rows of all processes."""
        return self.figures.row(rollout, prepared, learned)

    def steer(self, rollout: Rollout, row: MetricRow) -> None:
        """Let role schedule and KL controllers take note of an iteration's metrics."""
        reward = 0.0
        for policy in asks_of(rollout):
            self.controllers[policy].update(number(row, f"{policy}/kl"), self.config.batch_size)
            reward += number(row, f"{policy}/task_reward")
        self.roles.observe(reward)

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Let the policies begin as those of the same names in the checkpoint of another run.

        Raises:
            ValueError: if it is of another model, or has no such policies.
        """
        own = tuple(f"policy/{name}/" for name in self.policies)
        load_policies(self.policies, {k: t for k, t in tensors.items() if k.startswith(own)})
        self.learner.begin()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next iteration depends on: tensors, and the rest as JSON.

        Tensors that are spread over processes are so here, too (see `whole_tensors`).
        """
        tensors, meta = self.learner.state()
        tensors |= {f"generator/{name}": g.get_state() for name, g in self.generators.items()}
        tensors |= {f"algorithm/{key}": value for key, value in self.algorithm.tensors().items()}
        tensors |= {f"partner/{key}": value for key, value in self.pool.tensors().items()}
        tensors |= {f"average/{key}": value for key, value in self.averages.tensors().items()}
        ahead = self.ahead.state() if self.ahead else {}
        if self.ahead:
            tensors |= {f"ahead/{key}": tensor for key, tensor in self.ahead.tensors().items()}
        return tensors, {
            **({"ahead": ahead} if ahead else {}),
            "queries": self.queries.bit_generator.state,
            "kl_coefs": {name: controller.coef for name, controller in self.controllers.items()},
            "algorithm": self.algorithm.state(),
            "roles": self.roles.state(),
            "ledger": self.ledger.state(),
            "averages": self.averages.state(),
            **meta,
        }

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: if it is of another model or configuration.
        """
        self.learner.load_state(tensors, meta)
        for name, controller in self.controllers.items():
            self.generators[name].set_state(tensors[f"generator/{name}"])
            controller.coef = meta["kl_coefs"][name]
        self.queries.bit_generator.state = meta["queries"]
        self.algorithm.load_tensors(part_of(tensors, "algorithm/"))
        self.pool.load_tensors(part_of(tensors, "partner/"))
        self.algorithm.load_state(meta["algorithm"])
        self.roles.load_state(meta["roles"])
        self.ledger.load_state(meta.get("ledger", {}))
        # Checkpoints of earlier versions have none.
        self.averages.load(part_of(tensors, "average/"), meta.get("averages", {}))
        if ahead := meta.get("ahead"):
            own, task = part_of(tensors, "ahead/"), self.games.rules.task
            self.ahead = Order.load(own, ahead, self.policies, task, self.config)
