"""Models of many architectures, small and untrained, over the vocabulary of the story model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)

from agents.models.backbone import Backbone
from agents.models.loading import load_base, load_hf_tokenizer
from agents.models.make import make_backbone

STORIES = Path(__file__).parent.parent / "fixtures" / "stories260K"
STORY = "One day, a little boy named Tim went to the park with his mom. He saw a big tree."

_ALL = {"vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2}
_SMALL = {
    **_ALL,
    **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    # Far from uniform: what bends or scales logits must show.
    "initializer_range": 0.3,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8}
_TIED, _UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}

CONFIGS = {
    "gpt2": GPT2Config(**_ALL, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3),
    "llama": LlamaConfig(**_GROUPED, **_UNTIED),
    "llama-tied": LlamaConfig(**_GROUPED, **_TIED),
    "qwen2": Qwen2Config(**_GROUPED, **_TIED),
    "qwen3": Qwen3Config(**_GROUPED, **_UNTIED),
    # sliding windows in turns with full attention, soft caps, scaled embeddings
    "gemma2": Gemma2Config(**_GROUPED, sliding_window=4, final_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(**_GROUPED, sliding_window=4, sliding_window_pattern=2),
    "mistral": MistralConfig(**_GROUPED, sliding_window=4),
    "mixtral": MixtralConfig(**_GROUPED, num_local_experts=4),
    "granite": GraniteConfig(**_GROUPED, logits_scaling=7.0, embedding_multiplier=2.0),
    "cohere": CohereConfig(**_GROUPED, logit_scale=0.3),
    "opt": OPTConfig(**_ALL, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=2,
                     num_attention_heads=4, ffn_dim=48, init_std=0.3),
    "bloom": BloomConfig(**_ALL, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3),
}  # fmt: skip
KINDS = ["stories260K", *CONFIGS]


def make_base(kind: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a float32 model and the tokenizer of the stories."""
    if kind == "stories260K":
        return load_base(str(STORIES), torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()
    return base, load_hf_tokenizer(str(STORIES))


def model_backbone(
    kind: str,
    *,
    adapter: str = "lora",
    names: tuple[str, ...] = ("llm_0",),
    dtype: torch.dtype = torch.float32,
    moved: float = 0.0,
    device: str = "cpu",
    **options,
) -> Backbone:
    """Build a backbone whose policies lie `moved` (a standard deviation) from the reference."""
    base, tokenizer = options.pop("loaded", None) or make_base(kind)
    backbone = make_backbone(
        base, tokenizer, names, adapter=adapter, rank=4, dtype=dtype,
        device=torch.device(device), seed=0, **options
    )  # fmt: skip
    move(backbone, names, moved)
    return backbone


@torch.no_grad()
def move(backbone: Backbone, names: tuple[str, ...], moved: float) -> None:
    """Add noise to everything that a policy trains."""
    generator = torch.Generator().manual_seed(1)
    for name in names:
        for parameter in backbone.parameters(name).values():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += moved * noise.to(parameter.device)
