"""The curves of a run as inline SVG.

Every figure is a string of SVG for the body of an HTML page. Colours are CSS variables of that page
(`--ink`, `--muted`, `--grid`, `--policy-0`, …), so that one drawing serves a light and a dark
scheme; text stays text, in the page's font. Equal rows give equal bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agents.records import MetricRow, number, policy_names, role_swaps

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
_SMOOTHING_SHARE = 12
"""A smoothed point is the mean over about this fraction of the run."""
_MANY_SWAPS = 20
"""From here on the lines that mark swaps pale, so that they do not hide the curves."""
_ROUND_STEPS = (1, 2, 2.5, 5, 10)


def curve_svg(rows: Sequence[MetricRow], metric: str, *, small: bool = False) -> str:
    """Draw one metric of every policy over the iterations.

    A faint line for each iteration's value and a bold one for its moving mean; dotted lines where
    the policies exchange roles; below, a band per policy: full where it is the pioneer, pale where
    it observes.

    Args:
        rows: At least one metrics row.
        metric: The part of the key after the policy, e.g. `task_reward`.
        small: Draw for three panels in a row rather than two.
    """
    names = policy_names(rows)
    num_bands = len(names) if len(names) > 1 else 0
    size = (_SMALL_WIDTH, _SMALL_HEIGHT) if small else (_WIDTH, _HEIGHT)
    figure, axes = _figure(*size, _BAND_HEIGHT * (num_bands + 1) if num_bands else 0.0)
    axes.grid(visible=False, axis="x")
    iterations = [number(row, "iteration") for row in rows]
    swaps = role_swaps(rows)
    for swap in swaps:
        line = axes.axvline(swap - 0.5, color=_MUTED, linewidth=0.6, linestyle=(0, (1, 2)))
        line.set_alpha(min(1.0, _MANY_SWAPS / len(swaps)))
        line.set_gid(f"swap-{swap}")
    ends: list[tuple[float, str, str]] = []
    for index, name in enumerate(names):
        values = [number(row, f"{name}/{metric}") for row in rows]
        smoothed = moving_mean(values, smoothing_window(len(rows)))
        colour = _policy_colour(index)
        marker = "o" if len(rows) < 3 else None
        axes.plot(iterations, values, color=colour, linewidth=0.9, alpha=0.35)
        axes.plot(iterations, smoothed, color=colour, linewidth=1.9, marker=marker, markersize=4)
        if math.isfinite(smoothed[-1]):
            ends.append((smoothed[-1], name, colour))
    axes.set_xlim(iterations[0] - 0.5, max(iterations[-1], iterations[0] + 1) + 0.5)
    axes.margins(y=0.06)
    _mark_zero(axes)
    _label_ends(figure, axes, ends)
    bottom = axes
    if num_bands:
        axes.tick_params(labelbottom=False)
        bottom = _role_bands(figure, axes, rows, names)
    bottom.xaxis.set_major_locator(MaxNLocator(7, steps=_ROUND_STEPS, integer=True))
    bottom.set_xlabel("iteration", labelpad=2)
    return _svg(figure, f"{metric}-")


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
        points = [(x, y) for x, y in zip(kl, reward, strict=True) if math.isfinite(x + y)]
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


def smoothing_window(num_rows: int) -> int:
    """The odd number of iterations over which curves of `num_rows` points are smoothed."""
    return 2 * (num_rows // (2 * _SMOOTHING_SHARE)) + 1


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Average over a centred window, cut off at both ends; NaNs do not count."""
    means: list[float] = []
    for centre in range(len(values)):
        share = values[max(0, centre - window // 2) : centre + window // 2 + 1]
        finite = [value for value in share if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


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
    figure: Figure, axes: Axes, rows: Sequence[MetricRow], names: Sequence[str]
) -> Axes:
    """One thin band per policy under the curves."""
    box = axes.get_position()
    height = _BAND_HEIGHT * len(names) / figure.get_figheight()
    gap = _BAND_HEIGHT / figure.get_figheight()
    bands = figure.add_axes((box.x0, box.y0 - gap - height, box.width, height))
    for index, name in enumerate(names):
        for first, last, role in _stretches(rows, f"{name}/role"):
            bands.broken_barh(
                [(first - 0.5, last - first + 1)],
                (-index - 0.42, 0.84),
                color=_policy_colour(index),
                alpha=_role_opacity(role),
                linewidth=0,
            )
    bands.set_xlim(axes.get_xlim())
    bands.set_ylim(-len(names) + 0.5, 0.5)
    bands.set_yticks([])
    _dress(bands)
    return bands


def _stretches(rows: Sequence[MetricRow], key: str) -> list[tuple[float, float, str]]:
    """Runs of iterations with one role: (first iteration, last iteration, role)."""
    stretches: list[tuple[float, float, str]] = []
    for row in rows:
        iteration, role = number(row, "iteration"), str(row.get(key) or "")
        if stretches and stretches[-1][2] == role:
            stretches[-1] = (stretches[-1][0], iteration, role)
        else:
            stretches.append((iteration, iteration, role))
    return stretches


def _role_opacity(role: str) -> float:
    """Full for the pioneer; the later an observer speaks, the paler."""
    if not role.startswith("observer"):
        return 1.0
    seat = role.rpartition("_")[2]
    return 0.3 / (1 + int(seat)) if seat.isdecimal() else 0.3


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
