"""`report.html`: a run on one page that needs no network, no server and no script.

Leaves out what a run folder does not hold, so an unfinished run has a report too. Equal folders
give equal bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.config.budget import Budget
from agents.maths.figures import finite_mean, finite_sum, smoothing_window, wall_time
from agents.records.folder import RunFolder
from agents.records.provenance import Entry
from agents.records.rows import (
    TEAM,
    HistogramRow,
    MetricRow,
    SampleRow,
    is_last_iterate,
    is_reference,
    number,
    policy_names,
    role_swaps,
    write_atomically,
)
from agents.records.view import RunFiles, read_run
from agents.reports.html import (
    EVALUATION_COLUMNS,
    colour_class,
    column_scale,
    cost_facts,
    document,
    escaped,
    evaluation_rows,
    interval_cell,
    interval_of,
    panel,
    rate_columns,
    rounded,
    value_text,
)
from agents.reports.svg import curve_svg, heat_map_svg, plane_svg, role_curve_svg

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


_HEADLINE_SHARE = 10
"""The headline shows means over the last tenth of the iterations."""


_OPEN_QUERIES = 3
"""Queries whose texts are unfolded when the page opens."""


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run and return its path.

    Args:
        run: The run folder.
        out: Where to write; None for `report.html` in the run folder.

    Raises:
        ValueError: The folder holds no run, or a file in it is not what a run writes.
    """
    path = out or RunFolder(run).report_path
    write_atomically(path, _page(read_run(run)))
    return path


def _page(run: RunFiles) -> str:
    names = policy_names(run.rows)
    sections = [
        _header(run.folder.name, run.config, run.rows),
        _headline(run.rows, names),
        _curves(run.rows, names),
        _roles(run.rows, names),
        _spread(run.histograms, run.rows, names),
        _evaluation(run.evaluation, names),
        _texts(run.samples, names),
        _configuration(run.config),
        _made_by(run.provenance),
    ]
    return document(_title(run.folder.name, run.config), sections)


def _title(name: str, config: Mapping[str, object]) -> str:
    parts = [str(config[key]) for key in ("task", "algorithm") if config.get(key)]
    return " · ".join(parts) or name


def _header(name: str, config: Mapping[str, object], rows: Sequence[MetricRow]) -> str:
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
    badge = "" if finished else ' <span class="badge">unfinished</span>'
    return (
        f'<header>\n<p class="eyebrow">Run {escaped(name)}</p>\n'
        f"<h1>{escaped(_title(name, config))}{badge}</h1>\n"
        f"<p>{' · '.join(escaped(fact) for fact in facts)}</p>\n</header>"
    )


def _planned(config: Mapping[str, object], rows: Sequence[MetricRow], done: int) -> int:
    """How many iterations the run will have, as far as its files say."""
    if rows and (text := str(config.get("budget") or "")):
        return Budget.of(text).planned(done, rows[-1])
    planned = config.get("iterations")
    return planned if isinstance(planned, int) else done


