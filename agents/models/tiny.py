"""Small untrained models: of a task's own vocabulary, or of the letters of a keyboard."""

from __future__ import annotations

import string

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cory_env.task import Task
from cory_env.tokenization import SymbolTokenizer

_END = "<end>"


_MARKS = string.punctuation + " \n"


def tiny_model(task: Task, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Build a small Llama over the symbols of a task.

    Raises:
        ValueError: if the task has no symbols of its own.
    """
    if not isinstance(task.tokenizer, SymbolTokenizer):
        raise ValueError(
            "Expected a task with a vocabulary of its own (such as toy) for the model tiny, got "
            f"{task.name!r}: pass --model embedded."
        )
    return _model(task.tokenizer, task.max_prompt_tokens + task.max_new_tokens, seed)


def keyboard_model(seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Build a small Llama that reads one printable character of ASCII, or line end, at a time."""
    return _model(SymbolTokenizer(string.digits + string.ascii_letters + _MARKS), 1024, seed)


def _model(
    symbols: SymbolTokenizer, context: int, seed: int
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    config = LlamaConfig(
        vocab_size=symbols.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=symbols.eos_token_id,
        eos_token_id=symbols.eos_token_id,
        pad_token_id=symbols.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config), symbol_tokenizer(symbols)


def symbol_tokenizer(symbols: SymbolTokenizer) -> PreTrainedTokenizerFast:
    """Return a transformers tokenizer with the very ids of a symbol tokenizer."""
    vocabulary = {_END: symbols.eos_token_id, **{c: symbols.encode(c)[0] for c in symbols.alphabet}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=_END))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")  # type: ignore[assignment]
    backend.decoder = decoders.Fuse()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=_END, pad_token=_END, padding_side="left"
    )
