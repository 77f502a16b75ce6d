"""Build a backbone around a base model, and check it against the model's own logits.

The base model itself is loaded in `loading.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.distributed.sharding import Sharding
from agents.models.adapters import LoraBackbone, lora_config
from agents.models.backbone import AdapterKind, Backbone, check_pieces, takes_wide_mask
from agents.models.compiled import CompiledLayers
from agents.models.copies import FullBackbone
from agents.models.kernels import speed_up
from agents.models.loading import is_quantized
from agents.models.precision import cast_parameters


def make_backbone(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    *,
    adapter: AdapterKind,
    rank: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    targets: Sequence[str] = ("all-linear",),
    rank_pattern: Mapping[str, int] | None = None,
    ramp: tuple[int, int] | None = None,
    gradient_checkpointing: bool = False,
    sharding: Sharding | None = None,
    compiled: CompiledLayers | None = None,
) -> Backbone:
    """Build the backbone of a run around a base model.

    Raises:
        ValueError: if the model is of a kind that this package cannot run, or if the adapter does
            not fit it.
    """
    quantized = is_quantized(base)
    speed_up(base, device)
    shared: dict[str, Any] = {
        **{"device": device, "gradient_checkpointing": gradient_checkpointing},
        **{"sharding": sharding, "compiled": compiled},
    }
    if adapter != "full":
        ranks: dict[str, Any] = {"rank_pattern": rank_pattern, "ramp": ramp}
        config = lora_config(base, rank, targets=targets, dora=adapter == "dora", **ranks)
        if not quantized:
            cast_parameters(base, dtype)
        backbone = LoraBackbone(base, tokenizer, names, config=config, seed=seed, **shared)
    elif not quantized:
        backbone = FullBackbone(base, tokenizer, names, dtype=dtype, **shared)
    else:
        raise ValueError(
            "Expected adapter lora or dora on a quantized base, whose weights cannot be "
            "trained, got full: pass --adapter lora."
        )
    _check(backbone, exact=dtype == torch.float32 and not quantized)
    return backbone


def _check(backbone: Backbone, *, exact: bool) -> None:
    """Compare a backbone to its model as a whole, and ask it for masks that graphs need."""
    # Sums in another order: in float32 the last digits; eight bits of bfloat16 or of a quantized
    # layer add up to a few per cent of the largest logit over the layers.
    tolerance = 1e-3 if exact else 0.1
    check_pieces(backbone, tolerance)
    on_gpu = backbone.device.type == "cuda"
    backbone.takes_wide_mask = on_gpu and takes_wide_mask(backbone, tolerance)
