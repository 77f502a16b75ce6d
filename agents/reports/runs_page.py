"""One page about several runs: what differs between them, their figures, curves and texts.

Runs that differ in nothing but the seed are one configuration, drawn as one curve.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

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
from agents.reports.html import (
    EVALUATION_COLUMNS,
    colour_class,
    column_scale,
    document,
    escaped,
    evaluation_rows,
    interval_cell,
    interval_of,
    panel,
    rounded,
    value_text,
)
from agents.reports.svg import NUM_COLOURS, NUM_STYLES, Band, band_svg

_CURVES = (
    ("task_reward", "Task reward", "What responses earn, before any penalty."),
    ("kl", "KL to the reference", "Nats, summed over a response."),
    ("combined_reward", "Combined reward", "Task reward − η · KL. Only equal η can be compared."),
    ("distinct_2", "Distinct-2", "Share of different word pairs. Low: the same words again."),
)


_NOT_DECIDING = {"seed", "out", "trackers", "save_every", "keep", "sample_every"}
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


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of several runs and return its path.

    Raises:
        ValueError: A folder holds no run, or is named twice.
    """
    folders = [run.resolve() for run in runs]
    twice = next((run for run in runs if folders.count(run.resolve()) > 1), None)
    if twice is not None:
        raise ValueError(f"Expected every run once, got {twice} more often.")
    return write_page(_entries(folders), out)


def write_page(entries: Sequence[Entry], out: Path, lead: Sequence[str] = ()) -> Path:
    """Write the page of some runs and return its path.

    Args:
        entries: The runs, those of one configuration with one name and colour.
        out: The file.
        lead: Sections that come before those about the runs.
    """
    sections = [
        _header(entries),
        *lead,
        _differences(entries, out.resolve().parent),
        _curves(entries),
        _figures(entries),
        _texts(entries),
    ]
    write_atomically(out, document(f"{len(entries)} runs", sections))
    return out


def _entries(folders: Sequence[Path]) -> list[Entry]:
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


def _header(entries: Sequence[Entry]) -> str:
    tasks = dict.fromkeys(str(entry.run.config.get("task", "?")) for entry in entries)
    num_groups = len(_groups(entries))
    configurations = "one configuration" if num_groups == 1 else f"{num_groups} configurations"
    return (
        f'<header>\n<p class="eyebrow">Comparison</p>\n<h1>{escaped(", ".join(tasks))}</h1>\n'
        f"<p>{len(entries)} runs of {configurations}</p>\n</header>"
    )


def _section(title: str, note: str, body: str, *, folded: bool = False) -> str:
    """A section, or one whose body is unfolded by a click."""
    text = f'<p class="note">{note}</p>\n{body}'
    if folded:
        text = f"<details><summary><h2>{title}</h2></summary>\n{text}</details>"
    else:
        text = f"<h2>{title}</h2>\n{text}"
    return f"<section>\n{text}\n</section>"


def _link(entry: Entry, base: Path) -> str:
    """The label of a run, which leads to its own page where it has one."""
    page = entry.run.folder.report_path
    if not page.is_file():
        return escaped(entry.label)
    address = quote(Path(os.path.relpath(page.resolve(), base)).as_posix())
    return f'<a href="{address}">{escaped(entry.label)}</a>'


def _differences(entries: Sequence[Entry], base: Path) -> str:
    fields = _differing([entry.run for entry in entries])
    head = "".join(f'<th scope="col">{escaped(field)}</th>' for field in fields)
    body = "".join(
        f'<tr class="{colour_class(entry.colour)}"><th scope="row">{_link(entry, base)}</th>'
        + "".join(f"<td>{escaped(value_text(entry.run.config.get(f, '–')))}</td>" for f in fields)
        + f"<td>{len(entry.run.rows)}</td></tr>\n"
        for entry in entries
    )
    return _section(
        "What differs",
        "Fields of the configuration that are not the same in all runs. A name leads to the page "
        "of its run.",
        f'<div class="wide"><table><thead><tr><th></th>{head}<th scope="col">done</th></tr></thead>'
        f"\n<tbody>\n{body}</tbody></table></div>",
        folded=len(entries) >= _MANY_RUNS,
    )


def legend(entries: Sequence[Entry]) -> str:
    """Return the names of the configurations in the colours and styles of their lines."""
    items = "".join(
        f'<li class="{colour_class(own[0].colour)} style-{own[0].style % NUM_STYLES}">'
        f"{escaped(group)}</li>"
        for group, own in _groups(entries).items()
    )
    return f'<ul class="legend">{items}</ul>\n'


