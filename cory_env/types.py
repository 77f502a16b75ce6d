"""The words that all parts of the game share.

Axis legend, used in every docstring of the package: B episodes, A agents, V vocabulary, L prompt
tokens, T response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    """One task item."""

    query: str
    """What the pioneer is asked."""
    reference: str | None = None
    """The gold answer, or None where the reward needs none."""

    def __deepcopy__(self, memo: object) -> Example:
        return self  # nothing in it can change, and tasks hold thousands


@dataclass(frozen=True, slots=True)
class ScoredExample(Example):
    """A task item that brings what scores its responses: see the reward `scored`."""

    scorer: Callable[[str], float] = field(kw_only=True, compare=False, repr=False)
    """From a response to its score."""


@dataclass(frozen=True, slots=True)
class Response:
    """One finished turn of one agent."""

    text: str
    """What a reader sees: no end token, no padding."""
    ids: tuple[int, ...]
    """The tokens played, the end token included where there is one."""
    truncated: bool
    """Whether the token limit ended the response, not the end token."""
    verdict: str = ""
    """What later agents are told of it, where the rules have verdicts."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """V: legal ids are 0 to V - 1; one that has no token says nothing."""
        ...

    @property
    def eos_token_id(self) -> int:
        """The token that ends a response."""
        ...

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Return the ids of a text, which may not contain the end token.

        Args:
            text: any text; special tokens spelled out in it are ordinary characters.
            begin: True for a prompt, which gets the begin token where the tokenizer has one and is
                never ended; False for a text that continues another, which gets nothing that is not
                in it, such as a space before its first word.
        """
        ...

    def fits(self, text: str, max_tokens: int) -> bool:
        """Return whether `encode(text)` would return 1 to `max_tokens` ids.

        A tokenizer which can tell without encoding saves every batch of prompts that work. Subclass
        this protocol to inherit the plain way.
        """
        return 1 <= len(self.encode(text)) <= max_tokens

    def decode(self, ids: Sequence[int], *, begin: bool = True) -> str:
        """Return the text of the ids, special tokens left out.

        Args:
            ids: any legal ids.
            begin: False for what the ids add to the text before them: of a response that begins
                with a space the space as well. `decode(encode(text, begin=False), begin=False)` is
                the text, where the vocabulary can say it.
        """
        ...


class Reward(Protocol):
    """Scores responses in batches."""

    def __call__(self, examples: Sequence[Example], responses: Sequence[str], /) -> Float64Array:
        """Return one finite score per response.

        Args:
            examples: (B,) what was asked.
            responses: (B,) the text of each response, as a reader sees it.

        Returns:
            (B,) scores. A response that cannot be read scores low; it does not raise.
        """
        ...
