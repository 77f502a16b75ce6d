"""`train`: from a configuration to a run folder, iteration by iteration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor

from agents.checks import check_before_loading
from agents.config.algorithm import CriticConfig
from agents.config.train import TrainConfig
from agents.distributed.agreement import agreed, expect_alike, of_first
from agents.distributed.sharding import (
    check_launcher,
    whole_tensors,
)
from agents.distributed.world import World, join_world
from agents.engines.base import Engine
from agents.engines.start import make_engine
from agents.errors import DivergenceError
from agents.evaluation.rows import Evaluation
from agents.evaluation.samples import references, sample_texts
from agents.evaluation.score import evaluate_policies
from agents.evaluation.tables import print_evaluation
from agents.maths.schedules import schedule_factor
from agents.models.averaging import Mean
from agents.models.loading import pick_device
from agents.models.saved_critic import save_critic
from agents.policies.averages import shown
from agents.policies.llm import LLMPolicy
from agents.publishing.cards import write_cards
from agents.records.checkpoint import (
    check_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from agents.records.folder import RunFolder
from agents.records.provenance import facts, record
from agents.records.rows import MetricRow
from agents.records.start import begun, check_run_folder
from agents.reports.run_page import write_report
from agents.terminal.hush import hushed
from agents.terminal.interrupts import Interrupted, deferred_interrupts
from agents.terminal.streams import go_on, lasting_streams
from agents.training.callbacks import Callback, load_states, states_of, take_step
from agents.training.given import GivenReward, GivenTask, given_fields
from agents.training.run import Run
from agents.training.trainer import FAILURES, Trainer
from agents.types import Described
from agents.watching.display import print_before_after
from agents.watching.logger import MetricLogger
from agents.watching.trackers import check_trackers, open_trackers
from cory_env import Task
from cory_env.names import known_arguments

MAX_SKIPPED = 10
"""Updates in a row without a finite loss and gradient after which a run is given up."""


@known_arguments
@hushed()
def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    task: GivenTask | None = None,
    reward: GivenReward | None = None,
    model: Any = None,
    tokenizer: Any = None,
    callbacks: Sequence[Callback] = (),
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
        task: a task object in place of the name in the configuration; one by split, `{"train": …,
            "test": …}`; or a class, or a function of `split`. See `given_fields` for these four.
        reward: a function `(examples, responses) -> numbers` in place of a name.
        model: a model of transformers in place of a name.
        tokenizer: of that model.
        callbacks: what is told of the run as it goes; they may end it.

    Raises:
        ValueError: if the configuration or the run folder is unusable; nothing has been written
            then.
        EngineError: if the engine is unusable, or fails; in a run, the iterations before are saved.
    """
    _expect_config(config)
    if given := given_fields(task=task, reward=reward, model=model, tokenizer=tokenizer):
        config = config.replace(**given)
    check_before_loading(config)
    _expect_callbacks(callbacks)
    console = console or Console()
    if isinstance(task, Task) and config.evaluation_queries:
        console.print(_SAME_QUERIES, highlight=False, soft_wrap=True)
    with lasting_streams(go_on):
        return _train(config, resume, overwrite, console, list(callbacks))


_SAME_QUERIES = (
    "One task object was given: it is evaluated on the queries that are learnt from. Give "
    'task={"train": …, "test": …} to hold some out.'
)


def _train(
    config: TrainConfig, resume: bool, overwrite: bool, console: Console, callbacks: list[Callback]
) -> Run:
    check_launcher()
    device, patience = pick_device(config.device), config.process_timeout
    _expect_one_run(config, device, callbacks)
    world = join_world(device, patience)
    folder = RunFolder(config.run_folder)
    if not world.writes:
        console = Console(quiet=True)
    looked = partial(_look, folder, config, resume, overwrite)
    if of_first("the run folder", looked, patience=patience):
        return _read_finished(folder, config, world, console)
    trainer = agreed("the models", lambda: Trainer(config, world), patience=patience)
    trainer.callbacks = callbacks
    done = _begin(trainer, folder, resume=resume)
    trainer.engine = agreed("the engine", lambda: _engine(trainer), patience=patience)
    if done and world.writes:
        _say_new_schedule(folder.read_config(), trainer, done, console)
    _say_parts(trainer, console)
    with (
        begun(folder, resume=resume) if world.writes else nullcontext(lambda: None) as begin,
        world.together(),
        closing(trainer.engine),
        closing(trainer),
        TemporaryDirectory() as scratch,
    ):
        out = folder.path if world.writes else Path(scratch)
        if world.writes:
            _write_start(trainer, folder, config, done)
        trackers = open_trackers(config, done, console) if world.writes else ()
        with (
            MetricLogger(out, config.planned, console=console, trackers=trackers) as logger,
            deferred_interrupts() as stop,
        ):
            done = _learn(trainer, folder, logger, done, stop, begin=begin)
            unfinished = done < trainer.planned(done) and not _told_to_end(trainer)
            stopped_by = max(world.gather_list(stop), default=0) if unfinished else 0
    return _end(trainer, done, stopped_by, console)


