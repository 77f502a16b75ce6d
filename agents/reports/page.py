"""The frame of all pages about runs: one file of HTML that needs no network.

What differs from page to page are the templates in `templates/`, which escape every text: what a
model wrote is shown, never obeyed. Should one slip through, the page still allows no script but
its own, which it knows by their digests. Without scripts, and on paper, the curves are drawings
(`svg.py`); with them `report.js` draws the same lines by uPlot (`vendor/`), to be looked into.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from agents.records.folder import RunFolder
from agents.records.rows import printable
from agents.reports.series import Curves, Stage
from agents.reports.svg import NUM_COLOURS, curve_svg
from agents.reports.tables import rounded, value_text

_FOLDER = Path(__file__).parent


_SCRIPTS = ("vendor/uPlot.iife.min.js", "report.js")


_SELF, _NONE = "'self'", "'none'"


_STYLES = ("vendor/uPlot.min.css", "report.css")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A figure with its title and caption."""

    title: str
    caption: str
    svg: Markup
    """The drawing; its ids are its own."""
    key: str = ""
    """Of `chart` on the page; empty for a figure that is a drawing only."""
    chart: Mapping[str, object] = field(default_factory=dict)
    """The same lines, as values."""


def curve_panel(
    title: str,
    caption: str,
    curves: Curves,
    *,
    key: str,
    stage: Stage | None = None,
    small: bool = False,
) -> Panel:
    """Return a figure of lines over iterations.

    Args:
        title: what it shows.
        caption: how to read it.
        curves: the lines.
        key: different for every figure of a page.
        stage: who had which role; None for lines that are no policies.
        small: for three in a row rather than two.
    """
    chart = curves.to_json() | {"staged": stage is not None}
    svg = drawing(curve_svg(curves, stage, f"{key}-", small=small))
    return Panel(title=title, caption=caption, svg=svg, key=key, chart=chart)


def drawing(svg: str) -> Markup:
    """Return what Matplotlib has drawn as what a template need not escape.

    It writes texts as XML text, and ids of ours alone.
    """
    return Markup(svg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A file beside the page."""

    name: str
    address: str


def file_links(run: RunFolder, base: Path, served: str = "") -> list[Link]:
    """Return links to the raw files of a run that are there.

    Args:
        run: the run.
        base: the folder of the page.
        served: where a server has the files instead; empty for a page that is a file.
    """
    return [
        Link(name=path.name, address=f"{served}{path.name}" if served else address(path, base))
        for path in raw_files(run)
        if path.is_file()
    ]


def raw_files(run: RunFolder) -> list[Path]:
    """Return the files of a run that people and their scripts read."""
    return [
        *(run.metrics_path, run.samples_path, run.histograms_path),
        *(run.evaluation_path, run.config_path, run.provenance_path),
    ]


def address(path: Path, base: Path) -> str:
    """Return the address of a file for a page in another folder."""
    return quote(Path(os.path.relpath(path.resolve(), base.resolve())).as_posix())


def render(
    template: str,
    *,
    panels: Sequence[Panel],
    stage: Stage | None = None,
    live: bool = False,
    **values: object,
) -> str:
    """Return a whole page.

    Args:
        template: its name.
        panels: all figures, whose values the script reads.
        stage: the roles that some of them show.
        live: the page asks where it came from for a newer one, every two seconds.
        values: what the template shows.
    """
    data = {
        "charts": {panel.key: panel.chart for panel in panels if panel.key},
        "stage": stage.to_json() if stage is not None else {"swaps": [], "roles": []},
    }
    scripts = [_text(name) for name in _SCRIPTS]
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            data=data,
            live=live,
            scripts=[Markup(script) for script in scripts],
            styles=[Markup(_text(name)) for name in _STYLES],
            policy=content_policy(scripts, live=live),
        )
    )


def content_policy(scripts: Sequence[str], *, live: bool) -> str:
    """Return what a page may load: its own scripts by their digests, and nothing from elsewhere."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; connect-src {_SELF if live else _NONE}"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    environment.filters["rounded"] = rounded
    environment.filters["value_text"] = value_text
    environment.filters["colour"] = colour_class
    return environment


def _shown(value: Any) -> Any:
    """Leave control characters out of texts; what is markup has none."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def colour_class(index: int | None) -> str:
    """Return the CSS class of the n-th policy or run."""
    return "" if index is None else f"policy-{index % NUM_COLOURS}"


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8").strip()
