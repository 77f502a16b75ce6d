"""The command line: `python -m agents train | compare | evaluate | report | average | …`.

The only place that parses flags and turns an error of the user into one line and exit code 2. Heavy
imports wait until the flags are understood.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.checks import check_before_loading, check_run
from agents.cli import environments
from agents.cli.about import list_names, print_completion, print_environment
from agents.cli.commands import (
    COMMANDS,
    AverageFlags,
    CompareFlags,
    CompletionFlags,
    EnvFlags,
    EvaluateFlags,
    FirstFlags,
    JudgeFlags,
    ListFlags,
    MergeFlags,
    NewTaskFlags,
    OwnFlags,
    PlayFlags,
    PushFlags,
    ReportFlags,
    TrainFlags,
)
from agents.cli.flags import names_behind_help, parse, parse_fields, print_help, program, task_first
from agents.cli.new_task import new_task
from agents.cli.threads import cores, use_threads
from agents.config.files import config_text, laid_over, read_fields
from agents.config.plugins import import_plugins
from agents.config.presets import preset_values
from agents.config.run import RunConfig
from agents.config.train import TrainConfig, every_field, fitting
from agents.distributed.agreement import PATIENCE, agreed, of_first
from agents.errors import DivergenceError, EngineError, PlayError, ProcessError
from agents.records.folder import RunFolder
from agents.records.start import check_run_folder
from agents.registries import ALGORITHMS, CRITIC_BODIES, ENGINES, PRESETS, TRACKERS, VARIANTS
from agents.tasks import build_task
from agents.terminal.hush import hushed
from agents.terminal.interrupts import SIGPIPE, Interrupted, exit_code, prompt_interrupts
from agents.terminal.streams import lasting_streams, stop
from cory_env import RewardError, __version__
from cory_env.names import unknown_name
from cory_env.registry import REWARDS, TASKS
from cory_env.tasks.toy import ToyTask

if TYPE_CHECKING:
    from agents.policies.llm import LLMPolicy


_LISTED = 300_000
"""Strings times strings of `toy` up to which all responses to all of them are listed."""

USAGE = """usage: {program} COMMAND …

  train TASK [--preset P] [--resume] [--FIELD VALUE …]   learn; `train --help` lists all fields;
                                                         --import FILE.py for plug-ins of your own
  train --env ENV --describe FILE [--actions a,b,…]      learn in an environment of Gymnasium or
                                                         PettingZoo; `train --env ENV --help`
  compare TASK [--variants …] [--seeds 3] [--FIELD …]    variants side by side: one table, one page
  evaluate RUN [--split test] [--k 1 2 4 8]              score a run's policies, alone and as a team
  report RUN [RUN …] [--out FILE] [--serve]              page of a run, or of several side by side;
                                                         --serve: live, while they train
  average RUN [RUN …] --out DIR [--weights 1 1]          the mean of policies as one: of a pair,
                                                         of adapters, of a run's checkpoints
  judge RUN --judge task|lm:MODEL|… --out DIR            a reward model of what a judge prefers
  merge POLICY OUT [--dtype bfloat16]                    write an adapter and its base as one model
  push RUN ORG/NAME [--public]                           upload the policies of a run to the hub
  play TASK [--seat observer_0] [--partner POLICY]       take a seat yourself, a model has the other
  list [tasks | algorithms | presets | …]                what is known by its name, a line for each
  new-task NAME                                          a package for a task of your own
  env                                                    versions, for a report of an error
  completion bash | zsh | tcsh                           a script that completes the command `cory`
  --version                                              what `cory_env.__version__` says
"""

EXAMPLES = """examples:
  {program} train imdb
      in minutes, without a GPU or a network
  {program} train imdb --observers 0 --algorithm ppo
      the single-agent baseline
  {program} train imdb --resume --iterations 90
      go on where it stopped
  {program} train gsm8k --model Qwen/Qwen2.5-0.5B-Instruct
      a model from the hub
  {program} train gsm8k --algorithm grpo --help
      the fields of GRPO, and the defaults of gsm8k
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 a run of a comparison failed, 2 wrong usage, 128 + n ended by signal n (130 Ctrl-C).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with lasting_streams(stop), prompt_interrupts():
        try:
            try:
                return _run(argv)
            finally:
                sys.stdout.flush()  # here, and not at the very end, it is known what to do
        except KeyboardInterrupt as interrupt:
            number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
            if number != SIGPIPE and _speaks():
                print("interrupted", file=sys.stderr)
            return exit_code(number)


