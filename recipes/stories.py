"""Convert the story model of the tests from the format of llama2.c to that of transformers.

    python -m recipes.stories --data DIR

DIR holds `stories260K.bin` and `tok512.bin` of https://huggingface.co/karpathy/tinyllamas (MIT): a
Llama with grouped-query attention and tied embeddings, trained on TinyStories (Eldan and Li 2023,
arXiv 2305.07759). Formats: https://github.com/karpathy/llama2.c, run.c. Same data, same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "stories260K"
BEGIN, END = 1, 2


@dataclass(frozen=True, kw_only=True)
class Stories:
    """Where to read and write."""

    data: Path
    """Folder with `stories260K.bin` and `tok512.bin`."""
    out: Path = FIXTURE
    """Where the model and its tokenizer go."""


def read_config(path: Path) -> LlamaConfig:
    """Read the seven integers before the weights."""
    with path.open("rb") as file:
        width, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("7i", file.read(28))
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BEGIN,
        eos_token_id=END,
    )


def read_weights(path: Path, config: LlamaConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight with its name in transformers."""
    width, layers = config.hidden_size, config.num_hidden_layers
    head = width // config.num_attention_heads
    assert config.num_key_value_heads is not None
    keys = (layers, config.num_key_value_heads * head, width)
    up = (layers, config.intermediate_size, width)
    shapes = {
        "embed_tokens": (config.vocab_size, width),
        "input_layernorm": (layers, width),
        "self_attn.q_proj": (layers, width, width),
        "self_attn.k_proj": keys,
        "self_attn.v_proj": keys,
        "self_attn.o_proj": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "mlp.gate_proj": up,
        "mlp.down_proj": (layers, width, config.intermediate_size),
        "mlp.up_proj": up,
        "norm": (width,),
    }
    flat = torch.from_numpy(np.fromfile(path, np.float32, offset=28))
    place = 0  # behind the last of them are tables of sines and cosines
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        part = flat[place : place + size].view(shape)
        place += size
        if name in ("embed_tokens", "norm"):
            yield f"model.{name}.weight", part
            continue
        for layer, weight in enumerate(part):
            rotary = name.endswith(("q_proj", "k_proj"))
            yield f"model.layers.{layer}.{name}.weight", halves(weight, head) if rotary else weight


def read_model(path: Path) -> LlamaForCausalLM:
    """Read the configuration and the weights."""
    config = read_config(path)
    model = LlamaForCausalLM(config)
    weights = dict(read_weights(path, config))
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    # In its training texts a story ends where the next one begins.
    model.generation_config.eos_token_id = [END, BEGIN]
    return model


def halves(matrix: Tensor, head: int) -> Tensor:
    """Reorder rows whose rotary pairs are neighbours so that each is half a head from its other."""
    pairs = matrix.view(-1, head // 2, 2, matrix.shape[1])
    return pairs.transpose(1, 2).reshape(matrix.shape).contiguous()


def read_pieces(path: Path) -> Iterator[tuple[bytes, float]]:
    """Yield each piece of the vocabulary with its score; the highest is merged first."""
    raw = path.read_bytes()
    place = 4
    while place < len(raw):
        score, length = struct.unpack("fi", raw[place : place + 8])
        place += 8 + length
        yield raw[place - length : place], score


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Read pieces and scores into a byte-pair encoding with a begin token."""
    pieces = list(read_pieces(path))
    texts = [piece.decode().replace(" ", "▁") for piece, _ in pieces]
    names = ["<unk>", "<s>", "</s>", *texts[3:]]
    ids = {name: i for i, name in enumerate(names)}
    ranked = sorted(range(3 + 256, len(names)), key=lambda i: -pieces[i][1])
    merges = [
        (name[:cut], name[cut:])
        for name in map(names.__getitem__, ranked)
        for cut in range(1, len(name))
        if name[:cut] in ids and name[cut:] in ids
    ]
    backend = Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(  # type: ignore[assignment]
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", special_tokens=[("<s>", BEGIN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def main(args: Stories) -> None:
    """Write the model and its tokenizer."""
    model = read_model(args.data / "stories260K.bin")
    model.save_pretrained(args.out)
    read_tokenizer(args.data / "tok512.bin").save_pretrained(args.out)
    print(f"{args.out}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main(tyro.cli(Stories, description=__doc__))
