"""One page about several runs: what differs between them, their figures, curves and texts.

Runs that differ in nothing but the seed are one configuration, drawn as one curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.curves import Band, band_svg
from agents.page import (
    EVALUATION_COLUMNS,
    RunFiles,
    colour_class,
    column_scale,
    document,
    escaped,
    evaluation_rows,
    finite_mean,
    interval_cell,
    interval_of,
    panel,
    read_run,
    rounded,
    value_text,
)
from agents.records import (
    REFERENCE,
    SampleRow,
    by_role,
    is_reference,
    number,
    policy_names,
    write_atomically,
)

_CURVES = (
    ("task_reward", "Task reward", "What responses earn, before any penalty."),
    ("kl", "KL to the reference", "Nats, summed over a response."),
    ("combined_reward", "Combined reward", "Task reward − η · KL. Only equal η can be compared."),
    ("distinct_2", "Distinct-2", "Share of different word pairs. Low: the same words again."),
)
_NOT_DECIDING = {"seed", "out", "trackers", "save_every", "keep", "sample_every"}
"""Fields in which runs of one configuration may differ."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A run on the page."""

    run: RunFiles
    label: str
    """Different for every run."""
    group: int
    """Number of its configuration."""


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of several runs and return its path.

    Raises:
        ValueError: A folder holds no run, or is named twice.
    """
    folders = [run.resolve() for run in runs]
    twice = next((run for run in runs if folders.count(run.resolve()) > 1), None)
    if twice is not None:
        raise ValueError(f"Expected every run once, got {twice} more often.")
    labels = _labels(folders)
    configs: list[dict[str, object]] = []
    entries: list[_Entry] = []
    for folder, label in zip(folders, labels, strict=True):
        run = read_run(folder)
        config = {key: v for key, v in run.config.items() if key not in _NOT_DECIDING}
        if config not in configs:
            configs.append(config)
        entries.append(_Entry(run, label, configs.index(config)))
    sections = [
        _header(entries, len(configs)),
        _differences(entries),
        _curves(entries),
        _figures(entries),
        _texts(entries),
    ]
    write_atomically(out, document(f"{len(runs)} runs", sections))
    return out


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    length, labels = 1, [folder.name for folder in folders]
    while len(set(labels)) < len(labels):
        length += 1
        labels = ["/".join(folder.parts[-length:]) for folder in folders]
    return labels


def _group_label(entries: Sequence[_Entry], group: int) -> str:
    """What is unlike the other configurations; the run's name where nothing is."""
    own = [entry for entry in entries if entry.group == group]
    fields = [key for key in _differing(entries) if key not in _NOT_DECIDING]
    values = [f"{key} {value_text(own[0].run.config.get(key))}" for key in fields]
    return ", ".join(values) or own[0].label


def _differing(entries: Sequence[_Entry]) -> list[str]:
    """The fields of the configuration that have more than one value, `out` left out."""
    keys = dict.fromkeys(key for entry in entries for key in entry.run.config)
    return [
        key
        for key in keys
        if key != "out"
        and any(entry.run.config.get(key) != entries[0].run.config.get(key) for entry in entries)
    ]


def _header(entries: Sequence[_Entry], num_groups: int) -> str:
    tasks = dict.fromkeys(str(entry.run.config.get("task", "?")) for entry in entries)
    configurations = "one configuration" if num_groups == 1 else f"{num_groups} configurations"
    return (
        f'<header>\n<p class="eyebrow">Comparison</p>\n<h1>{escaped(", ".join(tasks))}</h1>\n'
        f"<p>{len(entries)} runs of {configurations}</p>\n</header>"
    )


def _differences(entries: Sequence[_Entry]) -> str:
    fields = _differing(entries)
    head = "".join(f'<th scope="col">{escaped(field)}</th>' for field in fields)
    body = "".join(
        f'<tr class="{colour_class(entry.group)}"><th scope="row">{escaped(entry.label)}</th>'
        + "".join(f"<td>{escaped(value_text(entry.run.config.get(f, '–')))}</td>" for f in fields)
        + f"<td>{len(entry.run.rows)}</td></tr>\n"
        for entry in entries
    )
    return (
        '<section>\n<h2>What differs</h2>\n<p class="note">Fields of the configuration that are '
        "not the same in all runs; runs of one colour differ in the seed alone.</p>\n"
        f'<div class="wide"><table><thead><tr><th></th>{head}<th scope="col">done</th></tr></thead>'
        f"\n<tbody>\n{body}</tbody></table></div>\n</section>"
    )