def _curves(entries: Sequence[Entry]) -> str:
    groups = _groups(entries).values()
    panels, by_seat = "", ""
    for metric, title, caption in _CURVES:
        bands = [_band(own, metric) for own in groups]
        if any(band.lines for band in bands):
            panels += panel(title, caption, band_svg(bands, f"all-{metric}-"))
    for role in _roles(entries):
        bands = [_band(own, "task_reward", role) for own in groups]
        title = f"Task reward of {escaped(role.removesuffix('_0'))}"
        if any(band.lines for band in bands):
            svg = band_svg(bands, f"{len(by_seat)}-role-")
            by_seat += panel(title, "Whoever has the role.", svg)
    if not panels:
        return ""
    seats = f'<div class="panels small seats">{by_seat}</div>' if by_seat else ""
    return _section(
        "Training",
        "A line is the mean over a configuration’s seeds of the mean over the policies, smoothed "
        "as in the page of a run; its band reaches from the lowest to the highest seed.",
        f'{legend(entries)}<div class="panels">{panels}</div>\n{seats}',
    )


def _roles(entries: Sequence[Entry]) -> list[str]:
    """All roles, if there is more than one."""
    roles = dict.fromkeys(role for entry in entries for role in by_role(entry.run.rows)[0])
    return list(roles) if len(roles) > 1 else []


def _band(own: Sequence[Entry], metric: str, role: str | None = None) -> Band:
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
    return Band(own[0].colour, lines, own[0].style)


def _figures(entries: Sequence[Entry]) -> str:
    known = [entry for entry in entries if entry.run.evaluation]
    rows = [(entry, row) for entry in known for row in evaluation_rows(entry.run.evaluation)]
    if not rows:
        return ""
    keys = [key for key, _ in EVALUATION_COLUMNS]
    scales = {key: column_scale(interval_of(row, key) for _, row in rows) for key in keys}
    head = "".join(f'<th scope="col">{title}</th>' for _, title in EVALUATION_COLUMNS)
    body = "".join(
        f'<tr class="{colour_class(entry.colour)}"><th scope="row">{escaped(entry.label)}<br>'
        f'<span class="when">{escaped(row.get("name", ""))}</span></th>'
        + "".join(interval_cell(interval_of(row, key), scales[key]) for key in keys)
        + "</tr>\n"
        for entry, row in rows
    )
    hows = dict.fromkeys(_how(entry.run.evaluation) for entry in known)
    unlike = " The runs were not scored alike." if len(hows) > 1 else ""
    return _section(
        "Evaluation of every run",
        f"{escaped('; '.join(hows))}.{unlike} Beside each mean its 95 % bootstrap interval over "
        "queries.",
        f'<div class="wide"><table class="evaluation">\n<thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>",
        folded=len(entries) >= _MANY_RUNS,
    )


def _how(evaluation: Mapping[str, object]) -> str:
    decoding = "greedy" if evaluation.get("greedy") else "sampled"
    return f"{evaluation.get('num_queries')} queries of {evaluation.get('split')}, {decoding}"


def _texts(entries: Sequence[Entry]) -> str:
    queries = dict.fromkeys(row["query"] for entry in entries for row in entry.run.samples)
    few = len(entries) < _MANY_RUNS
    blocks = "".join(
        _query_block(query, entries, unfolded=few or not place)
        for place, query in enumerate(queries)
    )
    note = "The last texts of every run, each policy alone, below one of a reference."
    return _section("The same queries", note, blocks) if queries else ""


def _query_block(query: str, entries: Sequence[Entry], *, unfolded: bool) -> str:
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
                f'<div class="{colour_class(entry.colour)}"><h4>{escaped(entry.label)}</h4>\n'
                f"<ol>\n{items}</ol></div>"
            )
    return (
        f'<details{" open" * unfolded}><summary class="query">{escaped(query)}</summary>\n'
        f'<ol class="reference">{reference}</ol>\n<div class="texts">{columns}</div></details>\n'
    )


def _sample(row: Mapping[str, object], title: str) -> str:
    return (
        f'<li><span class="when">{escaped(title)}</span>'
        f'<span class="reward">{rounded(number(row, "task_reward"))}</span>'
        f'<p class="response">{escaped(str(row["response"]).strip())}</p></li>\n'
    )
