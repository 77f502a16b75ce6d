"""Prompts of chat models: the text of a prompt as a user's message in the tokenizer's template.

What a game or a user writes stays text: a special token spelled out in it never becomes one.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cory_env.tokenization import HuggingFaceTokenizer, TransformersCodec

_MARK = "message7cf1d0"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each prompt, in the chat template where the tokenizer has one.

    Raises:
        ValueError: if the template does not hold a message once and unchanged, or a text cannot be
            written without special tokens.
    """
    codec = TransformersCodec(tokenizer)  # type: ignore[arg-type]
    texts = list(prompts)
    if not tokenizer.chat_template:
        return [codec.encode(text) for text in texts]
    before, after = _template(tokenizer)
    whole = [_render(tokenizer, text) for text in texts]
    for text, rendered in zip(texts, whole, strict=True):
        inner = rendered[len(before) : len(rendered) - len(after)]
        if rendered != before + inner + after or inner.strip() != text.strip():
            raise ValueError(
                "Expected a chat template that holds the user's message unchanged, got one that "
                f"makes {rendered[:200]!r} of {text[:60]!r}: pass --no-chat-template."
            )
    # The template writes the begin token itself.
    honest, *ids = _ids(tokenizer, [before + _MARK + after, *whole])
    for row, rendered in enumerate(whole):
        if _special(codec, ids[row]) != _special(codec, honest):
            inner = rendered[len(before) : len(rendered) - len(after)]
            head, tail = _ids(tokenizer, [before, after])
            ids[row] = [*head, *codec.text_ids(inner, begin=not before), *tail]
    return ids


class ChatTokenizer(HuggingFaceTokenizer):
    """The tokenizer of an environment whose agents read prompts as `LLMPolicy.encode` does."""

    backend: PreTrainedTokenizerBase  # type: ignore[assignment]

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Return the ids; a prompt stands in the chat template, where there is one."""
        return prompt_ids(self.backend, [text])[0] if begin else super().encode(text, begin=False)


def _template(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    parts = _render(tokenizer, _MARK).split(_MARK)
    if len(parts) != 2:
        raise ValueError(
            "Expected a chat template that holds the user's message once, got one that holds it "
            f"{len(parts) - 1} times: pass --no-chat-template."
        )
    return parts[0], parts[1]


def _render(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)  # type: ignore[return-value]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    batch = tokenizer(texts, add_special_tokens=False, split_special_tokens=False)
    return batch["input_ids"]  # type: ignore[return-value]


def _special(codec: TransformersCodec, ids: list[int]) -> list[int]:
    return [i for i in ids if i in codec.special]