def _run(argv: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "compare": _compare,
        "evaluate": _evaluate,
        "report": _report,
        "average": _average,
        "judge": _judge,
        "merge": _merge,
        "push": _push,
        "play": _play,
        "list": _list,
        "new-task": _new_task,
        "env": _env,
        "completion": _completion,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(program=program()))
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"cory-env {__version__}")
        return 0
    try:
        if argv[0] not in commands:
            raise ValueError(unknown_name("a command", commands, argv[0]))
        return commands[argv[0]](argv[1:])
    except ProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, RewardError, DivergenceError, EngineError, PlayError) as error:
        if _speaks():
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _speaks() -> bool:
    """Return whether this process says what all have met: the first one of every machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _train(argv: list[str]) -> int:
    if environments.names_environment(argv):
        return environments.train(argv, _agrees)
    if "-h" in argv or "--help" in argv:
        _help_of_train(argv)
    patience = _patience(argv)
    flags, config = agreed("the command", lambda: _wanted(argv), patience=patience)
    if flags.print_config:
        if _speaks():
            print(config_text(config), end="")
        return 0
    may_replace = partial(_may_replace, flags, config)
    if flags.overwrite and not of_first("the run to replace", may_replace, patience=patience):
        print("Nothing was changed.")
        return 1
    _say(use_threads(flags.threads))
    with hushed():
        from agents.models.kernels import keep_freed_memory
        from agents.training.loop import train

    keep_freed_memory()
    run = train(config, resume=flags.resume, overwrite=flags.overwrite)
    if run.interrupted:
        return exit_code(run.stopped_by)
    if flags.push_to_hub and os.environ.get("RANK", "0") == "0":
        from agents.publishing.hub import push

        print(*push(run.folder, flags.push_to_hub), sep="\n")
    return 0


def _patience(argv: list[str]) -> float:
    """Return how long processes wait for one another, before anything else is known of the run."""
    words = [word for flag in argv for word in flag.split("=", 1)]
    patience = PATIENCE
    for flag, value in pairwise(words):
        if flag.replace("_", "-") == "--process-timeout":
            with suppress(ValueError):  # what is wrong with a value is said once flags are parsed
                patience = float(value)
    return patience if 0 < patience < math.inf else PATIENCE


def _help_of_train(argv: list[str]) -> None:
    """Print the flags, with the defaults of a task and preset that are named, and exit."""
    owners, imports = _first_flags(argv)
    words = [word for word in argv if word not in ("-h", "--help")]
    words = task_first(words, OwnFlags)
    if words[0]:
        TASKS.check(words[0], "your own comes with --import FILE.")
    flags, _ = parse(TrainFlags, words, prog="train", more=None)
    task = flags.task or ("" if flags.config else TrainConfig.task)
    start, _ = _starting_point(replace(flags, task=task, resume=False), owners, imports)
    brought = (ALGORITHMS, CRITIC_BODIES, ENGINES, TRACKERS)
    with names_behind_help(TASKS, REWARDS, PRESETS, *brought, more=EXAMPLES):
        print_help(OwnFlags, start, prog="train TASK")


def _wanted(argv: list[str]) -> tuple[TrainFlags, TrainConfig]:
    """Return what `train` is to do, checked as far as it can be before torch is loaded."""
    owners, imports = _first_flags(argv)
    argv = task_first(argv, OwnFlags)
    flags, rest = parse(TrainFlags, argv, prog="train", more=every_field())
    start, chosen = _starting_point(flags, owners, imports, patience=_patience(rest))
    asked = parse_fields(rest, start, prog="train")
    config = TrainConfig(**{**fitting(start), **asked})
    if flags.print_config:
        return flags, config
    check_before_loading(config)
    _say(chosen)
    if flags.push_to_hub:
        with hushed():
            from agents.publishing.hub import check_push

        check_push(flags.push_to_hub)
    if flags.yes and not flags.overwrite:
        raise ValueError("Expected --yes with --overwrite only: it asks before nothing else.")
    return flags, config


def _may_replace(flags: TrainFlags, config: TrainConfig) -> bool:
    check_run_folder(config, resume=flags.resume, overwrite=True)
    return flags.yes or _agrees(RunFolder(config.run_folder))


def _compare(argv: list[str]) -> int:
    owners, imports = _first_flags(argv)
    if "-h" in argv or "--help" in argv:
        with names_behind_help(TASKS, PRESETS, VARIANTS, ALGORITHMS):
            parse(CompareFlags, argv, prog="compare")
    flags, rest = parse(CompareFlags, argv, prog="compare", more=every_field())
    from agents.studies.plan import Grid, algorithms_of, check_effect, plan

    given = {name: getattr(flags, name) for name in ("task", "model", "adapter")}
    given = {name: value for name, value in {**given, "imports": imports}.items() if value}
    entries = read_fields(flags.config) if flags.config else {}
    values, chosen = laid_over(entries, {**given, **owners}, flags.preset)
    algorithms = algorithms_of(flags.variants, values)
    asked = parse_fields(rest, values, prog="compare", algorithms=algorithms)
    grid = Grid(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Grid)})
    out = Path(flags.out or f"runs/compare_{flags.task}")
    for name, value, least in (("seeds", flags.seeds, 1), ("jobs", flags.jobs, 0)):
        if value < least:
            raise ValueError(f"Expected {name} to be at least {least}, got {value}.")
    jobs = plan({**values, **asked}, grid, out)
    for job in jobs:
        if job.config.seed == jobs[0].config.seed:
            check_before_loading(job.config)
    _say(chosen)
    if not jobs[0].config.evaluation_queries:
        raise ValueError("Expected evaluation_queries to be at least 1, got 0.")
    check_effect(asked, jobs)
    optimum = _optimum(jobs[0].config) if flags.oracle else None
    from rich.console import Console

    from agents.studies.run import compare

    return compare(
        jobs,
        out,
        at_a_time=flags.jobs or cores(),
        dry_run=flags.dry_run,
        console=Console(),
        optimum=optimum,
    )


def _optimum(config: TrainConfig) -> Callable[[TrainConfig], list[tuple[float, float]]]:
    """Return what computes the exact optimum of a run's reference.

    Args:
        config: of the first run; all have its task.

    Raises:
        ValueError: if the responses are not such that all can be listed.
    """
    task = build_task(config.task, config.train_split, config.task_arguments)
    if not isinstance(task, ToyTask) or len(task.alphabet) ** (2 * task.length) > _LISTED:
        raise ValueError(
            "Expected toy with --oracle, of strings whose responses can all be listed, got "
            f"{config.task} {config.task_options}".rstrip()
            + ": leave out --oracle."
        )

    def found(config: TrainConfig) -> list[tuple[float, float]]:
        from agents.evaluation.optimum import lone_optimum  # torch, once all runs have ended

        return lone_optimum(config)

    return found


def _agrees(folder: RunFolder) -> bool:
    """Ask whether a run may be deleted.

    Raises:
        ValueError: if there is nobody to ask.
    """
    if not folder.has_progress():
        return True
    if not sys.stdin.isatty() or "RANK" in os.environ:
        raise ValueError(
            f"Expected --yes with --overwrite where nobody can be asked: the run {folder} would be "
            "deleted."
        )
    try:
        return input(f"Delete the run {folder}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _first_flags(argv: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Import what the user names, and return which algorithm and engine bring their fields."""
    words = [word for word in argv if word not in ("-h", "--help")]
    flags, _ = parse(FirstFlags, words, prog=argv[0] if argv else "", more=None)
    given = {"algorithm": flags.algorithm, "engine": flags.engine}
    imports = import_plugins(*flags.import_)
    return {name: value for name, value in given.items() if value}, imports


