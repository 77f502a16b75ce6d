"""The training loop: assign roles → collect → prepare → update → log → sample → save.

Everything that belongs to a policy (adapter, optimiser, local critic, KL controller, random state)
is found under the policy's name and stays there: a role exchange changes who is asked first,
nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from agents.algorithms import algorithm_class
from agents.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from agents.config import TrainConfig
from agents.critic import Critic
from agents.engines import BuiltinEngine, Engine, make_engine
from agents.errors import DivergenceError, EngineError
from agents.evaluation import Evaluation, evaluate_policies, print_evaluation, sample_texts
from agents.functional import masked_mean, schedule_factor
from agents.interrupts import deferred_interrupts
from agents.kl import KLController
from agents.loggers import MetricLogger, print_before_after, read_metrics, read_samples
from agents.metrics import distinct_2
from agents.policy import LLMPolicy
from agents.records import REFERENCE, MetricRow, write_atomically
from agents.report import write_report
from agents.roles import RoleSchedule
from agents.rollout import collect
from agents.run_folder import check_run_folder
from agents.setup import build_backbone, build_games, build_reward
from agents.types import Rollout, TrainBatch, Turn
from cory_env import RewardError, make_task

MAX_SKIPPED = 10
"""Updates in a row without a finite loss and gradient after which a run is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that has ended."""

    folder: Path
    metrics: list[MetricRow]
    """One row per iteration."""
    evaluation: Evaluation | None
    """On held-out queries; None if it was interrupted or asked for none."""
    interrupted: bool
    """Whether it stopped at a checkpoint before its last iteration."""


class Trainer:
    """The state of a run, and one iteration of it."""

    def __init__(self, config: TrainConfig):
        """Build everything that learns; the cheap checks come before the model is loaded."""
        names = config.policy_names
        algorithm = algorithm_class(config.algorithm)
        task = make_task(config.task, split="train")
        reward = build_reward(config, task)
        self.config = config = config.resolved(algorithm.defaults)
        self.test_task = make_task(config.task, split="test")
        self.reward = reward
        self.backbone = build_backbone(config, names)
        self.games = build_games(
            config,
            task,
            reward,
            self.backbone,
            num_envs=config.batch_size,
            observers=config.observers,
        )
        # Seeds of the parts must not coincide: children of one SeedSequence are independent.
        seeds = [
            int(s) for s in np.random.SeedSequence(config.seed).generate_state(3 * len(names) + 1)
        ]
        self.games.reset(seed=seeds.pop())
        self.policies = {
            name: LLMPolicy(
                name=name,
                backbone=self.backbone,
                temperature=config.temperature,
                top_p=config.top_p,
            )
            for name in names
        }
        self.generators = {name: torch.Generator().manual_seed(seeds.pop()) for name in names}
        max_new_tokens = self.games.rules.max_new_tokens
        width = int(self.backbone.config.hidden_size)
        seeds_of_critics = [seeds.pop() for _ in names]
        self.critics: dict[str, Critic] = {}
        if algorithm.critic is not None:
            critics = [
                Critic(width, len(names), max_new_tokens, seed).to(self.backbone.device)
                for seed in seeds_of_critics
            ]
            if algorithm.critic == "central":
                critics = critics[:1] * len(names)
            self.critics = dict(zip(names, critics, strict=True))
        self.controllers = {
            name: KLController(coef=config.kl_coef, target=config.kl_target or None)
            for name in names
        }
        self.algorithm = algorithm(
            config, self.backbone, self.policies, self.critics, self.controllers, max_new_tokens
        )
        self.optimizers = {
            name: torch.optim.Adam(self.backbone.parameters(name).values(), config.learning_rate)
            for name in names
        }
        shared = {
            id(critic): torch.optim.Adam(critic.parameters(), config.critic_learning_rate)
            for critic in self.critics.values()
        }
        self.critic_optimizers = {name: shared[id(c)] for name, c in self.critics.items()}
        self.roles = RoleSchedule(kind=config.swap, every=config.swap_every, seed=config.seed)
        self.skipped_in_a_row = dict.fromkeys(names, 0)
        self.engine: Engine = BuiltinEngine()

    def iterate(self, iteration: int) -> MetricRow:
        """Play one batch of episodes, learn from it, and return the metrics."""
        begun = time.perf_counter()
        self._set_learning_rates(iteration)
        rollout = self._collect(iteration)
        batches = self.algorithm.prepare(rollout)
        row: MetricRow = {}
        num_tokens = 0
        for turn in rollout.turns:
            batch = batches[turn.policy]
            learned = self._update(turn.policy, batch)
            self.algorithm.after_update(turn.policy, batches)
            row |= self._metrics(turn, batch, learned)
            num_tokens += int(batch.response_mask.sum())
        self.roles.observe(sum(float(turn.task_rewards.mean()) for turn in rollout.turns))
        seconds = time.perf_counter() - begun
        return {
            "iteration": iteration,
            "seconds": seconds,
            "tokens_per_second": num_tokens / seconds,
            **row,
        }

    def _collect(self, iteration: int) -> Rollout:
        config = self.config
        seats = self.roles.assign(self.games.agents, config.policy_names, iteration)
        for name in seats.values():
            self.engine.sync(self.policies[name])
        rollout = collect(
            self.games,
            {role: self.policies[name] for role, name in seats.items()},
            {role: self.generators[name] for role, name in seats.items()},
            engine=self.engine,
            group_size=config.group_size,
            causal_credit=config.credit == "causal",
        )
        self.engine.rest()
        return rollout

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

    def _update(self, policy: str, batch: TrainBatch) -> dict[str, float]:
        """Take all optimiser steps on one batch and return the mean metrics of the losses."""
        config = self.config
        history: list[dict[str, Tensor]] = []
        for _ in range(config.epochs):
            order = torch.randperm(len(batch), generator=self.generators[policy])
            steps = [
                self._step(policy, batch.take(rows))
                for rows in order.to(self.backbone.device).split(config.minibatch_size)
            ]
            history += steps
            step_kl = float(torch.stack([step["approx_kl"] for step in steps]).mean())
            if config.max_step_kl and step_kl > config.max_step_kl:
                break
        return {key: float(torch.stack([m[key] for m in history]).mean()) for key in history[0]}

    def _step(self, policy: str, batch: TrainBatch) -> dict[str, Tensor]:
        """Take one optimiser step, unless loss or gradient are not finite."""
        optimizers = [self.optimizers[policy]]
        if self.critics:
            optimizers.append(self.critic_optimizers[policy])
        output = self.algorithm.loss(policy, batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        output.loss.backward()
        norm = nn.utils.clip_grad_norm_(
            self.backbone.parameters(policy).values(), self.config.max_grad_norm
        )
        finite = bool(torch.isfinite(output.loss.detach()) & torch.isfinite(norm))
        self.skipped_in_a_row[policy] = 0 if finite else self.skipped_in_a_row[policy] + 1
        if finite:
            for optimizer in optimizers:
                optimizer.step()
        return {
            **{key: torch.nan_to_num(value) for key, value in output.metrics.items()},
            "gradient_norm": torch.nan_to_num(norm.detach(), posinf=0.0),
            "skipped": torch.tensor(float(not finite)),
        }

    def _metrics(self, turn: Turn, batch: TrainBatch, learned: dict[str, float]) -> MetricRow:
        controller = self.controllers[turn.policy]
        mask = batch.response_mask
        kl, reward = float(batch.kls.sum(1).mean()), float(turn.task_rewards.mean())
        values: dict[str, Any] = {
            "role": turn.role,
            "task_reward": reward,
            "kl": kl,
            "combined_reward": reward - controller.coef * kl,
            "entropy": float(batch.entropies.sum() / mask.sum()),
            "response_length": float(mask.sum(1).float().mean()),
            "distinct_2": distinct_2(turn.responses),
            # Far from 0 if another engine has sampled with other weights than are learnt.
            "sampler_gap": float(
                masked_mean((batch.old_log_probs - turn.tokens.sampled_log_probs).abs(), mask)
            ),
            **learned,
            "kl_coef": controller.coef,
        }
        controller.update(kl, len(batch))
        return {f"{turn.policy}/{key}": value for key, value in values.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that the next iteration depends on: tensors, and the rest as JSON."""
        tensors: dict[str, Tensor] = {}
        for name in self.policies:
            for key, parameter in self.backbone.parameters(name).items():
                tensors[f"policy/{name}/{key}"] = parameter
            tensors |= optimizer_tensors(f"optimizer/{name}", self.optimizers[name])
            tensors[f"generator/{name}"] = self.generators[name].get_state()
        for name, critic in self.critics.items():
            for key, parameter in critic.state_dict().items():
                tensors[f"critic/{name}/{key}"] = parameter
            tensors |= optimizer_tensors(f"critic_optimizer/{name}", self.critic_optimizers[name])
        return tensors, {
            "games": self.games.get_state(),
            "kl_coefs": {name: controller.coef for name, controller in self.controllers.items()},
            "algorithm": self.algorithm.state(),
            "roles": self.roles.state(),
            "skipped_in_a_row": self.skipped_in_a_row,
        }

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
        for name in self.policies:
            for key, parameter in self.backbone.parameters(name).items():
                parameter.copy_(tensors[f"policy/{name}/{key}"])
            restore_optimizer(f"optimizer/{name}", self.optimizers[name], tensors)
            self.generators[name].set_state(tensors[f"generator/{name}"])
            self.controllers[name].coef = meta["kl_coefs"][name]
        for name, critic in self.critics.items():
            critic.load_state_dict(
                {key: tensors[f"critic/{name}/{key}"] for key in critic.state_dict()}
            )
            restore_optimizer(f"critic_optimizer/{name}", self.critic_optimizers[name], tensors)
        self.games.set_state(meta["games"])
        self.algorithm.load_state(meta["algorithm"])
        self.roles.load_state(meta["roles"])
        self.skipped_in_a_row = dict(meta["skipped_in_a_row"])


