"""The curves of a run as inline SVG.

Every figure is a string of SVG for the body of an HTML page. Colours are CSS variables of that page
(`--ink`, `--muted`, `--grid`, `--policy-0`, …), so that one drawing serves a light and a dark
scheme; text stays text, in the page's font. Equal rows give equal bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from agents.maths.figures import moving_mean, smoothing_window
from agents.records.rows import HistogramRow, MetricRow, number, policy_names
from agents.reports.series import MOST_POINTS, Curves, Line, Stage, thin

NUM_COLOURS = 6
"""Policies beyond this many begin the palette anew."""


# Stand-ins that Matplotlib accepts as colours and that become CSS variables in the SVG.
_INK, _MUTED, _GRID = "#0b0c01", "#0b0c02", "#0b0c03"


_POLICY_STAND_IN = 0x10


_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"} | {
    f"#0b0c{_POLICY_STAND_IN + index:02x}": f"--policy-{index}" for index in range(NUM_COLOURS)
}


_STAND_IN = re.compile("|".join(_VARIABLES))


_WIDTH, _SMALL_WIDTH, _HEIGHT, _SMALL_HEIGHT, _BAND_HEIGHT = 5.0, 3.9, 2.75, 2.3, 0.085  # inches


_LABEL_HEIGHT = 0.15  # inches


_LEFT, _RIGHT, _TOP, _BOTTOM = 0.52, 0.52, 0.1, 0.4  # inches around the axes


_MANY_SWAPS = 20
"""From here on the lines that mark swaps pale, so that they do not hide the curves."""


_PRINT_COLOURS = ("#0072b2", "#d55e00", "#00805e", "#b0518a", "#3a8fbf", "#8a6d00")
"""Those of the page in its light scheme."""


_STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


NUM_STYLES = len(_STYLES)
"""Line styles for configurations of one colour."""


_LEVELS = 8
"""Shades of a heat map."""


_MOST_COLUMNS = 60
"""Longer runs have several iterations to a column of a heat map."""


_SPREAD_TICKS = (-1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 8)


_ROUND_STEPS = (1, 2, 2.5, 5, 10)


def curve_svg(curves: Curves, stage: Stage | None, prefix: str, *, small: bool = False) -> str:
    """Draw lines over iterations, and who had which role.

    A faint line for each iteration's value and a bold one for its moving mean, or a bold line in
    the range of several runs; dotted lines where the policies exchange roles; below, a band per
    policy: full where it is the pioneer, pale where it observes.

    Args:
        curves: at least one line.
        stage: the roles; None for lines that are no policies.
        prefix: what ids begin with.
        small: Draw for three panels in a row rather than two.
    """
    roles = stage.roles if stage is not None and len(stage.roles) > 1 else {}
    size = (_SMALL_WIDTH, _SMALL_HEIGHT) if small else (_WIDTH, _HEIGHT)
    figure, axes = _figure(*size, _BAND_HEIGHT * (len(roles) + 1) if roles else 0.0)
    axes.grid(visible=False, axis="x")
    swaps = stage.swaps if stage is not None else ()
    for swap in swaps:
        line = axes.axvline(swap - 0.5, color=_MUTED, linewidth=0.6, linestyle=(0, (1, 2)))
        line.set_alpha(min(1.0, _MANY_SWAPS / len(swaps)))
        line.set_gid(f"swap-{swap}")
    ends = [end for line in curves.lines for end in _line(axes, curves.iterations, line)]
    _limit_iterations(axes, curves.iterations)
    _mark_zero(axes)
    _label_ends(figure, axes, ends)
    bottom = axes
    if roles:
        axes.tick_params(labelbottom=False)
        bottom = _role_bands(figure, axes, roles)
    _label_iterations(bottom)
    return _svg(figure, prefix)


def heat_map_svg(
    histograms: Sequence[HistogramRow], stage: Stage, policy: str, colour: int, quantity: str
) -> str:
    """Draw the histograms of one policy as columns of cells, the fuller the darker.

    Args:
        histograms: Rows of `histograms.jsonl`.
        stage: For the band that says when the policy is the pioneer.
        policy: Whose.
        colour: Number of its colour.
        quantity: `log_ratio` or `kl`.
    """
    columns = _columns(histograms, f"{policy}/{quantity}")
    edges = histograms[-1]["edges"][quantity]
    figure, axes = _figure(_SMALL_WIDTH, _SMALL_HEIGHT, _BAND_HEIGHT * 2)
    axes.grid(visible=False)
    for level in range(1, _LEVELS + 1):
        cells = [
            Path([(x0, y), (x1, y), (x1, y + 1), (x0, y + 1), (x0, y)], closed=True)
            for x0, x1, shares in columns
            for y, share in enumerate(shares)
            if math.ceil(_LEVELS * math.sqrt(share)) == level
        ]
        if cells:
            patch = PathPatch(
                Path.make_compound_path(*cells),
                facecolor=_policy_colour(colour),
                alpha=level / _LEVELS,
                linewidth=0,
                snap=True,
            )
            axes.add_patch(patch)
    axes.set_ylim(0, len(edges) - 1)
    ticks = [tick for tick in _SPREAD_TICKS if edges[0] <= tick <= edges[-1]]
    heights = [float(np.interp(tick, edges, range(len(edges)))) for tick in ticks]
    axes.set_yticks(heights, [f"{tick:g}".replace("-", "−") for tick in ticks])
    _limit_iterations(axes, [row["iteration"] for row in histograms])
    bottom = axes
    if stage.roles:
        axes.tick_params(labelbottom=False)
        bottom = _role_bands(figure, axes, {policy: stage.roles[policy]}, first_colour=colour)
    _label_iterations(bottom)
    return _svg(figure, f"{policy}-{quantity}-")


def _columns(
    histograms: Sequence[HistogramRow], key: str
) -> list[tuple[float, float, list[float]]]:
    """First and last iteration of each column, widened by half, and the shares of its bins."""
    known = [row for row in histograms if sum(row["counts"].get(key, ())) > 0]
    each = math.ceil(len(known) / _MOST_COLUMNS) or 1
    columns: list[tuple[float, float, list[float]]] = []
    for part in (known[start : start + each] for start in range(0, len(known), each)):
        counts = [sum(bins) for bins in zip(*(row["counts"][key] for row in part), strict=True)]
        shares = [count / sum(counts) for count in counts]
        columns.append((part[0]["iteration"] - 0.5, part[-1]["iteration"] + 0.5, shares))
    return columns


def _line(axes: Axes, iterations: Sequence[int], line: Line) -> Iterator[tuple[float, str, str]]:
    """Draw a line; yield where it ends, its name and colour, if it is one of few."""
    colour = _policy_colour(line.colour)
    known = [i for i, value in enumerate(line.bold) if math.isfinite(value)]
    if not known:
        return
    x = np.array(iterations, dtype=np.float64)
    if len(line.low):
        some = np.array(known)
        low, high = np.array(line.low)[some], np.array(line.high)[some]
        axes.fill_between(x[some], low, high, color=colour, alpha=0.18, linewidth=0)
    if len(line.faint):
        axes.plot(x, line.faint, color=colour, linewidth=0.9, alpha=0.35)
    marker = "o" if len(known) < 3 else None
    # A configuration's runs may have no figure for an iteration that others have.
    bold = (x[known], np.array(line.bold)[known]) if not len(line.faint) else (x, line.bold)
    (drawn,) = axes.plot(*bold, color=colour, linewidth=1.9, marker=marker, markersize=4)
    drawn.set_linestyle(_STYLES[line.style % NUM_STYLES])
    if len(line.faint) and math.isfinite(line.bold[-1]):
        yield line.bold[-1], line.name, colour


def _limit_iterations(axes: Axes, iterations: Sequence[int]) -> None:
    first, last = iterations[0], iterations[-1]
    axes.set_xlim(first - 0.5, max(last, first + 1) + 0.5)
    axes.margins(y=0.06)


def _label_iterations(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=_ROUND_STEPS, integer=True))
    axes.set_xlabel("iteration", labelpad=2)


def plane_svg(rows: Sequence[MetricRow]) -> str:
    """Draw each policy's path through the plane of KL and task reward, smoothed.

    A ring where it starts, a dot where it is now. The further up and to the left, the better.
    """
    figure, axes = _figure(_WIDTH, _HEIGHT, 0.0)
    window = smoothing_window(len(rows))
    ends: list[tuple[float, str, str]] = []
    for index, name in enumerate(policy_names(rows)):
        kl = moving_mean([number(row, f"{name}/kl") for row in rows], window)
        reward = moving_mean([number(row, f"{name}/task_reward") for row in rows], window)
        kept = thin([kl, reward], len(rows), MOST_POINTS)
        points = [(kl[i], reward[i]) for i in kept if math.isfinite(kl[i] + reward[i])]
        if not points:
            continue
        colour = _policy_colour(index)
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4)
        axes.plot(*points[0], "o", markersize=6, markerfacecolor="none", color=colour)
        axes.plot(*points[-1], "o", markersize=6, color=colour)
        ends.append((points[-1][1], name, colour))
    axes.margins(0.06)
    _label_ends(figure, axes, ends)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=_ROUND_STEPS))
    axes.set_xlabel("KL to the reference, nats", labelpad=2)
    return _svg(figure, "plane-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Where the runs of one variant are in the plane of KL and task reward."""

    colour: int
    """Number of the colour."""
    runs: Sequence[tuple[float, float]]
    """(KL, reward) of every run at its end."""
    means: Sequence[tuple[float, float]]
    """(KL, reward) of every setting, the mean over its runs."""


