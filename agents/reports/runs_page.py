"""One page about several runs: what differs between them, their figures, curves and texts.

Runs that differ in nothing but the seed are one configuration, drawn as one curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from agents.maths.figures import finite_mean
from agents.records.rows import (
    REFERENCE,
    SampleRow,
    by_role,
    is_reference,
    number,
    policy_names,
    write_atomically,
)
from agents.records.view import RunFiles, read_run
from agents.reports.page import Link, Panel, address, curve_panel, file_links, render
from agents.reports.run_page import train_command
from agents.reports.series import Group, group_curves
from agents.reports.svg import NUM_COLOURS, NUM_STYLES
from agents.reports.tables import (
    EVALUATION_COLUMNS,
    Table,
    evaluation_rows,
    evaluation_table,
    value_text,
)
from agents.reports.texts import Column, Query, text_of

_CURVES = (
    ("task_reward", "Task reward", "What responses earn, before any penalty."),
    ("kl", "KL to the reference", "Nats, summed over a response."),
    ("combined_reward", "Combined reward", "Task reward − η · KL. Only equal η can be compared."),
    ("distinct_2", "Distinct-2", "Share of different word pairs. Low: the same words again."),
)


_NOT_DECIDING = {"seed", "out", "trackers", "save_every", "keep", "sample_every", "sample_queries"}
"""Fields in which runs of one configuration may differ."""


_MANY_RUNS = 8
"""From here on what there is of every single run is folded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run on the page."""

    run: RunFiles
    label: str
    """Different for every run."""
    group: str
    """What its configuration is called: the runs of one are drawn as one curve."""
    colour: int
    """Number of the colour of its configuration."""
    style: int = 0
    """Number of its line style, for configurations of one colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A name of a legend."""

    name: str
    colour: int
    style: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `compare` has found, which stands before the runs."""

    table: Table
    notes: Sequence[str]
    variants: Sequence[Item]
    plane: Markup
    frontiers: Sequence[str]


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of several runs and return its path.

    Raises:
        ValueError: A folder holds no run, or is named twice.
    """
    folders = [run.resolve() for run in runs]
    twice = next((run for run in runs if folders.count(run.resolve()) > 1), None)
    if twice is not None:
        raise ValueError(f"Expected every run once, got {twice} more often.")
    return write_page(run_entries(folders), out)


def write_page(entries: Sequence[Entry], out: Path, findings: Findings | None = None) -> Path:
    """Write the page of some runs and return its path.

    Args:
        entries: The runs, those of one configuration with one name and colour.
        out: The file.
        findings: What comes before the runs.
    """
    write_atomically(out, runs_page(entries, out.resolve().parent, findings))
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A run as the page shows it."""

    label: str
    colour: int
    address: str
    values: Sequence[str]
    done: int
    files: Sequence[Link]
    command: str


def runs_page(
    entries: Sequence[Entry], base: Path, findings: Findings | None = None, served: str = ""
) -> str:
    """Return the page of some runs.

    Args:
        entries: the runs.
        base: the folder that the page is for.
        findings: what comes before the runs.
        served: where a server has the files, each run's in a folder of its number; empty for a page
            that is a file.
    """
    fields = _differing([entry.run for entry in entries])
    panels, seats = _curves(entries)
    how, evaluation = _figures(entries)
    shown = [
        _shown(entry, fields, base, f"{served}{place}/" if served else "")
        for place, entry in enumerate(entries)
    ]
    return render(
        "runs.html",
        panels=[*panels, *seats],
        live=bool(served),
        findings=findings,
        tasks=dict.fromkeys(str(entry.run.config.get("task", "?")) for entry in entries),
        entries=shown,
        groups=[
            Item(name=name, colour=own[0].colour, style=own[0].style % NUM_STYLES)
            for name, own in _groups(entries).items()
        ],
        many=len(entries) >= _MANY_RUNS,
        fields=fields,
        training=panels,
        seats=seats,
        how=how,
        evaluation=evaluation,
        queries=_queries(entries),
    )


def _shown(entry: Entry, fields: Sequence[str], base: Path, served: str) -> _Shown:
    page, config = entry.run.folder.report_path, entry.run.config
    has_page = page.is_file() and not served
    return _Shown(
        label=entry.label,
        colour=entry.colour,
        address=address(page, base) if has_page else "",
        values=[value_text(config.get(field, "–")) for field in fields],
        done=len(entry.run.rows),
        files=file_links(entry.run.folder, base, served),
        command=train_command(config),
    )


