"""The files of a comparison: results.json, two pictures, and one page with table and pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.curves import moving_mean, smoothing_window
from agents.outcomes import Outcome, area_lines, run_mean, summary
from agents.page import document, escaped
from agents.provenance import read_provenance, version_name, versions
from agents.records import MetricRow, number, policy_names, read_metrics, write_atomically
from agents.variants import Job

_PANELS = {"task_reward": "task reward", "kl": "KL, nats", "combined_reward": "combined reward"}
_MARKS = "osD^vP*X<>"
_NAMED = 3
"""Runs of one version that are named."""


def write_findings(jobs: Sequence[Job], outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write `results.json`, `curves.png`, `plane.png` and `compare.html`; return the page."""
    write_atomically(folder / "results.json", json.dumps(list(outcomes), indent=2) + "\n")
    _curves_png(jobs, folder / "curves.png")
    _plane_png(outcomes, folder / "plane.png")
    sections = [
        "<h1>Comparison</h1>",
        "<p>Policies alone on held-out queries. Means over seeds with 95 % bootstrap intervals; p "
        "is of the paired sign-flip test of the combined reward against the first variant.</p>",
        _table(outcomes),
        _areas(outcomes),
        _picture(
            folder / "plane.png",
            "Task reward against KL, every run, with dots along training; a line joins the means",
        ),
        _picture(folder / "curves.png", "Training: every run, and the mean of a variant"),
        _items("Code", version_lines(jobs)),
    ]
    write_atomically(folder / "compare.html", document("Comparison", sections))
    return folder / "compare.html"


def _table(outcomes: Sequence[Outcome]) -> str:
    heads = ("variant", "setting", "runs", "reward", "KL", "combined", "distinct-2", "collapsed")
    body = ""
    for row in summary(outcomes):
        cells = [row["variant"], row["setting"], str(row["runs"])]
        for figure in ("reward", "kl", "combined"):
            mean, low, high = row[figure]
            cells.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
        cells.append(f"{row['distinct_2'][0]:.2f}")
        cells.append(f"{row['collapsed']} of {row['policies']}")
        cells.append("" if row["p"] is None else f"{row['p']:.3f}")
        body += "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>\n"
    head = "".join(f"<th>{head}</th>" for head in (*heads, "p"))
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def _areas(outcomes: Sequence[Outcome]) -> str:
    if len({outcome["setting"] for outcome in outcomes}) < 2:
        return ""
    return _items("Area that the frontier dominates", area_lines(outcomes))


def version_lines(jobs: Sequence[Job]) -> list[str]:
    """Return which versions of the code made the runs; nothing if it was one."""
    made: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        made.setdefault(versions(read_provenance(job.config.run_folder)), []).append(job)
    if len(made) == 1:
        return []
    lines = ["Several versions of the code made these runs:"]
    for some in made.values():
        more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
        named = ", ".join(job.name for job in some[:_NAMED])
        name = version_name(read_provenance(some[0].config.run_folder))
        lines.append(f"{name}: {named}{more}")
    return lines


def _items(heading: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escaped(line)}</li>\n" for line in lines)
    return f"<h2>{heading}</h2>\n<ul>\n{items}</ul>" if items else ""


def _picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{escaped(caption)}" style="max-width:100%" '
        f'src="data:image/png;base64,{data}"><figcaption>{escaped(caption)}</figcaption></figure>'
    )


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _plane_png(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw every run, dots along its training, and the line through the means of the settings."""
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for index, variant in enumerate(dict.fromkeys(o["variant"] for o in outcomes)):
        own = [outcome for outcome in outcomes if outcome["variant"] == variant]
        colour, mark = f"C{index % 10}", _MARKS[index % len(_MARKS)]
        points = [(run_mean(o, "kl"), run_mean(o, "reward")) for o in own]
        axes.scatter(*zip(*points, strict=True), s=14, color=colour, alpha=0.5, marker=mark)
        for run in own:
            if run["path"]:
                rewards, kls = zip(*run["path"], strict=True)
                axes.scatter(kls, rewards, s=2, color=colour, alpha=0.25, linewidths=0)
        means = [
            np.mean([p for p, o in zip(points, own, strict=True) if o["setting"] == s], axis=0)
            for s in dict.fromkeys(o["setting"] for o in own)
        ]
        line = sorted((float(kl), float(reward)) for kl, reward in means)
        axes.plot(*zip(*line, strict=True), color=colour, marker=mark, label=variant)
    _dress(axes, "KL to the reference, nats", "task reward")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _curves_png(jobs: Sequence[Job], path: Path) -> None:
    """Draw reward, KL and combined reward over iterations: all runs, and each variant's mean."""
    groups: dict[str, list[list[MetricRow]]] = {}
    for job in jobs:
        label = " ".join(filter(None, (job.variant, job.setting)))
        groups.setdefault(label, []).append(read_metrics(job.config.run_folder / "metrics.jsonl"))
    figure = _figure(12, 3.6)
    for axes, (metric, title) in zip(figure.subplots(1, 3), _PANELS.items(), strict=True):
        for index, (label, runs) in enumerate(groups.items()):
            curves = [[_over_policies(row, metric) for row in rows] for rows in runs]
            for curve in curves:
                axes.plot(curve, color=f"C{index % 10}", linewidth=0.5, alpha=0.3)
            length = min(map(len, curves))
            mean = np.mean([curve[:length] for curve in curves], axis=0).tolist()
            smooth = moving_mean(mean, smoothing_window(length))
            axes.plot(smooth, color=f"C{index % 10}", label=label)
        _dress(axes, "iteration", title)
    figure.axes[-1].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)


def _over_policies(row: MetricRow, metric: str) -> float:
    names = policy_names([row])
    return float(np.mean([number(row, f"{name}/{metric}") for name in names]))
