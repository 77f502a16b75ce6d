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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from agents.advantages import explained_variance
from agents.algorithms import ALGORITHMS
from agents.backbone import pick_device
from agents.cards import write_cards
from agents.checkpoint import (
    check_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from agents.checks import check_before_loading
from agents.config import TrainConfig
from agents.engines import BuiltinEngine, Engine, make_engine
from agents.errors import DivergenceError, EngineError
from agents.evaluation import (
    NUM_SAMPLE_QUERIES,
    Evaluation,
    evaluate_policies,
    print_evaluation,
    references,
    sample_texts,
    write_evaluation,
)
from agents.figures import distinct_2
from agents.fitting import check_prompts
from agents.histograms import Histograms
from agents.hush import hushed
from agents.interrupts import Interrupted, deferred_interrupts
from agents.kl import KLController
from agents.loggers import MetricLogger, print_before_after, read_metrics, read_samples
from agents.losses import Totals
from agents.policy import LLMPolicy, draw_uniforms
from agents.provenance import facts, record
from agents.records import MetricRow, number, policy_names, write_atomically
from agents.report import write_report
from agents.rewards import ClassifierReward
from agents.roles import RoleSchedule
from agents.rollout import collect, draw_examples
from agents.run_folder import (
    begun,
    check_run_folder,
    is_finished,
    list_checkpoints,
    read_config,
)
from agents.schedules import schedule_factor, stratified_order
from agents.setup import build_backbones, build_critics, build_games, build_reward
from agents.sharding import (
    asked_sharding,
    check_launcher,
    clip_gradients,
    spread_like,
    whole_tensors,
)
from agents.streams import go_on, lasting_streams
from agents.tasks import build_task
from agents.trackers import check_trackers, open_trackers
from agents.types import Rollout, TrainBatch, Turn
from agents.world import World, join_world
from cory_env import RewardError
from cory_env.names import known_arguments

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
    stopped_by: int
    """Number of the signal that stopped it before its last iteration; 0 if none did."""

    @property
    def interrupted(self) -> bool:
        """Whether it stopped at a checkpoint before its last iteration."""
        return self.stopped_by != 0

    def __repr__(self) -> str:
        """Return where it is and how it ended."""
        last = self.metrics[-1] if self.metrics else {}
        parts = [repr(str(self.folder)), f"{len(self.metrics)} iterations"]
        parts += ["interrupted"] * self.interrupted
        for name in policy_names([last]):
            reward, kl = (number(last, f"{name}/{key}") for key in ("task_reward", "kl"))
            parts.append(f"{name}: reward {reward:.3f}, KL {kl:.3f}")
        return f"Run({', '.join(parts)})"


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


@known_arguments
@hushed()
def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Run:
    """Train, writing the run folder as it goes.

    Processes that `accelerate launch` has started share the work; the first one writes. A run that
    is finished and is asked for no more iterations is only read. Where nobody reads the output any
    more, the run goes on.

    Args:
        config: what to do.
        resume: go on from the last checkpoint of `config.run_folder`.
        overwrite: replace the run that is in `config.run_folder`, once the new one has begun.
        console: where to show progress.

    Raises:
        ValueError: if the configuration or the run folder is unusable; nothing has been written
            then.
        EngineError: if the engine is unusable, or fails; in a run, the iterations before are saved.
    """
    _check(config)
    with lasting_streams(go_on):
        return _train(config, resume, overwrite, console or Console())


def _train(config: TrainConfig, resume: bool, overwrite: bool, console: Console) -> Run:
    check_launcher()
    world = join_world(pick_device(config.device))
    folder = config.run_folder
    check_run_folder(config, resume=resume, overwrite=overwrite)
    check_trackers(config)
    finished = resume and is_finished(config)
    world.any(False)  # nobody writes before everybody has checked
    if not world.writes:
        console = Console(quiet=True)
    if finished:
        return _read_finished(config, console)
    trainer = Trainer(config, world)
    done = _restore(trainer, folder) if resume else 0
    trainer.engine = make_engine(trainer.config, trainer.policies, trainer.games.rules, world.rank)
    if done:
        _say_new_schedule(read_config(folder), config, done, console)
    if isinstance(trainer.reward, ClassifierReward):
        console.print(f"The reward is the {trainer.reward.description}.")
    with (
        begun(folder, resume=resume) if world.writes else nullcontext(lambda: None) as begin,
        world.together(),
        closing(trainer.engine),
        TemporaryDirectory() as scratch,
    ):
        out = folder if world.writes else Path(scratch)
        if world.writes:
            _write_start(trainer, config, done)
        trackers = open_trackers(config, done, console) if world.writes else ()
        with (
            MetricLogger(out, config.iterations, console=console, trackers=trackers) as logger,
            deferred_interrupts() as stop,
        ):
            done = _learn(trainer, folder, logger, done, stop, begin=begin)
            stopped_by = max(world.gather_list(stop), default=0) if done < config.iterations else 0
    return _end(trainer, done, stopped_by, console)


def _end(trainer: Trainer, done: int, stopped_by: int, console: Console) -> Run:
    """Write what there is to write at the end of a run, then show it."""
    world, folder = trainer.world, trainer.config.run_folder
    with world.together():
        evaluation = None if stopped_by else _finish(trainer, folder)
    if world.writes:
        report = write_report(folder)
        if stopped_by:
            console.print(
                f"Interrupted after {done} iterations, saved; go on with --resume. See {report}."
            )
        else:
            print_before_after(read_samples(folder / "samples.jsonl"), console)
            if evaluation:
                print_evaluation(evaluation, console)
            console.print(f"The run is in {folder}, its page is {report}.")
    world.any(False)  # the first one has written all that the others may read
    metrics = read_metrics(folder / "metrics.jsonl")
    return Run(folder=folder, metrics=metrics, evaluation=evaluation, stopped_by=stopped_by)


def _write_start(trainer: Trainer, config: TrainConfig, done: int) -> None:
    text = json.dumps(config.to_json(), indent=2) + "\n"
    write_atomically(config.run_folder / "config.json", text)
    made_by = facts(pick_device(config.device).type)
    if isinstance(trainer.reward, ClassifierReward):
        made_by["reward"] = trainer.reward.description
    record(config.run_folder, done, made_by)


def _read_finished(config: TrainConfig, console: Console) -> Run:
    """Say that there is nothing to do, and return the run as it is."""
    folder = config.run_folder
    check_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    console.print(
        f"The run in {folder} is finished: all {config.iterations} iterations are done. Pass "
        f"--resume with more --iterations to go on; its page is {folder / 'report.html'}.",
        highlight=False,
        soft_wrap=True,
    )
    evaluation = None
    if config.evaluation_queries:
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    metrics = read_metrics(folder / "metrics.jsonl")
    return Run(folder=folder, metrics=metrics, evaluation=evaluation, stopped_by=0)


def _say_new_schedule(
    before: TrainConfig, config: TrainConfig, done: int, console: Console
) -> None:
    """Say where the learning rate goes on if the schedule has another last iteration now."""
    if done >= config.iterations or before.iterations == config.iterations:
        return
    old, new = (
        config.learning_rate * schedule_factor(c.schedule, done, c.iterations, c.warmup)
        for c in (before, config)
    )
    if old != new:
        console.print(
            f"The {config.schedule} schedule ends at iteration {config.iterations} now, not at "
            f"{before.iterations}: the learning rate goes on at {new:.3g} instead of {old:.3g}.",
            highlight=False,
            soft_wrap=True,
        )


def _check(config: TrainConfig) -> None:
    """Check the configuration before anything is loaded.

    Raises:
        ValueError: if it is none, or what it names is not there.
    """
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"Expected a TrainConfig, got {config!r}: write train(TrainConfig(task=…, …))."
        )
    check_before_loading(config)