def _say_parts(trainer: Trainer, console: Console) -> None:
    if isinstance(trainer.parts.reward, Described):
        console.print(f"The reward is the {trainer.parts.reward.description}.")
    config = trainer.config
    turns = config.iterations * config.epochs * config.rounds * (config.observers + 1)
    for gain in trainer.gains:
        planned = turns * config.batch_size / trainer.world.size / gain.rows
        console.print(gain.described(planned), highlight=False, soft_wrap=True)


def _end(trainer: Trainer, done: int, stopped_by: int, console: Console) -> Run:
    """Write what there is to write at the end of a run, then show it."""
    world, folder = trainer.world, RunFolder(trainer.config.run_folder)
    with world.together():
        evaluation = None if stopped_by else _finish(trainer, folder, done, console)
    if world.writes:
        report = write_report(folder.path)
        if stopped_by:
            console.print(
                f"Interrupted after {done} iterations, saved; go on with --resume. See {report}."
            )
        else:
            print_before_after(folder.read_samples(), console)
            if evaluation:
                print_evaluation(evaluation, console)
            console.print(f"The run is in {folder}, its page is {report}.")
    metrics = world.broadcast(folder.read_metrics() if world.writes else [])
    run = Run(folder=folder.path, metrics=metrics, evaluation=evaluation, stopped_by=stopped_by)
    for callback in () if stopped_by else trainer.callbacks:
        callback.end(run)
    return run


def _write_start(trainer: Trainer, folder: RunFolder, config: TrainConfig, done: int) -> None:
    folder.write_config(config, trainer.parts.resolved(trainer.world))
    made_by = facts(pick_device(config.device).type)
    if isinstance(trainer.parts.reward, Described):
        made_by["reward"] = trainer.parts.reward.description
    record(folder.provenance_path, done, made_by)


def _expect_one_run(
    config: TrainConfig, device: torch.device, callbacks: Sequence[Callback]
) -> None:
    """Check that all ranks do the same run, with the same code, on the same kind of device.

    Raises:
        ValueError: on all ranks, if one does not.
    """

    def decisive() -> dict[str, Any]:
        made_by = facts(device.type)
        same = ("sources", "device", "torch", "transformers", "peft")
        told = [type(callback).__name__ for callback in callbacks]
        given = {name: made_by[name] for name in same}
        return {**config.to_json(), **given, "callbacks": told, "out": ""}

    expect_alike("what is trained", decisive, patience=config.process_timeout)


def _look(folder: RunFolder, config: TrainConfig, resume: bool, overwrite: bool) -> bool:
    """Check what rank 0 alone reads and writes, and return whether there is nothing left to do."""
    check_run_folder(config, resume=resume, overwrite=overwrite)
    check_trackers(config)
    finished = resume and folder.is_finished(config)
    for last in folder.checkpoints()[-1:] if finished else ():
        check_checkpoint(last)
    if not finished:
        _first_weights(config, folder, resume)
    return finished


def _engine(trainer: Trainer) -> Engine:
    return make_engine(trainer.config, trainer.policies, trainer.games.rules, trainer.world.rank)


def _read_finished(folder: RunFolder, config: TrainConfig, world: World, console: Console) -> Run:
    """Say that there is nothing to do, and return the run as it is."""
    found = (folder.read_metrics(), folder.read_evaluation()) if world.writes else ([], {})
    metrics, evaluation = world.broadcast(found)
    page = f"its page is {folder.report_path}"
    if not folder.report_path.is_file():
        page = f"`report {folder}` writes its page"
    console.print(
        f"The run in {folder} is finished: all {len(metrics)} iterations are done. Pass --resume "
        f"with more --{'budget' if config.budget else 'iterations'} to go on; {page}.",
        highlight=False,
        soft_wrap=True,
    )
    evaluation = cast("Evaluation", evaluation) if config.evaluation_queries else None
    return Run(folder=folder.path, metrics=metrics, evaluation=evaluation, stopped_by=0)


