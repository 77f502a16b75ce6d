"""`train_environment`: a run in somebody else's environment, iteration by iteration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.acting.evaluation import evaluate_actors, print_actors
from agents.acting.trainer import FAILURES, ActingTrainer
from agents.config.environment import EnvConfig
from agents.config.named_models import NAMED_MODELS
from agents.config.sources import check_repository
from agents.environments.opening import with_imports
from agents.errors import DivergenceError
from agents.models.loading import pick_device
from agents.records.checkpoint import check_checkpoint, load_checkpoint, save_checkpoint
from agents.records.folder import RunFolder
from agents.records.provenance import facts, record
from agents.records.rows import MetricRow
from agents.records.start import begun, check_run_folder
from agents.reports.run_page import write_report
from agents.terminal.hush import hushed
from agents.terminal.interrupts import Interrupted, deferred_interrupts
from agents.terminal.streams import go_on, lasting_streams
from agents.watching.logger import MetricLogger

MAX_SKIPPED = 10
"""Updates in a row without a finite loss and gradient after which a run is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvRun:
    """A run that has ended."""

    folder: Path
    metrics: list[MetricRow]
    """One row per iteration."""
    evaluation: dict[str, Any]
    """What `evaluation.json` holds; empty if it was interrupted or asked for none."""
    stopped_by: int
    """Number of the signal that stopped it before its last iteration; 0 if none did."""


@hushed()
def train_environment(
    config: EnvConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> EnvRun:
    """Train, writing the run folder as it goes.

    A run that is finished and is asked for no more iterations is only read.

    Args:
        config: what to do.
        resume: go on from the last checkpoint of `config.run_folder`.
        overwrite: replace the run that is in `config.run_folder`, once the new one has begun.
        console: where to show progress.

    Raises:
        ValueError: if the configuration, the environment or the run folder is unusable; nothing has
            been written then.
        PlayError: if the environment fails in a run; the iterations before are saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Expected one process in an environment of others, got several.")
    if not config.imports:
        config = with_imports(config)
    if config.model not in NAMED_MODELS:
        check_repository("causal language model", config.model)
    check_run_folder(config, resume=resume, overwrite=overwrite)
    folder, console = RunFolder(config.run_folder), console or Console()
    with lasting_streams(go_on):
        if resume and folder.is_finished(config):
            console.print(f"The run in {folder} is finished.", highlight=False, soft_wrap=True)
            found = folder.read_evaluation() if config.evaluation_episodes else {}
            metrics = folder.read_metrics()
            return EnvRun(folder=folder.path, metrics=metrics, evaluation=found, stopped_by=0)
        with closing(ActingTrainer(config)) as trainer:
            return _train(trainer, folder, console, resume)


def _train(trainer: ActingTrainer, folder: RunFolder, console: Console, resume: bool) -> EnvRun:
    config = trainer.config
    done = _resume(trainer, folder) if resume else 0
    _say_tokens(trainer, console)
    with begun(folder, resume=resume) as begin:
        folder.write_config(config)
        record(folder.provenance_path, done, facts(pick_device(config.device).type))
        with (
            MetricLogger(folder.path, config.planned, console=console) as logger,
            deferred_interrupts() as stop,
        ):
            done = _learn(trainer, folder, logger, done, stop, begin)
            stopped_by = max(stop, default=0) if done < trainer.planned(done) else 0
    evaluation: dict[str, Any] = {}
    if not stopped_by:
        _write_final(trainer, folder)
        if config.evaluation_episodes:
            evaluation = evaluate_actors(config, trainer.players, config.evaluation_episodes)
            evaluation["iterations"] = done
            folder.write_evaluation(evaluation)
    report = write_report(folder.path)
    if stopped_by:
        console.print(f"Interrupted after {done} iterations, saved; go on with --resume.")
    elif evaluation:
        print_actors(evaluation, console)
    console.print(f"The run is in {folder}, its page is {report}.", soft_wrap=True)
    metrics = folder.read_metrics()
    return EnvRun(folder=folder.path, metrics=metrics, evaluation=evaluation, stopped_by=stopped_by)


def _resume(trainer: ActingTrainer, folder: RunFolder) -> int:
    """Take up the last checkpoint; return the iterations done."""
    if not (checkpoints := folder.checkpoints()):
        return 0
    check_checkpoint(checkpoints[-1])
    trainer.load_state(*load_checkpoint(checkpoints[-1]))
    return folder.iterations_done()


def _say_tokens(trainer: ActingTrainer, console: Console) -> None:
    """Say once of what lengths actions are: one that falls apart into letters is scored so."""
    if counts := trainer.action_tokens:
        listed = ", ".join(f"{action} {count}" for action, count in counts.items())
        console.print(f"Tokens of the actions: {listed}.", highlight=False, soft_wrap=True)


def _learn(
    trainer: ActingTrainer,
    folder: RunFolder,
    logger: MetricLogger,
    done: int,
    stop: Sequence[int],
    begin: Callable[[], None],
) -> int:
    """Iterate until the end or an interrupt; return the number of iterations done."""
    config, saved = trainer.config, done or None
    logger.truncate_after(done - 1)
    while done < trainer.planned(done) and not stop:
        with _saving(trainer, folder, done):
            row = trainer.iterate(done)
        logger.log(row)
        begin()
        done += 1
        if done == 1 or done % config.sample_every == 0:
            with _saving(trainer, folder, done):
                logger.samples(trainer.samples(done))
        _check_learning(trainer, folder, done)
        if done % config.save_every == 0:
            save_checkpoint(folder, done, *trainer.state(), config.keep)
            saved = done
    if done == 0:
        raise Interrupted(max(stop))  # there is nothing to save
    if saved != done:
        save_checkpoint(folder, done, *trainer.state(), config.keep)
    return done


@contextmanager
def _saving(trainer: ActingTrainer, folder: RunFolder, done: int) -> Iterator[None]:
    """Save the state of after `done` iterations if an environment fails.

    That is what it is then: episodes are played before anybody learns of them.
    """
    try:
        yield
    except FAILURES:
        if done:
            save_checkpoint(folder, done, *trainer.state(), trainer.config.keep)
        raise


def _check_learning(trainer: ActingTrainer, folder: RunFolder, done: int) -> None:
    """Give a run up, saved, that has not been able to learn for long.

    Raises:
        DivergenceError: if so.
    """
    if max(learner.skipped_in_a_row for learner in trainer.learners.values()) < MAX_SKIPPED:
        return
    save_checkpoint(folder, done, *trainer.state(), trainer.config.keep)
    raise DivergenceError(
        f"Expected finite losses and gradients, got {MAX_SKIPPED} updates in a row without; the "
        f"run is saved in {folder}. Begin anew with a lower --learning-rate."
    )


def _write_final(trainer: ActingTrainer, folder: RunFolder) -> None:
    """Write `final/`, whole or not at all."""
    temporary = folder.partial_final_path
    shutil.rmtree(temporary, ignore_errors=True)
    for name, policy in trainer.players.policies.items():
        policy.backbone.save_pretrained(name, temporary / name)
    shutil.rmtree(folder.final_path, ignore_errors=True)
    os.replace(temporary, folder.final_path)