def train(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Run:
    """Train, writing the run folder as it goes.

    Args:
        config: what to do.
        resume: go on from the last checkpoint of `config.run_folder`.
        console: where to show progress.

    Raises:
        ValueError: if the configuration or the run folder is unusable; nothing has been written
            then.
        EngineError: if the engine is unusable, or fails; in a run, the iterations before are saved.
    """
    folder, console = config.run_folder, console or Console()
    check_run_folder(config, resume)
    trainer = Trainer(config)
    done = _restore(trainer, folder) if resume else 0
    rules = trainer.games.rules
    max_tokens = rules.max_prompt_tokens + rules.max_new_tokens
    trainer.engine = make_engine(trainer.config, trainer.backbone, max_tokens)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(config.to_json(), indent=2) + "\n")

    with (
        closing(trainer.engine),
        MetricLogger(folder, config.iterations, console=console) as logger,
        deferred_interrupts() as stop,
    ):
        logger.truncate_after(done - 1)
        saved = done if resume else None
        if done == 0:
            logger.samples(_reference_samples(trainer))
        while done < config.iterations and not stop:
            before = trainer.state()
            try:
                row = trainer.iterate(done)
            except (RewardError, EngineError):
                # Nothing has been learnt yet: the weights are those of before the iteration.
                save_checkpoint(folder / "checkpoints", done, *before, config.keep)
                raise
            logger.log(row)
            done += 1
            if max(trainer.skipped_in_a_row.values()) >= MAX_SKIPPED:
                save_checkpoint(folder / "checkpoints", done, *trainer.state(), config.keep)
                raise DivergenceError(
                    f"Expected finite losses and gradients, got {MAX_SKIPPED} updates in a row "
                    f"without; the run is saved in {folder}. Begin anew with a lower "
                    "--learning-rate, or look for a reward that grows without bound."
                )
            if done == config.iterations or done % config.sample_every == 0:
                logger.samples(_samples(trainer, done))
            if done % config.save_every == 0:
                save_checkpoint(folder / "checkpoints", done, *trainer.state(), config.keep)
                saved = done
        if saved != done:
            save_checkpoint(folder / "checkpoints", done, *trainer.state(), config.keep)

    interrupted = done < config.iterations
    evaluation = None if interrupted else _finish(trainer, folder, console)
    report = write_report(folder)
    if interrupted:
        console.print(
            f"Interrupted after {done} iterations, saved; go on with --resume. See {report}."
        )
    else:
        console.print(f"The run is in {folder}, its page is {report}.")
    metrics = read_metrics(folder / "metrics.jsonl")
    return Run(folder=folder, metrics=metrics, evaluation=evaluation, interrupted=interrupted)