def _learn(
    trainer: Trainer,
    folder: Path,
    logger: MetricLogger,
    done: int,
    stop: Sequence[int],
    *,
    begin: Callable[[], None],
) -> int:
    """Iterate until the end or an interrupt; return the number of iterations done.

    Args:
        trainer: in the state of after `done` iterations.
        folder: of the run.
        logger: of its rows.
        done: iterations behind it.
        stop: not empty once it is to end early.
        begin: is called once there is a row.
    """
    config, saved = trainer.config, done or None
    logger.truncate_after(done - 1)
    if done == 0:
        logger.samples(_samples(trainer, 0, references(trainer.policies)))
    while done < config.iterations and not trainer.world.any(bool(stop)):
        before = trainer.state()
        try:
            row = trainer.iterate(done)
        except (RewardError, EngineError, ValueError):
            # Nothing has been learnt yet: the weights are those of before the iteration.
            if done:
                _save(trainer, folder, done, before)
            raise
        logger.log(row, trainer.histograms.row(done))
        begin()
        done += 1
        if max(trainer.skipped_in_a_row.values()) >= MAX_SKIPPED:
            _save(trainer, folder, done, trainer.state())
            raise DivergenceError(
                f"Expected finite losses and gradients, got {MAX_SKIPPED} updates in a row "
                f"without; the run is saved in {folder}. Begin anew with a lower "
                "--learning-rate, or look for a reward that grows without bound."
            )
        if done == config.iterations or done % config.sample_every == 0:
            logger.samples(_samples(trainer, done, trainer.policies))
        if done % config.save_every == 0:
            _save(trainer, folder, done, trainer.state())
            saved = done
    if done == 0:
        raise Interrupted(max(trainer.world.gather_list(stop)))  # there is nothing to save
    if saved != done:
        _save(trainer, folder, done, trainer.state())
    return done