def run_entries(folders: Sequence[Path]) -> list[Entry]:
    """One configuration for all runs that differ in nothing but the seed."""
    runs, labels = [read_run(folder) for folder in folders], _labels(folders)
    configs: list[dict[str, object]] = []
    numbers: list[int] = []
    for run in runs:
        config = {key: v for key, v in run.config.items() if key not in _NOT_DECIDING}
        if config not in configs:
            configs.append(config)
        numbers.append(configs.index(config))
    fields = [key for key in _differing(runs) if key not in _NOT_DECIDING]
    entries: list[Entry] = []
    for run, label, place in zip(runs, labels, numbers, strict=True):
        values = ", ".join(f"{key} {value_text(run.config.get(key))}" for key in fields)
        colour, style = place % NUM_COLOURS, place // NUM_COLOURS
        name = values or labels[numbers.index(place)]
        entries.append(Entry(run=run, label=label, group=name, colour=colour, style=style))
    return entries


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    length, labels = 1, [folder.name for folder in folders]
    while len(set(labels)) < len(labels):
        length += 1
        labels = ["/".join(folder.parts[-length:]) for folder in folders]
    return labels


def _differing(runs: Sequence[RunFiles]) -> list[str]:
    """The fields of the configuration that have more than one value, `out` left out."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [
        key
        for key in keys
        if key != "out" and any(run.config.get(key) != runs[0].config.get(key) for run in runs)
    ]


def _groups(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The runs of every configuration."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    return groups


def _curves(entries: Sequence[Entry]) -> tuple[list[Panel], list[Panel]]:
    """The figures of the means over the policies, and those by role, if there is more than one."""
    groups = list(_groups(entries).values())
    panels = [
        _panel(title, caption, [_group(own, metric) for own in groups], f"all-{metric}")
        for metric, title, caption in _CURVES
    ]
    seats = [
        _panel(
            f"Task reward of {role.removesuffix('_0')}",
            "Whoever has the role.",
            [_group(own, "task_reward", role) for own in groups],
            f"seat-{place}",
        )
        for place, role in enumerate(_roles(entries))
    ]
    return [p for p in panels if p is not None], [p for p in seats if p is not None]


def _panel(title: str, caption: str, groups: Sequence[Group], key: str) -> Panel | None:
    if not any(group.runs for group in groups):
        return None
    return curve_panel(title, caption, group_curves(groups), key=key)


def _roles(entries: Sequence[Entry]) -> list[str]:
    """All roles, if there is more than one."""
    roles = dict.fromkeys(role for entry in entries for role in by_role(entry.run.rows)[0])
    return list(roles) if len(roles) > 1 else []


def _group(own: Sequence[Entry], metric: str, role: str | None = None) -> Group:
    """One line per seed of a configuration: a metric averaged over policies, or of one role."""
    lines: list[dict[int, float]] = []
    for run in (entry.run for entry in own):
        names, rows = ([role], by_role(run.rows)[1]) if role else (policy_names(run.rows), run.rows)
        line = {
            int(number(row, "iteration")): finite_mean(
                number(row, f"{name}/{metric}") for name in names
            )
            for row in rows
        }
        if any(math.isfinite(value) for value in line.values()):
            lines.append(line)
    return Group(name=own[0].group, colour=own[0].colour, runs=lines, style=own[0].style)


def _figures(entries: Sequence[Entry]) -> tuple[str, Table | None]:
    """How the runs were scored, and the figures; None if none was."""
    known = [entry for entry in entries if entry.run.evaluation]
    rows = [
        (row, entry.label, str(row.get("name", "")), entry.colour)
        for entry in known
        for row in evaluation_rows(entry.run.evaluation)
    ]
    if not rows:
        return "", None
    hows = dict.fromkeys(_how(entry.run.evaluation) for entry in known)
    unlike = " The runs were not scored alike." if len(hows) > 1 else ""
    note = f"{'; '.join(hows)}.{unlike} Beside each mean its 95 % bootstrap interval over queries."
    return note, evaluation_table(rows, EVALUATION_COLUMNS)


def _how(evaluation: Mapping[str, object]) -> str:
    decoding = "greedy" if evaluation.get("greedy") else "sampled"
    return f"{evaluation.get('num_queries')} queries of {evaluation.get('split')}, {decoding}"


def _queries(entries: Sequence[Entry]) -> list[Query]:
    queries = dict.fromkeys(row["query"] for entry in entries for row in entry.run.samples)
    return [_query(query, entries) for query in queries]


def _query(query: str, entries: Sequence[Entry]) -> Query:
    columns: list[Column] = []
    reference: SampleRow | None = None
    for entry in entries:
        rows = [row for row in entry.run.samples if row["query"] == query]
        latest: dict[str, SampleRow] = {}
        for row in sorted(rows, key=lambda row: row["iteration"]):
            latest[row["policy"]] = row
        reference = reference or latest.get(REFERENCE)
        texts = [
            text_of(row, f"{policy}, after {row['iteration']}", latest.get(REFERENCE))
            for policy, row in sorted(latest.items())
            if not is_reference(policy)
        ]
        if texts:
            columns.append(Column(name=entry.label, colour=entry.colour, texts=texts))
    first = [text_of(reference, REFERENCE, None)] if reference else []
    return Query(text=query, reference=first, columns=columns)
