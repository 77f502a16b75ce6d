"""`report.html`: a run on one page that needs no network and no server.

Leaves out what a run folder does not hold, so an unfinished run has a report too. Equal folders
give equal bytes.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.config.budget import Budget
from agents.config.options import values_of
from agents.config.plugins import command_line
from agents.config.presets import starting_values
from agents.config.run import RunConfig
from agents.config.train import TrainConfig
from agents.maths.figures import finite_mean, finite_sum, smoothing_window, wall_time
from agents.records.folder import RunFolder
from agents.records.rows import (
    TEAM,
    HistogramRow,
    MetricRow,
    by_role,
    is_last_iterate,
    number,
    policy_names,
    role_swaps,
    write_atomically,
)
from agents.records.view import RunFiles, read_run
from agents.reports.page import Panel, curve_panel, drawing, file_links, render
from agents.reports.series import MOST_POINTS, MOST_SWAPS, Stage, metric_curves
from agents.reports.svg import heat_map_svg, plane_svg
from agents.reports.tables import (
    EVALUATION_COLUMNS,
    Table,
    cost_facts,
    evaluation_rows,
    evaluation_table,
    rate_columns,
)
from agents.reports.texts import run_queries

_MAIN_CURVES = (
    ("task_reward", "Task reward", "What the policy's own responses earn, before any penalty."),
    ("kl", "KL to the reference", "Nats, summed over a response: how far the policy has moved."),
    ("combined_reward", "Combined reward", "Task reward − η · KL: what the learner maximises."),
)


_COLLAPSE_CURVES = (
    ("entropy", "Entropy", "Nats per token. A fall to zero is a policy that no longer explores."),
    ("response_length", "Response length", "Tokens. Rising to the limit: the end is forgotten."),
    ("distinct_2", "Distinct-2", "Share of different word pairs. Low: the same words again."),
)


_OPTIMISER_CURVES = (
    ("clip_fraction", "Clip fraction", "Share of tokens whose probability ratio was clipped."),
    ("gradient_norm", "Gradient norm", "Before it is scaled down to --max-grad-norm."),
    ("approx_kl", "Approximate KL", "Between the policy before and after an update."),
    ("explained_variance", "Explained variance", "1: the critic foresees the returns; 0: no idea."),
)


_SPREADS = (
    ("kl", "KL per token", "Nats, when the responses were sampled: which tokens pay for the mean."),
    (
        "log_ratio",
        "Log-ratio per token",
        "New to old policy during the last pass over the batch: how far a step moves each token.",
    ),
)


_HEADLINE = (("task_reward", "task reward"), ("kl", "KL, nats"), ("combined_reward", "combined"))


_NO_FLAGS = {"task", "out", "imports", "format"}
"""What a command says otherwise, or leaves out."""


_HEADLINE_SHARE = 10
"""The headline shows means over the last tenth of the iterations."""


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run and return its path.

    Args:
        run: The run folder.
        out: Where to write; None for `report.html` in the run folder.

    Raises:
        ValueError: The folder holds no run, or a file in it is not what a run writes.
    """
    path = out or RunFolder(run).report_path
    write_atomically(path, run_page(read_run(run), path.parent))
    return path


def run_page(run: RunFiles, base: Path, served: str = "") -> str:
    """Return the page of a run.

    Args:
        run: its files.
        base: the folder that the page is for.
        served: where a server has the files of the run; empty for a page that is a file.
    """
    names, rows = policy_names(run.rows), run.rows
    stage = Stage.of(rows)
    sections = _curves(rows, names, stage)
    spread = _spread(run.histograms, stage, names)
    return render(
        "run.html",
        panels=[panel for section in sections for panel in section.panels],
        stage=stage,
        live=bool(served),
        name=run.folder.name,
        title=_title(run.folder.name, run.config),
        **_progress(run.config, rows),
        headline=_headline(rows, names),
        sections=sections,
        spread=spread,
        evaluation=_evaluation(run.evaluation, names),
        names=names,
        queries=run_queries(run.samples, names),
        config=run.config,
        command=train_command(run.config),
        provenance=run.provenance,
        files=file_links(run.folder, base, served),
    )


def _title(name: str, config: Mapping[str, object]) -> str:
    parts = [str(config[key]) for key in ("env", "task", "algorithm") if config.get(key)]
    return " · ".join(parts) or name


def _progress(config: Mapping[str, object], rows: Sequence[MetricRow]) -> dict[str, object]:
    done = int(number(rows[-1], "iteration")) + 1 if rows else 0
    planned = _planned(config, rows, done)
    finished = done >= planned
    facts = [f"seed {config['seed']}"] if "seed" in config else []
    facts.append(f"{done} iterations" if finished else f"{done} of {planned} iterations")
    if rows:
        facts.append(wall_time(finite_sum(number(row, "seconds") for row in rows)))
        rate = finite_mean(number(row, "tokens_per_second") for row in rows)
        facts += [] if math.isnan(rate) else [f"{rate:,.0f} tokens/s"]
        facts += cost_facts(rows)
    return {"facts": facts, "finished": finished}