def _headline(rows: Sequence[MetricRow], names: Sequence[str]) -> str:
    if not rows:
        return '<p class="note">No iteration has finished yet.</p>'
    window = _last_window(rows, names)
    cards = "".join(
        f'<article class="card {colour_class(index)}">\n<h3>{escaped(name)}</h3>\n<dl>'
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
    end = finite_mean(number(row, key) for row in rows[-window:])
    return (
        f"<div><dt>{label}</dt><dd><strong>{rounded(end)}</strong></dd>"
        f'<dd class="from">from {rounded(number(rows[0], key))}</dd></div>'
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
    plane = panel(
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


def _roles(rows: Sequence[MetricRow], names: Sequence[str]) -> str:
    """The same curves by role: what a seat earns, whoever sits in it."""
    if not rows or len(names) < 2:
        return ""
    panels = "".join(
        panel(title, caption, role_curve_svg(rows, metric))
        for metric, title, caption in _MAIN_CURVES
        if _known(rows, names, metric)
    )
    return (
        '<section>\n<h2>By role</h2>\n<p class="note">One line per seat, taken by one policy after '
        f'the other.</p><div class="panels small">{panels}</div>\n</section>'
    )


def _spread(
    histograms: Sequence[HistogramRow], rows: Sequence[MetricRow], names: Sequence[str]
) -> str:
    """A map per policy and quantity of how the values of all tokens are spread."""
    panels = "".join(
        panel(f"{title}, {escaped(name)}", caption, heat_map_svg(histograms, rows, name, quantity))
        for quantity, title, caption in _SPREADS
        for name in names
        if any(f"{name}/{quantity}" in row["counts"] for row in histograms)
    )
    return (
        '<section>\n<h2>Spread over the tokens</h2>\n<p class="note">Each column is a histogram: '
        "the darker, the larger the share of the iteration’s tokens. Bins are finer near 0; what "
        "lies beyond counts in the last one.</p>\n"
        f'<div class="panels">{panels}</div>\n</section>'
        if panels
        else ""
    )


def _known(rows: Sequence[MetricRow], names: Sequence[str], metric: str) -> bool:
    return any(math.isfinite(number(row, f"{name}/{metric}")) for row in rows for name in names)


def _curve_panel(
    rows: Sequence[MetricRow],
    names: Sequence[str],
    metric: str,
    title: str,
    caption: str,
    *,
    small: bool = False,
) -> str:
    known = _known(rows, names, metric)
    return panel(title, caption, curve_svg(rows, metric, small=small)) if known else ""


def _evaluation(evaluation: Mapping[str, object], names: Sequence[str]) -> str:
    if not evaluation:
        return ""
    rows = evaluation_rows(evaluation)
    columns = [(key, title) for key, title in EVALUATION_COLUMNS if any(key in row for row in rows)]
    tables = _evaluation_table(rows, names, columns)
    if rates := rate_columns(rows):
        tables += (
            '\n<p class="note">Task reward again: of k tries the best (pass@k), what most of them '
            "answer (majority@k), the most probable response (greedy), and what reading a partner "
            f"adds.</p>\n{_evaluation_table(rows, names, rates)}"
        )
    greedy, samples = evaluation.get("greedy"), evaluation.get("samples")
    decoding = ", answered greedily" if greedy is True else ", sampled" if greedy is False else ""
    if isinstance(samples, int) and samples > 1:
        decoding += f" {samples} times"
    if any(row.get("name") == TEAM for row in rows):
        decoding += ", team: the mean of the policies, alone"
    if any(is_last_iterate(str(row.get("name"))) for row in rows):
        decoding += ", last: weights after the last iteration, where the policy’s are an average"
    return (
        "<section>\n<h2>Evaluation</h2>\n"
        f'<p class="note">{escaped(evaluation.get("num_queries", "?"))} queries of the '
        f"{escaped(evaluation.get('split', '?'))} split{decoding}; beside each mean its 95 % "
        f"bootstrap interval, drawn to one scale per column.</p>\n{tables}\n</section>"
    )


def _evaluation_table(
    rows: Sequence[Mapping[str, object]],
    names: Sequence[str],
    columns: Sequence[tuple[str, str]],
) -> str:
    scales = {key: column_scale(interval_of(row, key) for row in rows) for key, _ in columns}
    head = "".join(f'<th scope="col">{title}</th>' for _, title in columns)
    body: list[str] = []
    for row in rows:
        name = str(row.get("name", ""))
        colour = colour_class(names.index(name)) if name in names else ""
        cells = "".join(interval_cell(interval_of(row, key), scales[key]) for key, _ in columns)
        body.append(f'<tr class="{colour}"><th scope="row">{escaped(name)}</th>{cells}</tr>\n')
    return (
        f'<div class="wide"><table class="evaluation">\n<thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(body)}</tbody></table></div>"
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
    reference = [row for row in rows if is_reference(row["policy"])]
    policies = list(dict.fromkeys([*names, *sorted({row["policy"] for row in rows})]))
    columns: list[str] = []
    for policy in policies:
        own = sorted(
            (row for row in rows if row["policy"] == policy and not is_reference(policy)),
            key=lambda row: row["iteration"],
        )
        if own:
            colour = colour_class(names.index(policy)) if policy in names else ""
            columns.append(
                f'<div class="{colour}"><h4>{escaped(policy)}</h4>\n<ol>\n'
                + "".join(_sample(row, f"after {row['iteration']}") for row in own)
                + "</ol></div>"
            )
    return (
        f"<details{' open' if unfolded else ''}>"
        f'<summary class="query">{escaped(query)}</summary>\n'
        f'<ol class="reference">{"".join(_sample(row, row["policy"]) for row in reference)}</ol>\n'
        f'<div class="texts">{"".join(columns)}</div></details>'
    )


def _sample(row: SampleRow, when: str) -> str:
    role = "" if row["role"] == "alone" else f" · {row['role']}"
    return (
        f'<li><span class="when">{escaped(when + role)}</span>'
        f'<span class="reward">{rounded(number(row, "task_reward"))}</span>'
        f'<p class="response">{escaped(row["response"].strip())}</p></li>\n'
    )


def _configuration(config: Mapping[str, object]) -> str:
    if not config:
        return ""
    return (
        "<section>\n<details open><summary><h2>Configuration</h2></summary>\n"
        f"{_definitions(config)}</details>\n</section>"
    )


def _made_by(entries: Sequence[Entry]) -> str:
    lists = "".join(_definitions(entry) for entry in entries)
    return f"<section>\n<h2>Made by</h2>\n{lists}</section>" if lists else ""


def _definitions(values: Mapping[str, object]) -> str:
    entries = "".join(
        f"<div><dt>{escaped(key)}</dt><dd>{escaped(value_text(value))}</dd></div>\n"
        for key, value in values.items()
    )
    return f'<dl class="configuration">\n{entries}</dl>\n'
