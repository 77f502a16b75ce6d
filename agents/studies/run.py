"""`compare`: run variants side by side, some at a time, and go on where it was cut.

Each run is a process of its own, `python -m agents train` on one thread, in a folder of its own. A
run that is finished is not repeated, one that was cut goes on, and one that fails stops no other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from agents.config.plugins import command_line
from agents.config.train import TrainConfig
from agents.maths.figures import wall_time
from agents.studies.plan import Job
from agents.terminal.streams import go_on, lasting_streams

Optimum = Callable[[TrainConfig], list[tuple[float, float]]]
"""From a configuration to (KL, reward) of policies that none can pass, in either order of KL."""

_GRACE_S = 60.0
"""What a run is given after a signal to save its checkpoint."""


def compare(
    jobs: Sequence[Job],
    out: Path,
    *,
    at_a_time: int,
    dry_run: bool,
    console: Console,
    optimum: Optimum | None = None,
) -> int:
    """Run a comparison, show its table and write its page; return the exit code.

    Args:
        jobs: the runs.
        out: folder of the comparison.
        at_a_time: how many run side by side.
        dry_run: only list them.
        console: for people.
        optimum: what no run can pass: KL and reward of the best policies, by configuration.

    Raises:
        ValueError: if the folder holds runs of another plan.
    """
    check_stored_plans(jobs)
    if dry_run:
        for job in jobs:
            state = "finished" if job.is_finished else "to do"
            console.print(f"{job.config.out}: {state}", highlight=False, soft_wrap=True)
        return 0
    with lasting_streams(go_on):
        return _compare(jobs, out, at_a_time, console, optimum)


def _compare(
    jobs: Sequence[Job], out: Path, at_a_time: int, console: Console, optimum: Optimum | None
) -> int:
    failed = run_jobs(jobs, at_a_time=at_a_time, console=console)
    ended = [job for job in jobs if job.is_finished]
    if ended:
        from agents.studies.outcomes import print_summary, read_outcome
        from agents.studies.page import version_lines, write_findings

        outcomes = [read_outcome(job) for job in ended]
        # Runs of one seed have one reference.
        seeds = {job.config.seed: job.config for job in ended} if optimum else {}
        bounds = [optimum(config) for config in seeds.values()] if optimum else []
        page = write_findings(ended, outcomes, out, bounds)
        print_summary(outcomes, console)
        for line in version_lines(ended):
            console.print(line, highlight=False, soft_wrap=True)
        console.print(f"The page is {page}.", highlight=False, soft_wrap=True)
    return 1 if failed else 0


def run_jobs(jobs: Sequence[Job], *, at_a_time: int, console: Console) -> list[Job]:
    """Run what is not finished and return what failed.

    Raises:
        KeyboardInterrupt: once all runs under way have saved.
    """
    waiting = [job for job in jobs if not job.is_finished]
    running: dict[subprocess.Popen[bytes], Job] = {}
    failed: list[Job] = []
    total, begun = len(waiting), time.monotonic()
    if len(jobs) > total:
        console.print(f"{len(jobs) - total} of {len(jobs)} runs are finished.")
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                job = waiting.pop(0)
                running[_start(job)] = job
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                done = total - len(waiting) - len(running)
                if process.returncode != 0 or not job.is_finished:
                    failed.append(job)
                _report(job, job in failed, done, total, time.monotonic() - begun, console)
    except KeyboardInterrupt:
        _stop(list(running))
        raise
    return failed


def _start(job: Job) -> subprocess.Popen[bytes]:
    """Start a run, or go on with it: both are a run folder with a configuration, resumed."""
    job.folder.path.mkdir(parents=True, exist_ok=True)
    if not (job.folder.config_path.exists() and job.folder.has_progress()):
        job.folder.write_config(job.config)
    command = [sys.executable, "-m", "agents", "train", job.config.task]
    command += command_line(job.config.imports)
    command += ["--out", job.config.out, "--resume", "--iterations", str(job.config.iterations)]
    command += ["--budget", job.config.budget] if job.config.budget else []
    with job.folder.log_path.open("ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            # One thread each: side by side, more would only wait for each other.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # An interrupt of the terminal is passed on below, once.
            start_new_session=True,
        )


def _report(
    job: Job, failed: bool, done: int, total: int, elapsed_s: float, console: Console
) -> None:
    left = wall_time(elapsed_s / done * (total - done))
    end = f"FAILED, see {job.folder.log_path}" if failed else "finished"
    text = f"{done}/{total} {job.name}: {end}; left {left}"
    console.print(text, highlight=False, soft_wrap=True)


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let every run save its checkpoint, and kill what does not."""
    for process in running:
        process.terminate()
    until = time.monotonic() + _GRACE_S
    for process in running:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def check_stored_plans(jobs: Sequence[Job]) -> None:
    """Check that folders with a run hold the run that is planned.

    Raises:
        ValueError: if one was made with other settings.
    """
    for job in jobs:
        if not job.folder.config_path.is_file() or not job.folder.has_progress():
            continue
        stored = job.folder.read_config().to_json()
        for name, value in job.config.to_json().items():
            if stored.get(name, value) != value:
                raise ValueError(
                    f"Expected {name}={stored[name]!r} as in {job.folder}, got "
                    f"{value!r}: pass the same settings to go on, or another --out."
                )