def _restore(trainer: Trainer, folder: Path) -> int:
    """Take up the last checkpoint and return the number of iterations done."""
    path = list_checkpoints(folder / "checkpoints")[-1]
    trainer.load_state(*load_checkpoint(path))
    return int(path.name.removeprefix("step_"))


def _reference_samples(trainer: Trainer) -> list[Any]:
    reference = replace(next(iter(trainer.policies.values())), name=None)
    return _samples(trainer, 0, {REFERENCE: reference})


def _samples(
    trainer: Trainer, iteration: int, policies: dict[str, LLMPolicy] | None = None
) -> list[Any]:
    return sample_texts(
        policies or trainer.policies,
        trainer.test_task,
        trainer.reward,
        iteration=iteration,
        max_new_tokens=trainer.games.rules.max_new_tokens,
    )


def _finish(trainer: Trainer, folder: Path, console: Console) -> Evaluation | None:
    """Write the final policies, evaluate them and show what has changed."""
    temporary = folder / ".final.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    for name in trainer.policies:
        trainer.backbone.save_pretrained(name, temporary / name)
    shutil.rmtree(folder / "final", ignore_errors=True)
    os.replace(temporary, folder / "final")
    print_before_after(read_samples(folder / "samples.jsonl"), console)
    config = trainer.config
    if not config.evaluation_queries:
        return None
    evaluation = evaluate_policies(
        config,
        trainer.backbone,
        trainer.policies,
        trainer.test_task,
        trainer.reward,
        split="test",
        num_queries=config.evaluation_queries,
    )
    write_atomically(folder / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")
    print_evaluation(evaluation, console)
    return evaluation
