"""`report.html`: a run on one page that needs no network, no server and no script.

Reads what a run folder holds (`config.json`, `metrics.jsonl`, `samples.jsonl`, `evaluation.json`)
and leaves out what it does not hold, so an unfinished run has a report too. All text is escaped:
what a model wrote is shown, never obeyed. Equal folders give equal bytes.
"""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from agents.curves import NUM_COLOURS, curve_svg, plane_svg, smoothing_window
from agents.records import (
    REFERENCE,
    MetricRow,
    SampleRow,
    number,
    policy_names,
    printable,
    read_metrics,
    read_samples,
    role_swaps,
    write_atomically,
)

_STYLESHEET = Path(__file__).with_name("report.css")
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
    ("approx_kl", "Approximate KL", "Between the policy before and after an update."),
    ("explained_variance", "Explained variance", "1: the critic foresees the returns; 0: no idea."),
)
_EVALUATION_COLUMNS = (
    ("reward", "Task reward"),
    ("kl", "KL, nats"),
    ("combined", "Combined"),
    ("length", "Length"),
    ("distinct_2", "Distinct-2"),
)
_HEADLINE = (("task_reward", "task reward"), ("kl", "KL, nats"), ("combined_reward", "combined"))
_HEADLINE_SHARE = 10
"""The headline shows means over the last tenth of the iterations."""
_OPEN_QUERIES = 3
"""Queries whose texts are unfolded when the page opens."""


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Raises:
        ValueError: The folder holds no run, or a file in it is not what a run writes.
    """
    config_path, metrics_path = run / "config.json", run / "metrics.jsonl"
    if not config_path.is_file() and not metrics_path.is_file():
        found = (
            "an empty folder" if run.is_dir() else "a file" if run.exists() else "no such folder"
        )
        if run.is_dir() and any(run.iterdir()):
            found = "a folder with neither"
        raise ValueError(
            f"Expected a run folder with config.json and metrics.jsonl at {run}, got {found}. "
            "Give the folder that `python -m agents train TASK --out DIR` wrote to."
        )
    samples_path, evaluation_path = run / "samples.jsonl", run / "evaluation.json"
    page = _page(
        name=run.resolve().name,
        config=_read_object(config_path) if config_path.is_file() else {},
        rows=read_metrics(metrics_path) if metrics_path.is_file() else [],
        samples=read_samples(samples_path) if samples_path.is_file() else [],
        evaluation=_read_object(evaluation_path) if evaluation_path.is_file() else {},
    )
    report_path = run / "report.html"
    write_atomically(report_path, page)
    return report_path


def _page(
    *,
    name: str,
    config: Mapping[str, object],
    rows: Sequence[MetricRow],
    samples: Sequence[SampleRow],
    evaluation: Mapping[str, object],
) -> str:
    names = policy_names(rows)
    sections = [
        _header(name, config, rows),
        _headline(rows, names),
        _curves(rows, names),
        _evaluation(evaluation, names),
        _texts(samples, names),
        _configuration(config),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(_title(name, config))}</title>\n"
        f"<style>\n{_STYLESHEET.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _title(name: str, config: Mapping[str, object]) -> str:
    parts = [str(config[key]) for key in ("task", "algorithm") if config.get(key)]
    return " · ".join(parts) or name


def _header(name: str, config: Mapping[str, object], rows: Sequence[MetricRow]) -> str:
    done = int(number(rows[-1], "iteration")) + 1 if rows else 0
    planned = config.get("iterations")
    finished = not isinstance(planned, int) or done >= planned
    facts = [f"seed {config['seed']}"] if "seed" in config else []
    facts.append(f"{done} iterations" if finished else f"{done} of {planned} iterations")
    if rows:
        facts.append(_wall_time(_sum(number(row, "seconds") for row in rows)))
        rate = _mean(number(row, "tokens_per_second") for row in rows)
        facts += [] if math.isnan(rate) else [f"{rate:,.0f} tokens/s"]
    badge = "" if finished else ' <span class="badge">unfinished</span>'
    return (
        f'<header>\n<p class="eyebrow">Run {_text(name)}</p>\n'
        f"<h1>{_text(_title(name, config))}{badge}</h1>\n"
        f"<p>{' · '.join(_text(fact) for fact in facts)}</p>\n</header>"
    )


def _headline(rows: Sequence[MetricRow], names: Sequence[str]) -> str:
    if not rows:
        return '<p class="note">No iteration has finished yet.</p>'
    window = _last_window(rows, names)
    cards = "".join(
        f'<article class="card {_colour_class(index)}">\n<h3>{_text(name)}</h3>\n<dl>'
        + "".join(_change(rows, f"{name}/{metric}", label, window) for metric, label in _HEADLINE)
        + "</dl>\n</article>\n"
        for index, name in enumerate(names)
    )
    share = "last iteration" if window == 1 else f"mean over the last {window} iterations"
    if role_swaps(rows) and _is_balanced(rows[-window:], rows, names):
        share += ", in which every policy had each role equally often"
    return (
        f'<section aria-label="Start and end">\n<div class="cards">\n{cards}</div>\n'
        f'<p class="note">Large: {share}; “from”: the first iteration, sampled by the untrained '
        "model. All on training queries.</p>\n</section>"
    )


def _change(rows: Sequence[MetricRow], key: str, label: str, window: int) -> str:
    end = _mean(number(row, key) for row in rows[-window:])
    return (
        f"<div><dt>{label}</dt><dd><strong>{_figure(end)}</strong></dd>"
        f'<dd class="from">from {_figure(number(rows[0], key))}</dd></div>'
    )


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


def _curves(rows: Sequence[MetricRow], names: Sequence[str]) -> str:
    if not rows or not names:
        return ""
    window = smoothing_window(len(rows))
    reading = [f"Bold: mean over {window} iterations; faint: each of them."] if window > 1 else []
    if len(names) > 1:
        reading.append("Bands: full colour where a policy is the pioneer, pale where it observes.")
    swaps = role_swaps(rows)
    if swaps:
        times = "once" if len(swaps) == 1 else f"{len(swaps)} times"
        reading.append(f"Dotted lines: roles exchanged, {times}.")
    plane = _panel(
        "Reward against KL",
        "Ring: start; dot: now. Up and to the left is better.",
        plane_svg(rows),
    )
    main = "".join(_curve_panel(rows, names, *curve) for curve in _MAIN_CURVES) + plane
    collapse, optimiser = (
        "".join(_curve_panel(rows, names, *curve, small=True) for curve in curves)
        for curves in (_COLLAPSE_CURVES, _OPTIMISER_CURVES)
    )
    parts = [
        f'<section>\n<h2>Training</h2>\n<p class="note">{" ".join(reading)}</p>',
        f'<div class="panels">{main}</div>\n</section>',
    ]
    if collapse:
        parts.append(
            '<section>\n<h2>Signs of collapse</h2>\n<div class="panels small">'
            f"{collapse}</div>\n</section>"
        )
    if optimiser:
        parts.append(
            "<section>\n<details><summary><h2>Optimisation</h2></summary>\n"
            f'<div class="panels small">{optimiser}</div></details>\n</section>'
        )
    return "\n".join(parts)


def _curve_panel(
    rows: Sequence[MetricRow],
    names: Sequence[str],
    metric: str,
    title: str,
    caption: str,
    *,
    small: bool = False,
) -> str:
    known = any(math.isfinite(number(row, f"{name}/{metric}")) for row in rows for name in names)
    return _panel(title, caption, curve_svg(rows, metric, small=small)) if known else ""


def _panel(title: str, caption: str, svg: str) -> str:
    return (
        f'<figure class="panel"><figcaption><h3>{title}</h3><p>{caption}</p></figcaption>\n'
        f"{svg}</figure>\n"
    )


def _evaluation(evaluation: Mapping[str, object], names: Sequence[str]) -> str:
    if not evaluation:
        return ""
    rows = evaluation.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            "Expected evaluation.json to hold a list of objects as `rows`, got "
            f"{type(rows).__name__}. Run `python -m agents evaluate DIR` again."
        )
    columns = [
        (key, title) for key, title in _EVALUATION_COLUMNS if any(key in row for row in rows)
    ]
    scales = {key: _scale(_triple(row, key) for row in rows) for key, _ in columns}
    head = "".join(f'<th scope="col">{title}</th>' for _, title in columns)
    body: list[str] = []
    for row in rows:
        name = str(row.get("name", ""))
        colour = _colour_class(names.index(name)) if name in names else ""
        cells = "".join(_interval_cell(_triple(row, key), scales[key]) for key, _ in columns)
        body.append(f'<tr class="{colour}"><th scope="row">{_text(name)}</th>{cells}</tr>\n')
    greedy = evaluation.get("greedy")
    decoding = ", answered greedily" if greedy is True else ", sampled" if greedy is False else ""
    return (
        "<section>\n<h2>Evaluation</h2>\n"
        f'<p class="note">{_text(evaluation.get("num_queries", "?"))} queries of the '
        f"{_text(evaluation.get('split', '?'))} split{decoding}; beside each mean its 95 % "
        "bootstrap interval, drawn to one scale per column.</p>\n"
        f'<div class="wide"><table class="evaluation">\n<thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(body)}</tbody></table></div>\n</section>"
    )


def _triple(row: Mapping[str, object], key: str) -> tuple[float, float, float]:
    """A mean and the ends of its interval; NaN what is not there."""
    value = row.get(key)
    parts = cast("list[object]", value) if isinstance(value, list) else []
    mean, low, high = [*(number({"": part}, "") for part in parts), *[math.nan] * 3][:3]
    return mean, low, high


def _scale(triples: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """The lowest and the highest value of a column."""
    finite = [value for triple in triples for value in triple if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _interval_cell(triple: tuple[float, float, float], scale: tuple[float, float]) -> str:
    mean, low, high = triple
    if math.isnan(mean):
        return "<td>–</td>"
    if math.isnan(low) or math.isnan(high):
        return f"<td><strong>{_figure(mean)}</strong></td>"
    span = (scale[1] - scale[0]) or 1.0
    at = [4 + 92 * (value - scale[0]) / span for value in (mean, low, high)]
    return (
        f'<td><strong>{_figure(mean)}</strong> <span class="interval">{_figure(low)} to '
        f'{_figure(high)}</span><svg class="whisker" viewBox="0 0 100 8" aria-hidden="true">'
        f'<line x1="4" x2="96" y1="4" y2="4" class="rail"/>'
        f'<line x1="{at[1]:.1f}" x2="{at[2]:.1f}" y1="4" y2="4" class="range"/>'
        f'<circle cx="{at[0]:.1f}" cy="4" r="3"/></svg></td>'
    )


def _texts(samples: Sequence[SampleRow], names: Sequence[str]) -> str:
    if not samples:
        return ""
    queries: dict[str, list[SampleRow]] = {}
    for row in samples:
        queries.setdefault(row["query"], []).append(row)
    blocks = [
        _query_block(query, rows, names, unfolded=index < _OPEN_QUERIES)
        for index, (query, rows) in enumerate(queries.items())
    ]
    return (
        '<section>\n<h2>The same queries over time</h2>\n<p class="note">Held-out queries; first '
        "the reference's response, then each policy's, with its task reward.</p>\n"
        + "\n".join(blocks)
        + "\n</section>"
    )


def _query_block(
    query: str, rows: Sequence[SampleRow], names: Sequence[str], *, unfolded: bool
) -> str:
    reference = [row for row in rows if row["policy"] == REFERENCE]
    policies = list(dict.fromkeys([*names, *sorted({row["policy"] for row in rows})]))
    columns: list[str] = []
    for policy in policies:
        own = sorted(
            (row for row in rows if row["policy"] == policy and policy != REFERENCE),
            key=lambda row: row["iteration"],
        )
        if own:
            colour = _colour_class(names.index(policy)) if policy in names else ""
            columns.append(
                f'<div class="{colour}"><h4>{_text(policy)}</h4>\n<ol>\n'
                + "".join(_sample(row, f"after {row['iteration']}") for row in own)
                + "</ol></div>"
            )
    return (
        f"<details{' open' if unfolded else ''}>"
        f'<summary class="query">{_text(query)}</summary>\n'
        f'<ol class="reference">{"".join(_sample(row, REFERENCE) for row in reference)}</ol>\n'
        f'<div class="texts">{"".join(columns)}</div></details>'
    )


def _sample(row: SampleRow, when: str) -> str:
    role = "" if row["role"] == "alone" else f" · {row['role']}"
    return (
        f'<li><span class="when">{_text(when + role)}</span>'
        f'<span class="reward">{_figure(number(row, "task_reward"))}</span>'
        f'<p class="response">{_text(row["response"].strip())}</p></li>\n'
    )


def _configuration(config: Mapping[str, object]) -> str:
    if not config:
        return ""
    entries = "".join(
        f"<div><dt>{_text(key)}</dt><dd>{_text(_value(value))}</dd></div>\n"
        for key, value in config.items()
    )
    return (
        "<section>\n<details open><summary><h2>Configuration</h2></summary>\n"
        f'<dl class="configuration">\n{entries}</dl></details>\n</section>'
    )


def _read_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a JSON object in {path}, got {error}. Mend or remove that file."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"Expected a JSON object in {path}, got {type(value).__name__}. "
            "Mend or remove that file."
        )
    return value


def _text(value: object) -> str:
    return html.escape(printable(str(value)), quote=True)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figure(value: float) -> str:
    """Two decimals, two digits below 0.1, with a true minus sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    if 0 < abs(value) < 0.1:
        digits = f"{value:.2g}"
    return digits.replace("-", "−")


def _wall_time(seconds: float) -> str:
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes - 60 * hours} min" if hours else f"{minutes} min"


def _sum(values: Iterable[float]) -> float:
    return sum(value for value in values if math.isfinite(value))


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _colour_class(index: int) -> str:
    return f"policy-{index % NUM_COLOURS}"
