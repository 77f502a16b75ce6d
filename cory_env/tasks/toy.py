"""A game small enough to enumerate: say the query backwards.

The pioneer reads the query; the observer reads only what was answered before it. So the task
rewards tell apart a pioneer that learnt, an observer that reads its partner, and one that guesses,
and the best reachable reward is known in closed form (`ToyTask.optimum`).
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np

from cory_env.names import unknown_name
from cory_env.task import Task
from cory_env.tokenization import SymbolTokenizer
from cory_env.types import Example

ASK, SEPARATE, REPEAT = ">", ",", "="
SPLITS = ("train", "test")
NUM_EXAMPLES = 256


class ToyTask(Task):
    """Reverse a random string.

    The pioneer is asked `abc>` and should answer `cba`. An observer is asked `cba=` where the
    pioneer answered so, `cba,cab=` behind another observer, and `=` without knowledge transfer.

    Args:
        split: `train` or `test`: which fixed list `examples` is. `sample` draws from all strings.
        length: characters of the query.
        symbols: size of the alphabet, 2 to 16.
    """

    name = "toy"
    reward = "match"

    def __init__(self, split: str = "train", *, length: int = 3, symbols: int = 8) -> None:
        if split not in SPLITS:
            raise ValueError(unknown_name("a split", SPLITS, split))
        if length < 1:
            raise ValueError(f"Expected a length of at least 1, got {length}.")
        if not 2 <= symbols <= 16:
            raise ValueError(f"Expected 2 to 16 symbols, got {symbols}.")
        self.length = length
        self.alphabet = ascii_lowercase[:symbols]
        self.tokenizer = SymbolTokenizer(self.alphabet + ASK + SEPARATE + REPEAT)
        self.max_new_tokens = length
        self.max_prompt_tokens = 8 * (length + 1)  # room for eight responses before a prompt's end
        rng = np.random.default_rng([SPLITS.index(split), length, symbols])
        self.examples = [self.sample(rng) for _ in range(NUM_EXAMPLES)]

    def sample(self, rng: np.random.Generator) -> Example:
        """Draw a string uniformly from all."""
        letters = rng.integers(len(self.alphabet), size=self.length)
        query = "".join(self.alphabet[i] for i in letters)
        return Example(query, reference=query[::-1])

    def pioneer_prompt(self, query: str) -> str:
        """Return the query and a question mark of its own."""
        return query + ASK

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        """Return the earlier responses; the query stays hidden."""
        return SEPARATE.join(responses) + REPEAT

    def optimum(self, observers: int = 1, knowledge_transfer: bool = True) -> tuple[float, ...]:
        """Return the expected task reward of each role under the best joint policy.

        A blind observer can do no better than a constant, which agrees with a uniform letter in
        one position out of `symbols`.
        """
        observer = 1.0 if knowledge_transfer else 1 / len(self.alphabet)
        return (1.0, *[observer] * observers)