def _say_new_schedule(before: TrainConfig, trainer: Trainer, done: int, console: Console) -> None:
    """Say where the learning rate goes on if the schedule has another last iteration now."""
    config = trainer.config
    ends = [c.planned(done, trainer.ledger.row()) for c in (before, config)]
    if done >= ends[1] or ends[0] == ends[1]:
        return
    old, new = (
        config.learning_rate * schedule_factor(config.schedule, done, end, config.warmup)
        for end in ends
    )
    if old != new:
        console.print(
            f"The {config.schedule} schedule ends at iteration {ends[1]} now, not at {ends[0]}: "
            f"the learning rate goes on at {new:.3g} instead of {old:.3g}.",
            highlight=False,
            soft_wrap=True,
        )


def _expect_config(config: TrainConfig) -> None:
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"Expected a TrainConfig, got {config!r}: write train(TrainConfig(task=…, …))."
        )


def _expect_callbacks(callbacks: Sequence[Callback]) -> None:
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ValueError(
                f"Expected callbacks to be objects of agents.Callback, got {callback!r}: derive "
                "its class, and call it."
            )


def _learn(
    trainer: Trainer,
    folder: RunFolder,
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
    for callback in trainer.callbacks:
        callback.start(trainer, done)
    ended = done > 0 and _told_to_end(trainer)
    while done < trainer.planned(done) and not ended and not trainer.world.any(bool(stop)):
        row = _iterate(trainer, folder, done)
        take_step(trainer.callbacks, trainer, row)
        logger.log(row, trainer.histograms.row(done))
        for line in filter(None, (trainer.algorithm.warning(), trainer.engine.warning())):
            if trainer.world.writes:
                logger.console.print(line, highlight=False, soft_wrap=True)
        begin()
        done += 1
        _check_learning(trainer, folder, done)
        ended = _told_to_end(trainer)
        if ended or done == trainer.planned(done) or done % config.sample_every == 0:
            logger.samples(_samples(trainer, done, trainer.policies))
        if done % config.save_every == 0:
            _save(trainer, folder, done, _state(trainer))
            saved = done
    if done == 0:
        raise Interrupted(max(trainer.world.gather_list(stop)))  # there is nothing to save
    if saved != done:
        _save(trainer, folder, done, _state(trainer))
    return done


def _told_to_end(trainer: Trainer) -> bool:
    """Return whether a callback of any process wants the run to end; without one, ask nobody."""
    callbacks = trainer.callbacks
    return bool(callbacks) and trainer.world.any(any(callback.stops for callback in callbacks))


def _iterate(trainer: Trainer, folder: RunFolder, done: int) -> MetricRow:
    """Run one iteration; save the state of before if it fails."""
    before = _state(trainer)
    try:
        return trainer.iterate(done)
    except FAILURES:
        # Nothing has been learnt yet: the weights are those of before the iteration.
        if done:
            _save(trainer, folder, done, before)
        raise


def _check_learning(trainer: Trainer, folder: RunFolder, done: int) -> None:
    """Give a run up, saved, that has not been able to learn for long.

    Raises:
        DivergenceError: if so.
    """
    if max(trainer.learner.skipped_in_a_row.values()) < MAX_SKIPPED:
        return
    _save(trainer, folder, done, _state(trainer))
    raise DivergenceError(
        f"Expected finite losses and gradients, got {MAX_SKIPPED} updates in a row without; the "
        f"run is saved in {folder}. Begin anew with a lower --learning-rate, or look for a reward "
        "that grows without bound."
    )


def _state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a checkpoint holds: the trainer's state, and that of callbacks that have one."""
    tensors, meta = trainer.state()
    states = states_of(trainer.callbacks)
    return tensors, {**meta, **({"callbacks": states} if states else {})}


def _save(
    trainer: Trainer, folder: RunFolder, done: int, state: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    tensors, meta = state
    tensors = whole_tensors(tensors, keep=trainer.world.writes)
    if trainer.world.writes:
        save_checkpoint(folder, done, tensors, meta, trainer.config.keep)
        for callback in trainer.callbacks:
            callback.save(trainer, folder.checkpoint_path(done))


def _begin(trainer: Trainer, folder: RunFolder, *, resume: bool) -> int:
    """Take up the last checkpoint, or another run's policies; return the iterations done."""
    config = trainer.config
    if resume and (found := _read(trainer, lambda: next(iter(folder.checkpoints()[-1:]), None))):
        trainer.load_state(*found)
        load_states(trainer.callbacks, found[1].get("callbacks", {}))
    elif first := _read(trainer, lambda: _first_weights(config, folder, resume)):
        trainer.start_from(first[0])
    patience = config.process_timeout
    return of_first("the rows", folder.iterations_done, patience=patience) if resume else 0


def _read(
    trainer: Trainer, find: Callable[[], Path | None]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return on every rank a checkpoint that rank 0 alone reads; None if it finds none."""
    tensors: dict[str, Tensor] = {}

    def read() -> dict[str, Any] | None:
        if (path := find()) is None:
            return None
        found, meta = load_checkpoint(path)
        tensors.update(found)
        return meta

    meta = of_first("the checkpoint", read, patience=trainer.config.process_timeout)
    return None if meta is None else (trainer.world.broadcast_tensors(tensors), meta)


def _first_weights(config: TrainConfig, folder: RunFolder, resume: bool) -> Path | None:
    """Return the checkpoint of another run that this one starts from.

    Raises:
        ValueError: if there is none where the configuration says.
    """
    if not config.start or (resume and folder.checkpoints()):
        return None
    if not (found := RunFolder(Path(config.start)).checkpoints()):
        raise ValueError(
            f"Expected start to be a run folder with a checkpoint, got {config.start!r}, which has "
            "none: name the folder of a run that `train` has written."
        )
    check_checkpoint(found[-1])
    return found[-1]


def _samples(trainer: Trainer, iteration: int, policies: Mapping[str, LLMPolicy]) -> list[Any]:
    return sample_texts(
        policies,
        trainer.parts.test_task,
        trainer.parts.reward,
        iteration=iteration,
        max_new_tokens=trainer.games.rules.max_new_tokens,
        places=trainer.config.sample_places,
    )


def _finish(trainer: Trainer, folder: RunFolder, done: int, console: Console) -> Evaluation | None:
    """Write the final policies, evaluate them and write their cards."""
    means = trainer.averages.means()
    _write_final(trainer, folder, means)
    _say_means(trainer, folder, means, console)
    config, evaluation = trainer.config, None
    if config.evaluation_queries:
        evaluation = evaluate_policies(
            config,
            trainer.policies,
            trainer.parts.test_task,
            trainer.parts.reward,
            split=config.test_split,
            num_queries=config.evaluation_queries,
            means=means,
        )
        evaluation["iterations"] = done
        for callback in trainer.callbacks:
            callback.evaluation(trainer, evaluation)
    if trainer.world.writes:
        if evaluation:
            folder.write_evaluation(evaluation)
        write_cards(folder.path)
    return evaluation


def _write_final(trainer: Trainer, folder: RunFolder, means: Mapping[str, Mean]) -> None:
    """Write `final/`, whole or not at all: means, last iterates beside them, and critics."""
    temporary, writes = folder.partial_final_path, trainer.world.writes
    if writes:
        shutil.rmtree(temporary, ignore_errors=True)
    beside = folder.last_path.relative_to(folder.final_path)
    for name, policy in trainer.policies.items():
        with shown(trainer.policies, {name: means[name]} if name in means else {}):
            policy.backbone.save_pretrained(name, temporary / name, writes=writes)
        if name in means:
            policy.backbone.save_pretrained(name, temporary / beside / name, writes=writes)
    _write_critics(trainer, temporary)
    if writes:
        shutil.rmtree(folder.final_path, ignore_errors=True)
        os.replace(temporary, folder.final_path)


def _write_critics(trainer: Trainer, folder: Path) -> None:
    """Write each critic into a folder of its name."""
    brought = trainer.config.algorithm_config
    for critic in dict.fromkeys(trainer.parts.critics.values()):
        assert isinstance(brought, CriticConfig)
        save_critic(
            critic,
            trainer.policies[critic.owner].backbone,
            folder / critic.name,
            body=brought.critic_body,
            units=trainer.algorithm.value_units(critic.owner),
            writes=trainer.world.writes,
        )


def _say_means(
    trainer: Trainer, folder: RunFolder, means: Mapping[str, Mean], console: Console
) -> None:
    """Say what the policies at the end are means of, and what their rank has cost."""
    taken = trainer.averages.taken
    for name, mean in means.items():
        lost = f", at rank {mean.rank} with a relative error of {mean.error:.2%}"
        console.print(
            f"{name} is the mean of {len(taken)} snapshots, of iterations {taken[0]} to "
            f"{taken[-1]}{lost if mean.rank else ''}; its last iterate is in {folder.last_path}.",
            highlight=False,
            soft_wrap=True,
        )