def _curves(entries: Sequence[_Entry]) -> str:
    groups = sorted({entry.group for entry in entries})
    legend = "".join(
        f'<li class="{colour_class(group)}">{escaped(_group_label(entries, group))}</li>'
        for group in groups
    )
    panels, by_seat = "", ""
    for metric, title, caption in _CURVES:
        bands = [_band(entries, group, metric) for group in groups]
        if any(band.lines for band in bands):
            panels += panel(title, caption, band_svg(bands, f"all-{metric}-"))
    for role in _roles(entries):
        bands = [_band(entries, group, "task_reward", role) for group in groups]
        title = f"Task reward of {escaped(role.removesuffix('_0'))}"
        if any(band.lines for band in bands):
            svg = band_svg(bands, f"{len(by_seat)}-role-")
            by_seat += panel(title, "Whoever has the role.", svg)
    if not panels:
        return ""
    seats = f'<div class="panels small seats">{by_seat}</div>' if by_seat else ""
    return (
        '<section>\n<h2>Training</h2>\n<p class="note">A line is the mean over a configuration’s '
        "seeds of the mean over the policies, smoothed as in the page of a run; its band reaches "
        "from the lowest to the highest seed.</p>\n"
        f'<ul class="legend">{legend}</ul>\n<div class="panels">{panels}</div>\n{seats}</section>'
    )


def _roles(entries: Sequence[_Entry]) -> list[str]:
    """All roles, if there is more than one."""
    roles = dict.fromkeys(role for entry in entries for role in by_role(entry.run.rows)[0])
    return list(roles) if len(roles) > 1 else []


def _band(entries: Sequence[_Entry], group: int, metric: str, role: str | None = None) -> Band:
    """One line per seed of a configuration: a metric averaged over policies, or of one role."""
    lines: list[dict[int, float]] = []
    for run in (entry.run for entry in entries if entry.group == group):
        names, rows = ([role], by_role(run.rows)[1]) if role else (policy_names(run.rows), run.rows)
        line = {
            int(number(row, "iteration")): finite_mean(
                number(row, f"{name}/{metric}") for name in names
            )
            for row in rows
        }
        if any(math.isfinite(value) for value in line.values()):
            lines.append(line)
    return Band(group, lines)


def _figures(entries: Sequence[_Entry]) -> str:
    known = [entry for entry in entries if entry.run.evaluation]
    rows = [(entry, row) for entry in known for row in evaluation_rows(entry.run.evaluation)]
    if not rows:
        return ""
    keys = [key for key, _ in EVALUATION_COLUMNS]
    scales = {key: column_scale(interval_of(row, key) for _, row in rows) for key in keys}
    head = "".join(f'<th scope="col">{title}</th>' for _, title in EVALUATION_COLUMNS)
    body = "".join(
        f'<tr class="{colour_class(entry.group)}"><th scope="row">{escaped(entry.label)}<br>'
        f'<span class="when">{escaped(row.get("name", ""))}</span></th>'
        + "".join(interval_cell(interval_of(row, key), scales[key]) for key in keys)
        + "</tr>\n"
        for entry, row in rows
    )
    hows = dict.fromkeys(_how(entry.run.evaluation) for entry in known)
    unlike = " The runs were not scored alike." if len(hows) > 1 else ""
    return (
        f'<section>\n<h2>Evaluation</h2>\n<p class="note">{escaped("; ".join(hows))}.{unlike} '
        "Beside each mean its 95 % bootstrap interval.</p>\n"
        f'<div class="wide"><table class="evaluation">\n<thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n</section>"
    )


def _how(evaluation: Mapping[str, object]) -> str:
    decoding = "greedy" if evaluation.get("greedy") else "sampled"
    return f"{evaluation.get('num_queries')} queries of {evaluation.get('split')}, {decoding}"


def _texts(entries: Sequence[_Entry]) -> str:
    queries = dict.fromkeys(row["query"] for entry in entries for row in entry.run.samples)
    blocks = "".join(_query_block(query, entries) for query in queries)
    return (
        '<section>\n<h2>The same queries</h2>\n<p class="note">The last texts of every run, each '
        f"policy alone, below one of a reference.</p>\n{blocks}</section>"
        if queries
        else ""
    )


def _query_block(query: str, entries: Sequence[_Entry]) -> str:
    reference, columns = "", ""
    for entry in entries:
        rows = [row for row in entry.run.samples if row["query"] == query]
        latest: dict[str, SampleRow] = {}
        for row in sorted(rows, key=lambda row: row["iteration"]):
            latest[row["policy"]] = row
        if not reference and REFERENCE in latest:
            reference = _sample(latest[REFERENCE], REFERENCE)
        items = "".join(
            _sample(row, f"{policy}, after {row['iteration']}")
            for policy, row in sorted(latest.items())
            if not is_reference(policy)
        )
        if items:
            columns += (
                f'<div class="{colour_class(entry.group)}"><h4>{escaped(entry.label)}</h4>\n'
                f"<ol>\n{items}</ol></div>"
            )
    return (
        f'<details open><summary class="query">{escaped(query)}</summary>\n'
        f'<ol class="reference">{reference}</ol>\n<div class="texts">{columns}</div></details>\n'
    )


def _sample(row: Mapping[str, object], title: str) -> str:
    return (
        f'<li><span class="when">{escaped(title)}</span>'
        f'<span class="reward">{rounded(number(row, "task_reward"))}</span>'
        f'<p class="response">{escaped(str(row["response"]).strip())}</p></li>\n'
    )
