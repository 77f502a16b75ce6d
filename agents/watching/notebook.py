"""Where a run is shown in a notebook: below its cell, drawn anew instead of line after line."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

_FORMAT = '<pre style="white-space: pre; line-height: normal">{code}</pre>'
"""Of the HTML that rich exports: figures stand below each other, and long lines scroll."""


class NotebookCell:
    """The output of a notebook's cell, of a width in columns."""

    def __init__(self, width: int):
        self._width = width
        self._handle: Any = None

    def show(self, renderable: RenderableType) -> None:
        """Draw something in the place of what was drawn before."""
        from IPython.display import HTML, display  # late: a notebook has it, others need not

        html = HTML(self._html(renderable))
        if self._handle is None:
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)

    def _html(self, renderable: RenderableType) -> str:
        console = Console(
            file=io.StringIO(), width=self._width, record=True, force_jupyter=False,
            force_terminal=True,
        )  # fmt: skip
        console.print(renderable)
        return console.export_html(inline_styles=True, code_format=_FORMAT)
