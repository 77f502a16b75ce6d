"""A tiny tokenizer of every kind there is, as the `tokenizers` library builds them."""

from __future__ import annotations

import string

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

BEGIN, END, UNKNOWN, PAD = SPECIAL = ("<s>", "<|endoftext|>", "<unk>", "<pad>")
LETTERS = string.ascii_letters + string.digits + string.punctuation
PIECES = ("the", "was", "big", "and", "er", "ing", "at", "nd", "th", "12", "....")
BYTES = [f"<0x{i:02X}>" for i in range(256)]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
CHAT = (
    "{% for message in messages %}<|user|>{{ message.content }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|model|>\n{% endif %}"
)


def make_tokenizer(
    kind: str, *, begins: bool = False, ends: bool = False, pads: bool = True, chats: bool = False
) -> PreTrainedTokenizerFast:
    """Return a tokenizer.

    Args:
        kind: one of `KINDS`.
        begins: whether its template has a begin token before a text.
        ends: whether its template has an end token behind a text.
        pads: whether it has a padding token of its own.
        chats: whether it has a chat template, with special tokens that nothing else names.
    """
    backend = KINDS[kind]()
    single = f"{BEGIN} " * begins + "$A" + f" {END}" * ends
    backend.add_special_tokens(list(SPECIAL))
    tokens = [(name, backend.token_to_id(name)) for name in (BEGIN, END)]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    if chats:
        backend.add_special_tokens(["<|user|>", "<|stop|>", "<|model|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN,
        pad_token=PAD if pads else END, padding_side="left",
    )  # fmt: skip
    if chats:
        tokenizer.chat_template = CHAT
    return tokenizer


def _llama(prepends: str | None, *, normalizes: bool = False) -> Tokenizer:
    """Return SentencePiece BPE with bytes for what is unknown; spaces are `▁`."""
    tokenizer = Tokenizer(_bpe("▁", [*LETTERS], [*SPECIAL, *BYTES], byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    if normalizes:
        prepend = [normalizers.Prepend("▁")] if prepends else []
        tokenizer.normalizer = normalizers.Sequence([*prepend, replace])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepends)
    strips = [] if prepends in (None, "never") else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([*_BYTES_AND_SPACES, *strips])
    return tokenizer


def _byte_level(*, pattern: str = "", prepends: bool = False, composes: bool = False) -> Tokenizer:
    """Return BPE over bytes: GPT-2's, or with a pattern of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(_bpe("Ġ", alphabet, [*SPECIAL]))
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=prepends, use_regex=not pattern)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unigram(*, byte_fallback: bool = False) -> Tokenizer:
    """Return SentencePiece Unigram: its vocabulary holds special tokens as words like any other."""
    scores = {name: 0.0 for name in SPECIAL}
    scores |= dict.fromkeys(BYTES if byte_fallback else (), -9.0)
    scores |= dict.fromkeys(("▁", *LETTERS), -5.0)
    scores |= {start + piece: -6.0 for start in ("", "▁") for piece in PIECES}
    unknown = list(scores).index(UNKNOWN)
    model = models.Unigram(list(scores.items()), unk_id=unknown, byte_fallback=byte_fallback)
    return Tokenizer(model)


def _t5() -> Tokenizer:
    tokenizer = _unigram()
    tokenizer.normalizer = normalizers.NFKC()
    words = pre_tokenizers.WhitespaceSplit()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _xglm() -> Tokenizer:
    tokenizer = _unigram()
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _unigram_bytes() -> Tokenizer:
    tokenizer = _unigram(byte_fallback=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([*_BYTES_AND_SPACES, decoders.Strip(" ", 1, 0)])
    return tokenizer


def _bert(*, lowercase: bool = False) -> Tokenizer:
    words = [*LETTERS, *PIECES]
    vocabulary = [*SPECIAL, *words, *("##" + word for word in words)]
    model = models.WordPiece(_numbered(vocabulary), unk_token=UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _bpe(space: str, alphabet: list[str], first: list[str], **options: bool) -> models.BPE:
    """Return a model whose merges spell the pieces from the left, also behind a space."""
    merges: dict[tuple[str, str], None] = {}
    for word in (start + piece for piece in PIECES for start in ("", space)):
        merges |= {(word[:k], word[k]): None for k in range(1, len(word))}
    vocabulary = _numbered([*first, space, *alphabet, *(a + b for a, b in merges)])
    return models.BPE(vocabulary, list(merges), unk_token=UNKNOWN, fuse_unk=True, **options)


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


_BYTES_AND_SPACES = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
KINDS = {
    "llama2": lambda: _llama("first", normalizes=True),
    "gemma": lambda: _llama(None, normalizes=True),
    "metaspace-first": lambda: _llama("first"),
    "metaspace-always": lambda: _llama("always"),
    "metaspace-never": lambda: _llama("never"),
    "gpt2": _byte_level,
    "gpt2-prefix-space": lambda: _byte_level(prepends=True),
    "llama3": lambda: _byte_level(pattern=LLAMA3),
    "qwen": lambda: _byte_level(pattern=QWEN, composes=True),
    "t5": _t5,
    "xglm": _xglm,
    "unigram-bytes": _unigram_bytes,
    "bert": _bert,
    "bert-uncased": lambda: _bert(lowercase=True),
}
SAY_ALL = [kind for kind in KINDS if kind not in ("t5", "xglm", "bert", "bert-uncased")]
"""Kinds with a token for every text; the others know words with single spaces between them."""