def _starting_point(
    flags: TrainFlags,
    owners: Mapping[str, Any],
    imports: tuple[str, ...],
    *,
    patience: float = PATIENCE,
) -> tuple[dict[str, Any], str]:
    """Return the fields that the other flags change, and what to say of them."""
    entries = read_fields(flags.config) if flags.config else {}
    if not flags.task and "task" not in entries:
        raise ValueError("Expected `train TASK`, got too few words: see `train --help`.")
    given = {name: getattr(flags, name) for name in ("task", "out", "model", "adapter")}
    chosen = {name: value for name, value in {**given, "imports": imports}.items() if value}
    values, line = laid_over(entries, {**chosen, **owners}, flags.preset)
    if not flags.resume:
        return values, line
    # Held to what the run has, as its flags would be.
    folder = RunFolder(
        RunConfig(**{n: values[n] for n in ("task", "out") if n in values}).run_folder
    )
    found = of_first("the run to resume", lambda: folder.read_config().to_json(), patience=patience)
    stored = folder.configuration(found).changed()
    said = preset_values(flags.preset) if flags.preset else {}
    said |= {name: entry.value for name, entry in entries.items()}
    return {**stored, **said, **chosen, **owners}, ""


def _say(line: str) -> None:
    """Tell the user something, once on every machine."""
    if line and _speaks():
        print(line, file=sys.stderr)


def _evaluate(argv: list[str]) -> int:
    if environments.is_environment_run(argv):
        return environments.evaluate(argv)
    flags, _ = parse(EvaluateFlags, argv, prog="evaluate")
    import_plugins(*flags.import_)
    check_run(flags.run, flags.split)
    _say(use_threads(flags.threads))
    from rich.console import Console

    with hushed():
        from agents.evaluation.finished import evaluate
        from agents.evaluation.tables import print_evaluation

    evaluation = evaluate(
        flags.run,
        split=flags.split,
        num_queries=flags.queries,
        greedy=flags.greedy,
        seed=flags.seed,
        k=flags.k,
        samples=flags.samples,
        batch_size=flags.batch_size,
        device=flags.device,
    )
    print_evaluation(evaluation, Console())
    return 0


