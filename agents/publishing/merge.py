"""Merge an adapter into its base model: one folder that transformers loads without peft."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from agents.models.files import policy_kind
from agents.models.merged import load_merged
from agents.publishing.folders import check_new, new_folder
from agents.terminal.hush import hushed


@hushed()
def merge(
    folder: str | Path,
    out: str | Path,
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    base: str | None = None,
) -> Path:
    """Write an adapter and its base as one transformers model and return the folder.

    Args:
        folder: `final/llm_<i>` of a run with `--adapter lora`.
        out: new or empty folder.
        dtype: of the weights written; they are added up in float32.
        base: the base model; None for the one the adapter was trained on.

    Raises:
        ValueError: if the folder holds no adapter, or `out` holds something.
    """
    folder, out = Path(folder), Path(out)
    if policy_kind(folder) == "whole":
        raise ValueError(
            f"Expected a folder with an adapter, such as runs/imdb/final/llm_0, got {folder}, "
            "which holds a whole model already."
        )
    check_new(out)
    model, tokenizer = load_merged(folder, base)
    model.config.name_or_path = ""  # else the folder of the base on this machine
    with new_folder(out) as written:
        model.to(getattr(torch, dtype)).save_pretrained(written)  # type: ignore[arg-type]
        tokenizer.save_pretrained(written)
    return out
