"""Continue the beginning of a film review so that it sounds positive.

Queries are the first words of IMDB reviews (Maas et al. 2011), cut as in the CORY paper; they ship
with the package. Prompts are those of the paper: Ma et al. 2024 (arXiv 2410.06101), appendix A.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from importlib.resources import files

from cory_env.names import unknown_name
from cory_env.task import Task
from cory_env.types import Example

SPLITS = ("train", "test")


class ImdbTask(Task):
    """Positive film reviews.

    The pioneer is asked the query itself. An observer is asked `I can make this sentence "<query
    and response>" more positive: <query>`, with every earlier response quoted in turn, and the
    query itself without knowledge transfer.

    Args:
        split: `train` or `test`.
    """

    name = "imdb"
    reward = "sentiment"
    max_new_tokens = 16

    def __init__(self, split: str = "train") -> None:
        if split not in SPLITS:
            raise ValueError(unknown_name("a split", SPLITS, split))
        packed = (files("cory_env") / "assets" / f"imdb_{split}.txt.gz").read_bytes()
        lines = gzip.decompress(packed).decode("utf-8").splitlines()
        self.examples = [Example(line) for line in lines]

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        """Return the paper's observer prompt."""
        if not responses:
            return query
        # Differs from the paper where it is silent: it has one observer, so one quoted sentence.
        noun = "this sentence" if len(responses) == 1 else "these sentences"
        quoted = ", ".join(f'"{query}{response}"' for response in responses)
        return f"I can make {noun} {quoted} more positive: {query}"
