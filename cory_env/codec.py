"""Prompts and responses for tokenizers that know whole texts only.

A prompt is no whole text, since it is continued, and neither is a response, since it continues. But
a decoder of SentencePiece drops the space that a text begins with, its encoder adds one, WordPiece
sets none before the first word, a template may end every text with an end token, and a vocabulary
may hold a special token as a word like any other. `Codec` makes up for all of this, whatever the
library, from what whole texts are encoded and decoded to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain, islice, takewhile

GUARDS = ("a", "1", ".", "\n", ")", "x", "Z", ",")
"""Texts to stand before a response; where one merges with its beginning the next is tried."""
_IN_NO_VOCABULARY = "\U0010ffff"
"""A character that is unknown, or one token a byte."""


class Codec(ABC):
    """Text to ids and back, for parts of a text.

    Args:
        special: ids of all special tokens.
        unknown: the one of them that stands for what is not in the vocabulary: id and spelling.
    """

    def __init__(self, special: Iterable[int], unknown: tuple[int, str] | None) -> None:
        self.special = frozenset(special)
        self._unknown = unknown
        self._control = self.special - {unknown[0]} if unknown else self.special

    @abstractmethod
    def _encode_whole(self, text: str, *, template: bool = False) -> list[int]:
        """Return the ids of a text, in the library's template of special tokens or without it.

        Raises:
            ValueError: if the library refuses a character.
        """

    @abstractmethod
    def _decode_whole(self, ids: list[int]) -> str:
        """Return the text of the ids without special tokens."""

    @abstractmethod
    def _vocabulary(self) -> Iterable[int]:
        """Return all ids."""

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Return the ids of a prompt, or of a text that continues another.

        Args:
            text: any text.
            begin: True for a prompt: it gets the special tokens that the template has before a
                text, and none of those behind, which would end it. False for a text that continues
                another; `decode(…, begin=False)` gives it back where the vocabulary can say it.

        Raises:
            ValueError: see `text_ids`.
        """
        ids = self.text_ids(text, begin=begin)
        return [*self.before, *ids] if begin else ids

    def fits(self, text: str, max_tokens: int) -> bool:
        """Return whether the prompt has 1 to `max_tokens` tokens."""
        return 1 <= len(self.encode(text)) <= max_tokens

    def decode(self, ids: Sequence[int], *, begin: bool = True) -> str:
        """Return the text of the ids without special tokens.

        Args:
            ids: any ids.
            begin: False for what the ids add to another text.
        """
        if begin:
            return self._decode_whole(list(ids))
        guard, shown = self._guard
        return self._decode_whole([*guard, *ids])[len(shown) :]

    def text_ids(self, text: str, *, begin: bool = True) -> list[int]:
        """Return the ids of a text alone; a special token spelled out in it is encoded in parts.

        Raises:
            ValueError: if the tokenizer has nothing but a special token for one of its characters.
        """
        ids = self._part_ids(text, begin)
        if self.is_plain(text, ids):
            return ids
        parts = list[int]()
        while text:
            length = self._plain_length(text, begin)
            if length == 0:
                raise ValueError(
                    "Expected a text that can be written without special tokens, got the character "
                    f"{text[0]!r}, for which this tokenizer has no other: take it out."
                )
            parts += self._part_ids(text[:length], begin)
            text, begin = text[length:], False
        return parts

    def is_plain(self, text: str, ids: list[int]) -> bool:
        """Return whether no special token has come of a text, but for what is unknown."""
        if not self._control.isdisjoint(ids):
            return False
        return self._unknown is None or self._unknown[0] not in ids or self._unknown[1] not in text

    @cached_property
    def before(self) -> list[int]:
        """The special tokens that the template has before a text."""
        return list(takewhile(self._control.__contains__, self._template))

    @cached_property
    def after(self) -> list[int]:
        """The special tokens that the template has behind a text."""
        return [*takewhile(self._control.__contains__, reversed(self._template))][::-1]

    @cached_property
    def _template(self) -> list[int]:
        text = next((text for text, _ in self._guards), "")
        return self._encode_whole(text, template=True)

    @cached_property
    def _guards(self) -> list[tuple[str, list[int]]]:
        """Texts of known characters and their ids."""
        return list(islice(self._known_texts(), len(GUARDS)))

    def _known_texts(self) -> Iterator[tuple[str, list[int]]]:
        odd = self.special | {*self._odd_ids[-1:]}
        vocabulary = (self._decode_whole([i]) for i in self._vocabulary())
        for text in chain(GUARDS, vocabulary):
            with suppress(ValueError):
                ids = self._encode_whole(text)
                shown = self._decode_whole(ids)
                if ids and odd.isdisjoint(ids) and shown.strip() == text.strip():
                    yield text, ids

    @cached_property
    def _guard(self) -> tuple[list[int], str]:
        """Ids to decode before a response, and their text, which stays the same before any ids."""
        odd = [[i] for ids in (*(ids for _, ids in self._guards), self._odd_ids) for i in ids]
        for _, ids in self._guards:
            shown = self._decode_whole(ids)
            texts = (self._decode_whole([*ids, *more]) for more in odd)
            if shown.strip() and all(text.startswith(shown) for text in texts):
                return ids, shown
        return [], ""

    @cached_property
    def _odd_ids(self) -> list[int]:
        """Ids of what is in no vocabulary, perhaps behind one for a space."""
        with suppress(ValueError):
            return self._encode_whole(_IN_NO_VOCABULARY)
        return []

    def _part_ids(self, text: str, begin: bool) -> list[int]:
        """Return the ids that the library has for a text, at the beginning or behind another."""
        plain = self._encode_whole(text)
        if begin or self.decode(plain, begin=False) == text:
            return plain

        def likeness(ids: list[int]) -> tuple[bool, int, int]:
            shown = self.decode(ids, begin=False)
            words = _alike(shown.lstrip(), text.lstrip())
            return shown == text, _alike(shown, text), words

        return max([*self._behind_guards(text), plain], key=likeness)

    def _behind_guards(self, text: str) -> Iterator[list[int]]:
        for guard, ids in self._guards:
            joint = self._encode_whole(guard + text)
            if joint[: len(ids)] == ids:
                yield joint[len(ids) :]

    def _plain_length(self, text: str, begin: bool) -> int:
        """Return how many characters may be encoded together: all, or one more would be special."""

        def is_plain(length: int) -> bool:
            return self.is_plain(text[:length], self._part_ids(text[:length], begin))

        length, special = 0, 1
        while is_plain(special):
            if special == len(text):
                return special
            length, special = special, min(2 * special, len(text))
        while special - length > 1:
            middle = (length + special) // 2
            length, special = (middle, special) if is_plain(middle) else (length, middle)
        return length


def _alike(one: str, other: str) -> int:
    """Return with how many characters both texts begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