def _planned(config: Mapping[str, object], rows: Sequence[MetricRow], done: int) -> int:
    """How many iterations the run will have, as far as its files say."""
    if rows and (text := str(config.get("budget") or "")):
        return Budget.of(text).planned(done, rows[-1])
    planned = config.get("iterations")
    return planned if isinstance(planned, int) else done


@dataclass(frozen=True, slots=True)
class _Card:
    """Start and end of a policy: label, end and first value of each figure."""

    name: str
    figures: Sequence[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class _Headline:
    cards: Sequence[_Card]
    share: str
    """What the figures are means over."""


def _headline(rows: Sequence[MetricRow], names: Sequence[str]) -> _Headline | None:
    if not rows:
        return None
    window = _last_window(rows, names)
    cards = [
        _Card(
            name,
            [
                (
                    label,
                    finite_mean(number(row, f"{name}/{metric}") for row in rows[-window:]),
                    number(rows[0], f"{name}/{metric}"),
                )
                for metric, label in _HEADLINE
            ],
        )
        for name in names
    ]
    share = "last iteration" if window == 1 else f"mean over the last {window} iterations"
    if role_swaps(rows) and _is_balanced(rows[-window:], rows, names):
        share += ", in which every policy had each role equally often"
    return _Headline(cards, share)


def _last_window(rows: Sequence[MetricRow], names: Sequence[str]) -> int:
    """How many iterations the headline averages.

    A tenth of the run, or as many more as it takes to see every policy in all its roles equally
    often: an observer's figures are not to be compared with a pioneer's.
    """
    shortest = max(1, len(rows) // _HEADLINE_SHARE)
    candidates = range(shortest, len(rows) // 2 + 1)
    return next((n for n in candidates if _is_balanced(rows[-n:], rows, names)), shortest)


def _is_balanced(
    part: Sequence[MetricRow], rows: Sequence[MetricRow], names: Sequence[str]
) -> bool:
    """Whether `part` shows every policy equally often in each role that it has in `rows`."""
    for key in (f"{name}/role" for name in names):
        times = Counter(row.get(key) for row in part)
        if len({times[role] for role in {row.get(key) for row in rows}}) > 1:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """Figures under a heading."""

    title: str
    panels: Sequence[Panel]
    note: str = ""
    small: bool = True
    folded: bool = False


def _curves(rows: Sequence[MetricRow], names: Sequence[str], stage: Stage) -> list[_Section]:
    if not rows or not names:
        return []
    colours = {name: index for index, name in enumerate(names)}
    main, collapse, optimiser = (
        [
            curve_panel(
                title,
                caption,
                metric_curves(rows, metric, colours),
                key=metric,
                stage=stage,
                small=curves is not _MAIN_CURVES,
            )
            for metric, title, caption in curves
            if _known(rows, names, metric)
        ]
        for curves in (_MAIN_CURVES, _COLLAPSE_CURVES, _OPTIMISER_CURVES)
    )
    plane = Panel(
        title="Reward against KL",
        caption="Ring: start; dot: now. Up and to the left is better.",
        svg=drawing(plane_svg(rows)),
    )
    sections = [
        _Section(title="Training", note=_reading(rows, names), panels=[*main, plane], small=False),
        _Section(
            title="By round",
            note="What a policy's responses earn in each round, before any penalty.",
            panels=_rounds(rows, names, colours, stage),
        ),
        _Section(title="Signs of collapse", panels=collapse),
        _Section(title="Optimisation", panels=optimiser, folded=True),
        _Section(
            title="By role",
            note="One line per seat, taken by one policy after the other.",
            panels=_roles(rows, names),
        ),
    ]
    return [section for section in sections if section.panels]


def _rounds(
    rows: Sequence[MetricRow], names: Sequence[str], colours: Mapping[str, int], stage: Stage
) -> list[Panel]:
    """What is earned in each round, if there are several."""
    panels: list[Panel] = []
    while _known(rows, names, metric := f"task_reward_{len(panels) + 1}"):
        title, curves = (
            f"Task reward, round {len(panels) + 1}",
            metric_curves(rows, metric, colours),
        )
        panels.append(curve_panel(title, "", curves, key=metric, stage=stage, small=True))
    return panels


def _reading(rows: Sequence[MetricRow], names: Sequence[str]) -> str:
    """Say how the curves are to be read."""
    window, swaps = smoothing_window(len(rows)), role_swaps(rows)
    reading = [f"Bold: mean over {window} iterations; faint: each of them."] if window > 1 else []
    if len(rows) > MOST_POINTS:
        reading.append(
            f"Of {len(rows):,} iterations some {MOST_POINTS:,} are drawn: in every stretch those "
            "with a policy’s lowest and highest value."
        )
    times = "once" if len(swaps) == 1 else f"{len(swaps):,} times"
    if len(swaps) > MOST_SWAPS:
        reading.append(f"Roles were exchanged {times}: too often to be drawn.")
    elif len(names) > 1:
        reading.append("Bands: full colour where a policy is the pioneer, pale where it observes.")
    if 0 < len(swaps) <= MOST_SWAPS:
        reading.append(f"Dotted lines: roles exchanged, {times}.")
    return " ".join(reading)


def _roles(rows: Sequence[MetricRow], names: Sequence[str]) -> list[Panel]:
    """The same curves by role: what a seat earns, whoever sits in it."""
    if len(names) < 2:
        return []
    roles, renamed = by_role(rows)
    colours = {role: len(names) + index for index, role in enumerate(roles)}
    labels = [role.removesuffix("_0") for role in roles]
    return [
        curve_panel(
            title,
            caption,
            metric_curves(renamed, metric, colours, labels),
            key=f"role-{metric}",
            small=True,
        )
        for metric, title, caption in _MAIN_CURVES
        if _known(rows, names, metric)
    ]


def _spread(histograms: Sequence[HistogramRow], stage: Stage, names: Sequence[str]) -> list[Panel]:
    """A map per policy and quantity of how the values of all tokens are spread."""
    return [
        Panel(
            title=f"{title}, {name}",
            caption=caption,
            svg=drawing(heat_map_svg(histograms, stage, name, colour, quantity)),
        )
        for quantity, title, caption in _SPREADS
        for colour, name in enumerate(names)
        if any(f"{name}/{quantity}" in row["counts"] for row in histograms)
    ]


def _known(rows: Sequence[MetricRow], names: Sequence[str], metric: str) -> bool:
    return any(math.isfinite(number(row, f"{name}/{metric}")) for row in rows for name in names)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    note: str
    figures: Table
    rates: Table | None


def _evaluation(evaluation: Mapping[str, object], names: Sequence[str]) -> _Evaluation | None:
    if not evaluation:
        return None
    rows = evaluation_rows(evaluation)
    columns = [(key, title) for key, title in EVALUATION_COLUMNS if any(key in row for row in rows)]
    named = [
        (row, name, "", names.index(name) if name in names else None)
        for row, name in ((row, str(row.get("name", ""))) for row in rows)
    ]
    rates = rate_columns(rows)
    rated = [entry for entry in named if any(key in entry[0] for key, _ in rates)]
    return _Evaluation(
        f"{_asked(evaluation)}{_decoding(evaluation, rows)}; beside each mean its 95 % bootstrap "
        "interval, drawn to one scale per column.",
        evaluation_table(named, columns),
        evaluation_table(rated, rates) if rates else None,
    )


def _asked(evaluation: Mapping[str, object]) -> str:
    if "episodes" in evaluation:  # in an environment of others
        return f"{evaluation['episodes']} episodes a row, actions sampled"
    queries, split = evaluation.get("num_queries", "?"), evaluation.get("split", "?")
    return f"{queries} queries of the {split} split"


def _decoding(evaluation: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> str:
    greedy, samples = evaluation.get("greedy"), evaluation.get("samples")
    decoding = ", answered greedily" if greedy is True else ", sampled" if greedy is False else ""
    if isinstance(samples, int) and samples > 1:
        decoding += f" {samples} times"
    if any(row.get("name") == TEAM for row in rows):
        decoding += ", team: the mean of the policies, alone"
    if any(is_last_iterate(str(row.get("name"))) for row in rows):
        decoding += ", last: weights after the last iteration, where the policy’s are an average"
    return decoding


def train_command(config: Mapping[str, object]) -> str:
    """Return the command line of a run with this configuration; empty if this version has none.

    Flags are what differs from where `train TASK` starts with such a model; its folder is left out.
    """
    try:
        own = TrainConfig.from_json(config)
    except ValueError:
        return ""
    start, _ = starting_values(own.task, model=own.model, adapter=own.adapter)
    parts = (RunConfig(), type(own.algorithm_config)(), type(own.engine_config)())
    begun = {name: value for part in parts for name, value in values_of(part).items()} | start
    # What the start is chosen by has to be named, even where the start has the same.
    plain = RunConfig()
    chosen = {name for name in ("model", "adapter") if getattr(own, name) != getattr(plain, name)}
    words = ["python", "-m", "agents", "train", own.task, *command_line(own.imports)]
    for name, value in own.to_json().items():
        if name in _NO_FLAGS or (value == begun[name] and name not in chosen):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)
