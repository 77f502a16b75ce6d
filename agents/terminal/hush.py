"""Keep the progress bars and the advice of other libraries out of our own output."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWERED = (
    "Model has `tie_word_embeddings=True`",  # agents.publishing.merge unties before it merges
    "fan_in_fan_out is set to",  # peft mends it itself, layer by layer
    "IProgress not found",  # tqdm in a notebook without widgets: its bars are silent here
)
"""How warnings of libraries begin that need nobody's attention, with the reason."""


@contextmanager
def hushed() -> Iterator[None]:
    """Silence them for a while, also as a decorator; afterwards everything is as it was.

    Entered before they are imported where that can be: bitsandbytes gives its advice then.
    """
    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    bitsandbytes.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        for beginning in _ANSWERED:
            warnings.filterwarnings("ignore", message=beginning)
        from transformers.utils import logging as transformers_logging

        verbosity = transformers_logging.get_verbosity()
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            bitsandbytes.setLevel(level)
            transformers_logging.set_verbosity(verbosity)
            if bars:
                transformers_logging.enable_progress_bar()
