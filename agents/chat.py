"""Prompts of chat models: the text of a prompt as a user's message in the tokenizer's template.

What a game or a user writes stays text: a special token spelled out in it never becomes one.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cory_env.tokenization import HuggingFaceTokenizer

_MARK = "message7cf1d0"


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each prompt, in the chat template where the tokenizer has one.

    Raises:
        ValueError: if the template does not hold a message once and unchanged.
    """
    texts = list(prompts)
    if not tokenizer.chat_template:
        return tokenizer(texts, split_special_tokens=True)["input_ids"]  # type: ignore[return-value]
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
    ids = _ids(tokenizer, whole)
    for row, text in enumerate(texts):
        if _ids(tokenizer, [text]) != _ids(tokenizer, [text], split=True):
            inner = whole[row][len(before) : len(whole[row]) - len(after)]
            parts = (([before], False), ([inner], True), ([after], False))
            ids[row] = [i for part, split in parts for i in _ids(tokenizer, part, split=split)[0]]
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


def _ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], *, split: bool = False
) -> list[list[int]]:
    batch = tokenizer(texts, add_special_tokens=False, split_special_tokens=split)
    return batch["input_ids"]  # type: ignore[return-value]