def _report(argv: list[str]) -> int:
    flags, _ = parse(ReportFlags, argv, prog="report")
    if not flags.runs:
        raise ValueError("Expected at least one run folder, got none.")
    if flags.out is not None and flags.out.is_dir():
        raise ValueError(f"Expected a file for --out, got the folder {flags.out}.")
    if flags.serve:
        if flags.out is not None:
            raise ValueError(f"Expected --serve or --out, got both: {flags.out} is a page at rest.")
        from agents.reports.serve import serve

        serve(flags.runs, flags.port)
    elif len(flags.runs) == 1:
        from agents.reports.run_page import write_report

        print(write_report(flags.runs[0], flags.out))
    else:
        from agents.reports.runs_page import write_comparison

        print(write_comparison(flags.runs, flags.out or Path("comparison.html")))
    return 0


def _average(argv: list[str]) -> int:
    flags, _ = parse(AverageFlags, argv, prog="average")
    from agents.publishing.folders import check_new
    from agents.publishing.snapshots import check_alike, find_snapshots

    options = {"weights": flags.weights, "scale": flags.scale, "rank": flags.rank}
    check_alike(find_snapshots(flags.policies), **options)
    if flags.out is None:
        raise ValueError("Expected a folder to write to, got none: pass --out DIR.")
    check_new(flags.out)
    with hushed():
        from agents.publishing.average import average

    print(average(flags.policies, flags.out, **options))
    return 0


def _judge(argv: list[str]) -> int:
    flags, _ = parse(JudgeFlags, argv, prog="judge")
    import_plugins(*flags.import_)
    if flags.out is None:
        raise ValueError("Expected a folder to write to, got none: pass --out DIR.")
    with hushed():
        from agents.judging.judge import judge

    options = {"pairs": flags.pairs, "seed": flags.seed, "device": flags.device}
    rate = flags.learning_rate
    print(judge(flags.run, flags.out, by=flags.judge, learning_rate=rate, **options))
    return 0


def _merge(argv: list[str]) -> int:
    flags, _ = parse(MergeFlags, argv, prog="merge")
    with hushed():
        from agents.publishing.merge import merge

    print(merge(flags.policy, flags.out, dtype=flags.dtype, base=flags.base or None))
    return 0


def _push(argv: list[str]) -> int:
    flags, _ = parse(PushFlags, argv, prog="push")
    with hushed():
        from agents.publishing.hub import push

    print(*push(flags.run, flags.repository, public=flags.public), sep="\n")
    return 0


def _play(argv: list[str]) -> int:
    if environments.is_environment_run(argv):
        return environments.play(argv)
    if "-h" in argv or "--help" in argv:
        _first_flags(argv)
        with names_behind_help(TASKS):
            parse(PlayFlags, argv, prog="play")
    flags, _ = parse(PlayFlags, argv, prog="play")
    use_threads("auto")
    import_plugins(*flags.import_)
    if flags.partner is not None and (run := RunFolder.of_final(flags.partner.resolve().parent)):
        run.read_config()  # imports the plug-ins that the policy was trained with
    from agents.play import play

    read = TrainConfig(
        task=flags.task, reward_sharing=flags.reward_sharing, task_options=flags.task_options
    )
    parsed = {"reward_sharing": read.sharing, "task_options": read.task_arguments}
    given = dataclasses.asdict(flags)
    del given["import_"]
    play(load=_load_policy, **{**given, **parsed})
    return 0


def _load_policy(folder: Path | None) -> LLMPolicy:
    """Load a policy, or the embedded model where the folder is None."""
    with hushed():
        from agents.models.files import EMBEDDED_MODEL
        from agents.policies.load import load_policy

    return load_policy(folder or EMBEDDED_MODEL)


def _list(argv: list[str]) -> int:
    flags, _ = parse(ListFlags, argv, prog="list")
    import_plugins(*flags.import_)
    list_names(flags.kind)
    return 0


def _new_task(argv: list[str]) -> int:
    flags, _ = parse(NewTaskFlags, argv, prog="new-task")
    folder = new_task(flags.name, flags.out)
    print(
        f"{folder} is a package whose tests pass: `python -m pytest {folder}`; then "
        "change it. Its README.md says how to train on it."
    )
    return 0


def _env(argv: list[str]) -> int:
    parse(EnvFlags, argv, prog="env")
    with hushed():
        print_environment()
    return 0


def _completion(argv: list[str]) -> int:
    flags, _ = parse(CompletionFlags, argv, prog="completion")
    print_completion(flags.shell, COMMANDS)
    return 0