def _save(
    trainer: Trainer, folder: Path, done: int, state: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    tensors, meta = state
    tensors = whole_tensors(tensors, keep=trainer.world.writes)
    if trainer.world.writes:
        save_checkpoint(folder / "checkpoints", done, tensors, meta, trainer.config.keep)


def _restore(trainer: Trainer, folder: Path) -> int:
    """Take up the last checkpoint, if there is one, and return the number of iterations done."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return 0
    path = checkpoints[-1]
    trainer.load_state(*load_checkpoint(path))
    return int(path.name.removeprefix("step_"))


def _samples(trainer: Trainer, iteration: int, policies: Mapping[str, LLMPolicy]) -> list[Any]:
    return sample_texts(
        policies,
        trainer.test_task,
        trainer.reward,
        iteration=iteration,
        max_new_tokens=trainer.games.rules.max_new_tokens,
    )


def _finish(trainer: Trainer, folder: Path) -> Evaluation | None:
    """Write the final policies, evaluate them and write their cards."""
    _write_final(trainer.policies, folder, trainer.world)
    config, evaluation = trainer.config, None
    if config.evaluation_queries:
        evaluation = evaluate_policies(
            config,
            trainer.policies,
            trainer.test_task,
            trainer.reward,
            split=config.test_split,
            num_queries=config.evaluation_queries,
        )
        evaluation["iterations"] = config.iterations
    if trainer.world.writes:
        if evaluation:
            write_evaluation(folder, evaluation)
        write_cards(folder)
    return evaluation


def _write_final(policies: Mapping[str, LLMPolicy], folder: Path, world: World) -> None:
    """Write `final/`, whole or not at all."""
    temporary = folder / ".final.tmp"
    if world.writes:
        shutil.rmtree(temporary, ignore_errors=True)
    for name, policy in policies.items():
        policy.backbone.save_pretrained(name, temporary / name, writes=world.writes)
    if world.writes:
        shutil.rmtree(folder / "final", ignore_errors=True)
        os.replace(temporary, folder / "final")
