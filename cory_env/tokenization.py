"""Tokenizers: text to ids and back. Batching and padding are the learner's business.

`tokenizers` is imported where a file is read; `transformers` is not imported at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from json import loads
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from cory_env.codec import Codec
from cory_env.names import unknown_name
from cory_env.types import Tokenizer

EMBEDDED = "assets/tokenizer.json"
END_OF_TEXT = "<|endoftext|>"


class ByteTokenizer:
    """One token per UTF-8 byte, and the end token 256. There is no begin token."""

    vocab_size = 257
    eos_token_id = 256

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Return the bytes of the text."""
        return list(text.encode())

    def fits(self, text: str, max_tokens: int) -> bool:
        """Return whether the text has 1 to `max_tokens` bytes."""
        return 1 <= len(text.encode()) <= max_tokens

    def decode(self, ids: Sequence[int], *, begin: bool = True) -> str:
        """Return the text of the bytes, with U+FFFD for what is no UTF-8."""
        return bytes(i for i in ids if i != self.eos_token_id).decode(errors="replace")


class SymbolTokenizer:
    """One token per character of a small alphabet; 0 is the end token. There is no begin token."""

    eos_token_id = 0

    def __init__(self, alphabet: str) -> None:
        if len(set(alphabet)) != len(alphabet):
            raise ValueError(f"Expected an alphabet of distinct characters, got {alphabet!r}.")
        self.alphabet = alphabet
        self.vocab_size = len(alphabet) + 1
        self._id_of = {character: i for i, character in enumerate(alphabet, start=1)}

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Return one id per character.

        Raises:
            ValueError: if a character is not in the alphabet.
        """
        for character in text:
            if character not in self._id_of:
                raise ValueError(
                    f"Expected characters out of {self.alphabet!r}, got {character!r} in {text!r}."
                )
        return [self._id_of[character] for character in text]

    def fits(self, text: str, max_tokens: int) -> bool:
        """Return whether the text has 1 to `max_tokens` characters, all of the alphabet."""
        return 1 <= len(text) <= max_tokens and self._id_of.keys() >= set(text)

    def decode(self, ids: Sequence[int], *, begin: bool = True) -> str:
        """Return the characters of the ids."""
        return "".join(self.alphabet[i - 1] for i in ids if i != self.eos_token_id)


class FileTokenizer(Codec):
    """A tokenizer of the `tokenizers` library whose end token is `<|endoftext|>`.

    Args:
        json: the text of its `tokenizer.json`.
    """

    def __init__(self, json: str) -> None:
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_str(json)
        self._backend.encode_special_tokens = True  # spelled out in a text they are text
        end = self._backend.token_to_id(END_OF_TEXT)
        if end is None:
            raise ValueError(f"Expected a tokenizer with the token {END_OF_TEXT!r}, found none.")
        self.eos_token_id = end
        self.vocab_size = max(self._backend.get_vocab().values()) + 1  # ids may have gaps
        parts = loads(json)
        adds_text = str(parts["pre_tokenizer"])
        self._every_token_covers_a_byte = (
            parts["normalizer"] is None
            and "Metaspace" not in adds_text
            and "'add_prefix_space': True" not in adds_text
        )
        added = self._backend.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special} | {end}
        model = parts["model"]  # Unigram names an id, the others a token
        unknown = model.get("unk_id", self._backend.token_to_id(model.get("unk_token") or ""))
        silent = unknown in special and unknown != end
        spelling = self._backend.id_to_token(unknown) or "" if silent else ""
        super().__init__(special, (unknown, spelling) if silent else None)

    def __reduce__(self) -> tuple[type[FileTokenizer], tuple[str]]:
        return FileTokenizer, (self._backend.to_str(),)  # the library's pickle drops the flag above

    def fits(self, text: str, max_tokens: int) -> bool:
        """Return whether the prompt has 1 to `max_tokens` tokens."""
        if self._every_token_covers_a_byte:
            num_special = len(self.before)
            if num_special and len(text.encode()) + num_special <= max_tokens:
                return True  # a few times faster than to encode it
        return super().fits(text, max_tokens)

    def _encode_whole(self, text: str, *, template: bool = False) -> list[int]:
        try:
            return self._backend.encode(text, add_special_tokens=template).ids
        except Exception as error:  # the library has no type of its own
            raise _refusal(text, error) from error

    def _decode_whole(self, ids: list[int]) -> str:
        known = [i for i in ids if i != self.eos_token_id]  # the file may not call it special
        return self._backend.decode(known, skip_special_tokens=True)

    def _vocabulary(self) -> Iterable[int]:
        return range(self.vocab_size)


class TransformersTokenizer(Protocol):
    """What this package asks of a tokenizer object of the `transformers` library."""

    @property
    def eos_token_id(self) -> int | None: ...  # noqa: D102

    @property
    def unk_token_id(self) -> int | None: ...  # noqa: D102

    @property
    def unk_token(self) -> str | None: ...  # noqa: D102

    @property
    def all_special_ids(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]: ...  # noqa: D102

    def get_vocab(self) -> dict[str, int]: ...  # noqa: D102

    def encode(  # noqa: D102
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool
    ) -> list[int]: ...

    def decode(  # noqa: D102
        self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]: ...  # noqa: D102


class TransformersCodec(Codec):
    """Any tokenizer object of the `transformers` library, with an end token or without."""

    def __init__(self, tokenizer: TransformersTokenizer) -> None:
        self.backend = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special} | {*tokenizer.all_special_ids}
        unknown, spelling = tokenizer.unk_token_id, tokenizer.unk_token
        if unknown is None or spelling is None or unknown == tokenizer.eos_token_id:
            super().__init__(special, None)
        else:
            super().__init__(special, (unknown, spelling))

    def _encode_whole(self, text: str, *, template: bool = False) -> list[int]:
        try:
            return self.backend.encode(text, add_special_tokens=template, split_special_tokens=True)
        except Exception as error:  # the library below has no type of its own
            raise _refusal(text, error) from error

    def _decode_whole(self, ids: list[int]) -> str:
        return self.backend.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _vocabulary(self) -> Iterable[int]:
        yield from sorted(self.backend.get_vocab().values())  # long, and rarely asked for


class HuggingFaceTokenizer(TransformersCodec):
    """Any tokenizer object of the `transformers` library that has an end token."""

    def __init__(self, tokenizer: TransformersTokenizer) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("Expected a tokenizer with an end token, got eos_token_id None.")
        super().__init__(tokenizer)
        self.eos_token_id = tokenizer.eos_token_id
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps


def load_tokenizer(source: str | Path | Tokenizer | TransformersTokenizer) -> Tokenizer:
    """Return the tokenizer that `source` names or is.

    Args:
        source: `"embedded"`, `"byte"`, the path of a `tokenizer.json`, a tokenizer object of the
            `transformers` library, or anything that has the methods of `Tokenizer`.
    """
    if source == "byte":
        return ByteTokenizer()
    if source == "embedded":
        return FileTokenizer((files("cory_env") / EMBEDDED).read_text(encoding="utf-8"))
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            expected = "a tokenizer or the path of a tokenizer.json"
            raise ValueError(unknown_name(expected, ("embedded", "byte"), str(source)))
        return FileTokenizer(Path(source).read_text(encoding="utf-8"))
    if _is_of_transformers(source):
        return HuggingFaceTokenizer(source)
    if isinstance(source, Tokenizer):  # pyright: ignore[reportUnnecessaryIsInstance] # user input
        return source
    raise TypeError(
        "Expected 'embedded', 'byte', the path of a tokenizer.json or an object with the methods "
        f"of cory_env.types.Tokenizer, got {source!r}."
    )


def _is_of_transformers(source: object) -> TypeGuard[TransformersTokenizer]:
    # It answers for some of them in `__getattr__`, where `isinstance` does not look from 3.12 on.
    names = ("eos_token_id", "encode", "decode", "convert_ids_to_tokens", "get_vocab")
    return all(hasattr(source, name) for name in names)


def _refusal(text: str, error: Exception) -> ValueError:
    return ValueError(
        f"Expected a text in characters that the tokenizer knows, got {text[:80]!r}: {error}."
    )
