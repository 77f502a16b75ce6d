"""Merge an adapter into its base model: one folder that transformers loads without peft."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.backbone import load_base, load_tokenizer


def load_merged(
    folder: Path, dtype: torch.dtype, base: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an adapter folder as a whole model.

    Args:
        folder: with an adapter_config.json.
        dtype: of the weights.
        base: the base model; None for the one the adapter was trained on.
    """
    text = (folder / "adapter_config.json").read_text(encoding="utf-8")
    trained_on: dict[str, Any] = json.loads(text)
    model, tokenizer = load_base(base or trained_on["base_model_name_or_path"] or "", dtype)
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(str(folder))  # with the chat template that it was trained in
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()  # type: ignore[operator]
    return merged, tokenizer


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
    if not (folder / "adapter_config.json").is_file():
        kind = "a whole model already" if (folder / "config.json").is_file() else "none"
        raise ValueError(
            f"Expected a folder with an adapter, such as runs/imdb/final/llm_0, got {folder}, "
            f"which holds {kind}."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"Expected a new or empty folder to write to, got {out}, which is not.")
    model, tokenizer = load_merged(folder, torch.float32, base)
    model.config.name_or_path = ""  # else the folder of the base on this machine
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        model.to(getattr(torch, dtype)).save_pretrained(temporary)  # type: ignore[arg-type]
        tokenizer.save_pretrained(temporary)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out
