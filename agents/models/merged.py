"""A base model with an adapter folded into its weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.models.files import ADAPTER_CONFIG, check_safetensors
from agents.models.loading import load_base, load_hf_tokenizer


def load_merged(
    folder: Path, base: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an adapter folder as a whole model in float32.

    Args:
        folder: with an adapter_config.json.
        base: the base model; None for the one the adapter was trained on.

    Raises:
        ValueError: if there is no such base, or the adapter is none of it.
    """
    check_safetensors(folder)
    text = (folder / ADAPTER_CONFIG).read_text(encoding="utf-8")
    trained_on: dict[str, Any] = json.loads(text)
    base = base or str(trained_on["base_model_name_or_path"] or "")
    try:
        model, tokenizer = load_base(base, torch.float32)
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"Expected the base model of the adapter in {folder}, got {base!r}: name another with "
            f"base=… (`merge --base`). {reason}"
        ) from error
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = load_hf_tokenizer(str(folder))  # with the chat template that it was trained in
    untie_adapted(adapted)
    return adapted.merge_and_unload(), tokenizer  # type: ignore[operator]


def untie_adapted(adapted: PeftModel) -> None:
    """Give every adapted layer a weight of its own, in place.

    An adapter on one of two layers that share a tensor, such as embedding and head, is meant for
    that one: merged into the tensor, it would change the other as well.
    """
    users = Counter(id(p) for _, p in adapted.named_parameters(remove_duplicate=False))
    for layer in adapted.modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        for name, parameter in list(layer.get_base_layer().named_parameters(recurse=False)):
            if users[id(parameter)] > 1:
                users[id(parameter)] -= 1
                own = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                setattr(layer.get_base_layer(), name, own)
                for config in (adapted.config, adapted.config.get_text_config(decoder=True)):
                    config.tie_word_embeddings = False  # or loading would tie them again
