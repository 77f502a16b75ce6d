"""One iteration: assign roles → collect → prepare → learn → row.

Everything that belongs to a policy (adapter, optimizer, local critic, KL controller, random state)
is found under the policy's name and stays there: a role exchange changes who is asked first,
nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from agents.algorithms import ALGORITHMS
from agents.algorithms.kl import KLController
from agents.config.train import TrainConfig
from agents.distributed.sharding import (
    asked_sharding,
    clip_gradients,
    spread_like,
)
from agents.distributed.world import World
from agents.engines import BuiltinEngine, Engine
from agents.errors import EngineError
from agents.evaluation.samples import NUM_SAMPLE_QUERIES
from agents.maths.advantages import explained_variance
from agents.maths.figures import distinct_2
from agents.maths.losses import Totals
from agents.maths.schedules import schedule_factor, stratified_order
from agents.models.loading import pick_device
from agents.parts import build_backbones, build_critics, build_games, build_reward
from agents.policies.fitting import check_prompts
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.records.checkpoint import (
    optimizer_tensors,
    restore_optimizer,
)
from agents.records.rows import MetricRow, number
from agents.rollouts.collect import collect, draw_examples
from agents.tasks import build_task
from agents.training.histograms import Histograms
from agents.training.roles import RoleSchedule
from agents.types import Rollout, TrainBatch, Turn
from cory_env import RewardError


class Trainer:
    """The state of a run, and one iteration of it."""

    def __init__(self, config: TrainConfig, world: World | None = None):
        """Build everything that learns; the cheap checks come before the model is loaded."""
        self.world = world or World()
        algorithm = ALGORITHMS.find(config.algorithm)
        task = build_task(config.task, config.train_split, config.task_arguments)
        reward = build_reward(config, task)
        self.config = config = config.resolved(algorithm.defaults)
        self._check_shares()
        sharding = asked_sharding(self.world, pick_device(config.device), config.quantization)
        self.test_task = build_task(config.task, config.test_split, config.task_arguments)
        self.reward = reward
        backbones = build_backbones(config, algorithm.critic, sharding)
        names = list(backbones)
        self.games = build_games(
            config,
            task,
            reward,
            backbones[names[0]],
            num_envs=config.batch_size // self.world.size,
            observers=config.observers,
        )
        # Seeds of the parts must not coincide: children of one SeedSequence are independent.
        seeds = [
            int(s) for s in np.random.SeedSequence(config.seed).generate_state(3 * len(names) + 1)
        ]
        self.queries = np.random.default_rng(seeds.pop())
        # Queries that are too long should be found before anything is written.
        self.games.reset(seed=config.seed)
        self.policies = {
            name: LLMPolicy(
                name=name,
                backbone=backbone,
                temperature=config.temperature,
                top_p=config.top_p,
            )
            for name, backbone in backbones.items()
        }
        self._check_prompts()
        self.generators = {name: torch.Generator().manual_seed(seeds.pop()) for name in names}
        max_new_tokens = self.games.rules.max_new_tokens
        self.critics = build_critics(
            config, algorithm.critic, backbones, max_new_tokens, [seeds.pop() for _ in names]
        )
        self.controllers = {
            name: KLController(coef=config.kl_coef, target=config.kl_target or None)
            for name in names
        }
        self.algorithm = algorithm(
            config, self.policies, self.critics, self.controllers, max_new_tokens, self.world
        )
        self.optimizers = {
            name: _adam(policy.parameters().values(), config.learning_rate)
            for name, policy in self.policies.items()
        }
        shared = {
            id(critic): _adam(self._critic_parameters(name).values(), config.critic_learning_rate)
            for name, critic in self.critics.items()
        }
        self.critic_optimizers = {name: shared[id(c)] for name, c in self.critics.items()}
        self.roles = RoleSchedule(kind=config.swap, every=config.swap_every, seed=config.seed)
        self.skipped_in_a_row = dict.fromkeys(names, 0)
        self.engine: Engine = BuiltinEngine()
        self.histograms = Histograms(self.world)

    def _check_prompts(self) -> None:
        """Check that what is asked, in training and in the end, can be read.

        Raises:
            ValueError: if not.
        """
        config, rules = self.config, self.games.rules
        everybody = list(self.policies.values())
        stays = config.swap == "never" or not config.swap_every
        for task, count in (
            (rules.task, None),
            (self.test_task, max(config.evaluation_queries, NUM_SAMPLE_QUERIES)),
        ):
            readers = {
                role: [policy] if stays and task is rules.task else everybody
                for role, policy in zip(rules.roles, everybody, strict=True)
            }
            check_prompts(replace(rules, task=task), task.examples[:count], readers)

    def _check_shares(self) -> None:
        """Check that every process gets as many rows of each batch, and whole groups.

        Raises:
            ValueError: if not.
        """
        config, size = self.config, self.world.size
        if config.minibatch_size % size or (config.batch_size // size) % config.group_size:
            raise ValueError(
                f"Expected {size} processes to share minibatches of {config.minibatch_size} and "
                f"batches of {config.batch_size} in groups of {config.group_size} equally: pass "
                "sizes that their number divides."
            )

    def _critic_parameters(self, policy: str) -> dict[str, nn.Parameter]:
        """Return what the critic of a policy trains, by name."""
        critic = self.critics[policy]
        parameters = dict(critic.named_parameters())
        if critic.body == "own":
            trunk = self.policies[policy].backbone.parameters(critic.name)
            parameters |= {f"body/{key}": parameter for key, parameter in trunk.items()}
        return parameters

    def iterate(self, iteration: int) -> MetricRow:
        """Play one batch of episodes, learn from it, and return the metrics."""
        begun = time.perf_counter()
        self._set_learning_rates(iteration)
        rollout = self._collect(iteration)
        batches = self.algorithm.prepare(rollout)
        row: MetricRow = {}
        for turn in rollout.turns:
            batch = batches[turn.policy]
            learned = self._update(turn.policy, batch)
            self.algorithm.after_update(turn.policy, batches)
            row |= self._metrics(turn, batch, learned)
            kl = number(row, f"{turn.policy}/kl")
            self.controllers[turn.policy].update(kl, self.config.batch_size)
        names = [turn.policy for turn in rollout.turns]
        self.roles.observe(sum(number(row, f"{name}/task_reward") for name in names))
        seconds = time.perf_counter() - begun
        lengths = sum(number(row, f"{name}/response_length") for name in names)
        return {
            "iteration": iteration,
            "seconds": seconds,
            "tokens_per_second": lengths * self.config.batch_size / seconds,
            **row,
        }

    def _collect(self, iteration: int) -> Rollout:
        """Let the policies play this process's rows of the batch."""
        config, games = self.config, self.games
        rows = self.world.rows(config.batch_size)
        seats = self._seats(iteration)
        examples = draw_examples(
            games.rules.task, self.queries, config.batch_size, config.group_size
        )
        length = games.rules.max_new_tokens
        uniforms = {
            role: draw_uniforms(config.batch_size, length, self.generators[name])[rows]
            for role, name in seats.items()
        }
        failed, rollout = [], None
        try:
            for name in seats.values():
                self.engine.sync(self.policies[name])
            rollout = collect(
                games,
                {role: self.policies[name] for role, name in seats.items()},
                uniforms,
                engine=self.engine,
                examples=examples[rows],
                causal_credit=config.credit == "causal",
            )
            self.engine.rest()
        except (RewardError, EngineError, ValueError) as error:
            failed.append(error)
        # What fails for one process must not leave the others waiting for it.
        if failed := self.world.gather_list(failed):
            raise failed[0]
        assert rollout is not None
        return rollout

    def _seats(self, iteration: int) -> dict[str, str]:
        """Return the policy of each role, in turn order."""
        return self.roles.assign(self.games.agents, self.config.policy_names, iteration)

    def _set_learning_rates(self, iteration: int) -> None:
        config = self.config
        factor = schedule_factor(config.schedule, iteration, config.iterations, config.warmup)
        for optimizers, rate in (
            (self.optimizers, config.learning_rate),
            (self.critic_optimizers, config.critic_learning_rate),
        ):
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = factor * rate

    def _learning_rates(self, policy: str) -> dict[str, float]:
        rates = {"learning_rate": self.optimizers[policy].param_groups[0]["lr"]}
        if policy in self.critic_optimizers:
            critic = self.critic_optimizers[policy].param_groups[0]
            rates["critic_learning_rate"] = critic["lr"]
        return rates

    def _update(self, policy: str, batch: TrainBatch) -> dict[str, float]:
        """Take all optimiser steps on one batch and return the mean metrics of the losses."""
        config = self.config
        lengths = self.world.gather(batch.response_mask.sum(1).cpu())
        history: list[dict[str, Tensor]] = []
        for _ in range(config.epochs):
            self.histograms.start(policy, batch)
            order = stratified_order(len(lengths), config.minibatch_size, self.generators[policy])
            steps = [
                self._step(policy, batch, rows, Totals(len(rows), int(lengths[rows].sum())))
                for rows in order
            ]
            history += steps
            step_kl = float(torch.stack([step["approx_kl"] for step in steps]).mean())
            if config.max_step_kl and step_kl > config.max_step_kl:
                break
        return {key: float(torch.stack([m[key] for m in history]).mean()) for key in history[0]}

    def _step(
        self, policy: str, batch: TrainBatch, rows: Tensor, totals: Totals
    ) -> dict[str, Tensor]:
        """Take one optimiser step on some rows of everybody's batch, unless it is not finite."""
        optimizers = [self.optimizers[policy]]
        parameters = list(self.policies[policy].parameters().values())
        learning = list(parameters)
        if self.critics:
            optimizers.append(self.critic_optimizers[policy])
            learning += self._critic_parameters(policy).values()
        shares: list[dict[str, Tensor]] = []
        own = rows[self.world.rows(len(rows))] - self.world.rank * len(batch)
        for part in own.to(batch.response_ids.device).split(
            self.config.microbatch_size or len(own)
        ):
            part_batch = batch.take(part)
            output = self.algorithm.loss(policy, part_batch, totals)
            output.loss.backward()
            self.histograms.add(policy, part_batch, output)
            shares.append({"loss": output.loss.detach(), **output.metrics})
        sums = self.world.total(torch.stack([torch.stack([*s.values()]) for s in shares]).sum(0))
        metrics = dict(zip(shares[0], sums, strict=True))
        self.world.total_gradients(learning)
        norm = clip_gradients(parameters, self.config.max_grad_norm, self.world)
        finite = bool(torch.isfinite(metrics.pop("loss")) & torch.isfinite(norm))
        self.skipped_in_a_row[policy] = 0 if finite else self.skipped_in_a_row[policy] + 1
        if finite:
            for optimizer in optimizers:
                optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()  # gradients of one policy at a time are in memory
        return {
            **{key: torch.nan_to_num(value) for key, value in metrics.items()},
            "gradient_norm": torch.nan_to_num(norm.detach(), posinf=0.0),
            "skipped": torch.tensor(float(not finite)),
        }

    def _metrics(self, turn: Turn, batch: TrainBatch, learned: dict[str, float]) -> MetricRow:
        controller, mask = self.controllers[turn.policy], batch.response_mask
        gaps = (batch.old_log_probs - turn.tokens.sampled_log_probs).abs() * mask
        sums = [turn.task_rewards, mask.float().sum(1)]
        sums += [values.sum(1) for values in (batch.kls, batch.entropies, gaps)]
        means = self.world.gather(torch.stack(sums, dim=1)).mean(0)  # over all processes
        reward, length, kl, entropy, gap = means.tolist()
        predictions, targets = self.world.gather(
            torch.stack([batch.baselines[mask], batch.returns[mask]], dim=1)
        ).T
        values: dict[str, Any] = {
            "role": turn.role,
            "task_reward": reward,
            "kl": kl,
            "combined_reward": reward - controller.coef * kl,
            "entropy": entropy / length,
            "response_length": length,
            # Far from 0 if another engine has sampled with other weights than are learnt.
            "sampler_gap": gap / length,
            "distinct_2": distinct_2(self.world.gather_list(turn.responses)),
            **learned,
            "explained_variance": float(explained_variance(predictions, targets)),
            "kl_coef": controller.coef,
            **self._learning_rates(turn.policy),
        }
        return {f"{turn.policy}/{key}": value for key, value in values.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next iteration depends on: tensors, and the rest as JSON.

        Tensors that are spread over processes are so here, too (see `whole_tensors`).
        """
        tensors: dict[str, Tensor] = {}
        for name, policy in self.policies.items():
            for key, parameter in policy.parameters().items():
                tensors[f"policy/{name}/{key}"] = parameter
            tensors |= optimizer_tensors(f"optimizer/{name}", self.optimizers[name])
            tensors[f"generator/{name}"] = self.generators[name].get_state()
        for name in self._critic_owners():
            for key, parameter in self._critic_parameters(name).items():
                tensors[f"critic/{name}/{key}"] = parameter
            tensors |= optimizer_tensors(f"critic_optimizer/{name}", self.critic_optimizers[name])
        return tensors, {
            "queries": self.queries.bit_generator.state,
            "kl_coefs": {name: controller.coef for name, controller in self.controllers.items()},
            "algorithm": self.algorithm.state(),
            "roles": self.roles.state(),
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def _critic_owners(self) -> list[str]:
        """Return the first policy of each critic."""
        owners = {id(critic): name for name, critic in reversed(self.critics.items())}
        return list(reversed(owners.values()))

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: if it is of another model or configuration.
        """
        expected = {key: t.shape for key, t in self.state()[0].items() if key.startswith("policy/")}
        found = {key: t.shape for key, t in tensors.items() if key.startswith("policy/")}
        if expected != found:
            odd = sorted(key for key in expected | found if expected.get(key) != found.get(key))[0]
            raise ValueError(
                f"Expected a checkpoint of this model, got one of another: {odd} has shape "
                f"{tuple(found[odd]) if odd in found else 'none'} instead of "
                f"{tuple(expected[odd]) if odd in expected else 'none'}."
            )
        for name, policy in self.policies.items():
            for key, parameter in policy.parameters().items():
                parameter.copy_(spread_like(parameter, tensors[f"policy/{name}/{key}"]))
            restore_optimizer(f"optimizer/{name}", self.optimizers[name], tensors, spread_like)
            self.generators[name].set_state(tensors[f"generator/{name}"])
            self.controllers[name].coef = meta["kl_coefs"][name]
        for name in self._critic_owners():
            for key, parameter in self._critic_parameters(name).items():
                parameter.copy_(spread_like(parameter, tensors[f"critic/{name}/{key}"]))
            restore_optimizer(
                f"critic_optimizer/{name}", self.critic_optimizers[name], tensors, spread_like
            )
        self.queries.bit_generator.state = meta["queries"]
        self.algorithm.load_state(meta["algorithm"])
        self.roles.load_state(meta["roles"])
        self.skipped_in_a_row = dict(meta["skipped_in_a_row"])


def _adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    parameters = list(parameters)
    # One pass over memory instead of ten. Tensors that are spread over processes know no such form.
    fused = not any(isinstance(parameter, DTensor) for parameter in parameters)
    optimizer = torch.optim.Adam(parameters, learning_rate, fused=fused)
    if fused:
        # It writes to the weights behind autograd's back; copies in bfloat16 go by their version.
        optimizer.register_step_post_hook(lambda *_: increment_version(parameters))
    return optimizer
