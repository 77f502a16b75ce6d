"""Load a trained policy from where a run has left it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.models.copies import FullBackbone
from agents.models.files import policy_kind
from agents.models.loading import DType, load_base, pick_device, pick_dtype
from agents.models.merged import load_merged
from agents.policies.llm import LLMPolicy
from agents.terminal.hush import hushed


@hushed()
def load_policy(
    folder: str | Path, *, base: str | None = None, device: str = "auto", dtype: DType = "auto"
) -> LLMPolicy:
    """Load a trained policy from `final/llm_<i>` of a run.

    Args:
        folder: a peft adapter folder or a whole transformers model.
        base: base model of an adapter; None for the one it was trained on.
        device: where to put it.
        dtype: of the arithmetic.

    Raises:
        ValueError: if it is neither; of a run, the policies in it are named.
    """
    folder, place = Path(folder), pick_device(device)
    model, tokenizer = load_whole(folder, base)
    name = folder.name
    backbone = FullBackbone(model, tokenizer, [name], dtype=pick_dtype(dtype, place), device=place)
    return LLMPolicy(name=name, backbone=backbone)


def load_whole(
    folder: Path, base: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a policy as one model in float32, its adapter folded in.

    Raises:
        ValueError: as `load_policy`.
    """
    if policy_kind(folder) == "adapter":
        return load_merged(folder, base)
    return load_base(str(folder), torch.float32)