Bound = Sequence[tuple[float, float]]
"""(KL, reward) along a line that no run can pass."""


def clouds_svg(clouds: Sequence[Cloud], bounds: Sequence[Bound] = ()) -> str:
    """Draw runs as dots, and a line through the means of the settings.

    The further up and to the left, the better.

    Args:
        clouds: of the variants.
        bounds: lines above which no run can be.
    """
    figure, axes = _figure(_WIDTH, _HEIGHT, 0.0)
    for bound in bounds:
        axes.plot(*zip(*sorted(bound), strict=True), color=_INK, linewidth=1)
    for cloud in clouds:
        colour = _policy_colour(cloud.colour)
        axes.plot(*zip(*cloud.runs, strict=True), "o", color=colour, alpha=0.5, markersize=4)
        axes.plot(*zip(*sorted(cloud.means), strict=True), "o-", color=colour, markersize=7)
    axes.margins(0.06)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=_ROUND_STEPS))
    axes.set_xlabel("KL to the reference, nats", labelpad=2)
    return _svg(figure, "clouds-")


def curves_png(rows: Sequence[MetricRow], path: FilePath) -> None:
    """Write task reward, KL and combined reward of every policy, smoothed, as a picture."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    iterations = [number(row, "iteration") for row in rows]
    window = smoothing_window(len(rows))
    panels = {"task_reward": "task reward", "kl": "KL, nats", "combined_reward": "combined reward"}
    for axes, (metric, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for index, name in enumerate(policy_names(rows)):
            values = [number(row, f"{name}/{metric}") for row in rows]
            colour = _PRINT_COLOURS[index % NUM_COLOURS]
            axes.plot(iterations, values, color=colour, linewidth=0.8, alpha=0.35)
            axes.plot(iterations, moving_mean(values, window), color=colour, label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float, extra_height: float) -> tuple[Figure, Axes]:
    """A canvas whose main axes have the same size whatever is to be drawn below them."""
    height += extra_height
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_axes(
        (
            _LEFT / width,
            (_BOTTOM + extra_height) / height,
            1 - (_LEFT + _RIGHT) / width,
            1 - (_TOP + _BOTTOM + extra_height) / height,
        )
    )
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=_ROUND_STEPS))
    axes.grid(color=_GRID, linewidth=0.7)
    _dress(axes)
    return figure, axes


def _dress(axes: Axes) -> None:
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, colors=_MUTED, labelsize=9)
    axes.xaxis.label.set(color=_MUTED, fontsize=9)


def _mark_zero(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=_MUTED, linewidth=0.8)


def _label_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each policy's name where its curve ends, pushed apart where two would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * _LABEL_HEIGHT / (axes.get_position().height * figure.get_figheight())
    floor = -math.inf
    for value, name, colour in sorted(ends):
        height = max(value, floor)
        floor = height + gap
        axes.annotate(
            name,
            (1, height),
            (4, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _role_bands(
    figure: Figure,
    axes: Axes,
    roles: Mapping[str, Sequence[tuple[int, int, float]]],
    first_colour: int = 0,
) -> Axes:
    """One thin band per policy under the curves."""
    box = axes.get_position()
    height = _BAND_HEIGHT * len(roles) / figure.get_figheight()
    gap = _BAND_HEIGHT / figure.get_figheight()
    bands = figure.add_axes((box.x0, box.y0 - gap - height, box.width, height))
    for index, stretches in enumerate(roles.values()):
        for first, last, opacity in stretches:
            bands.broken_barh(
                [(first - 0.5, last - first + 1)],
                (-index - 0.42, 0.84),
                color=_policy_colour(first_colour + index),
                alpha=opacity,
                linewidth=0,
            )
    bands.set_xlim(axes.get_xlim())
    bands.set_ylim(-len(roles) + 0.5, 0.5)
    bands.set_yticks([])
    _dress(bands)
    return bands


def _policy_colour(index: int) -> str:
    return f"#0b0c{_POLICY_STAND_IN + index % NUM_COLOURS:02x}"


def _svg(figure: Figure, prefix: str) -> str:
    """Write a figure as an `<svg>` element whose ids begin with `prefix`."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML needs no namespaces and no fixed size; ids, styles and fonts are the page's; the metadata
    # hold the date.
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', svg, count=1)
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}', svg).replace("url(#", f"url(#{prefix}")
    return _STAND_IN.sub(lambda match: f"var({_VARIABLES[match[0]]})", svg).strip()
