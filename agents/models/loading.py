"""Base models and tokenizers from a folder, the hub or a quantised file; device and dtype.

Nothing that a model brings is executed or unpickled.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.config.named_models import NAMED_MODELS
from agents.config.sources import check_repository
from agents.models.files import check_safetensors, find_model, why_not
from agents.models.gguf import gguf_folder, is_gguf

DType = Literal["auto", "float32", "bfloat16"]


Quantization = Literal["none", "8bit", "4bit"]


def pick_device(device: str) -> torch.device:
    """Return the named device; `auto` prefers an accelerator.

    Raises:
        ValueError: if this machine, or this build of PyTorch, has no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        return accelerator or torch.device("cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    known = {"cpu": 1}
    if accelerator is not None:
        known[accelerator.type] = torch.accelerator.device_count()
    if place is None or not 0 <= (place.index or 0) < known.get(place.type, 0):
        more = "" if accelerator else ": PyTorch finds no accelerator on this machine"
        raise ValueError(
            f"Expected a device out of auto, {', '.join(known)}, got {device!r}{more}; leave out "
            "--device for the best there is."
        )
    return place


def pick_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in; `auto` takes bfloat16 where the hardware multiplies it."""
    if dtype != "auto":
        return getattr(torch, dtype)
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def load_base(
    model: str,
    dtype: torch.dtype,
    *,
    quantization: Quantization = "none",
    device: torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer.

    Args:
        model: `embedded`, a folder, a name on the hub, or what `gguf_folder` takes.
        dtype: of the weights, or of the arithmetic on quantized ones.
        quantization: of the weights of linear layers.
        device: where quantized weights are put; the CPU if None.

    Raises:
        ValueError: if there is no such model, or it cannot be quantized here.
    """
    source = find_model(model)
    if model not in NAMED_MODELS:
        check_repository("causal language model", source)
    if is_gguf(model):
        source = str(gguf_folder(model, dtype))
    options: dict[str, Any] = {
        **{"dtype": dtype, "output_loading_info": True},
        **{"use_safetensors": True, "trust_remote_code": False},
    }
    if quantization != "none":
        options |= {
            "quantization_config": quantization_config(quantization, dtype),
            "device_map": {"": str(device or "cpu")},
        }
    check_safetensors(Path(source))
    try:
        tokenizer = load_hf_tokenizer(source)
        base, report = AutoModelForCausalLM.from_pretrained(source, **options)  # type: ignore[misc]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a causal language model (`embedded`, a folder, or a name on the hub), "
            f"got {model!r}: {why_not(error)}"
        ) from error
    if report["missing_keys"]:
        # transformers would make them up and only warn.
        raise ValueError(
            f"Expected a trained causal language model, got {model!r}, which lacks the weights "
            f"{', '.join(sorted(report['missing_keys'])[:3])}."
        )
    if Path(source).is_dir():
        base.name_or_path = str(Path(source).absolute())  # what an adapter says it belongs to
    return base, tokenizer


def load_hf_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads, and does so on the left.

    Raises:
        ValueError: if it has no end token.
        OSError: if there is none.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError("its tokenizer has no end token: set eos_token and save it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # what is padded is masked: any token will do
    return tokenizer


def quantization_config(kind: Literal["8bit", "4bit"], dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the settings of LLM.int8() (arXiv 2208.07339) or QLoRA (arXiv 2305.14314).

    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"Expected bitsandbytes for quantization {kind}, found none: "
            'pip install -c constraints.txt -e ".[agents,quantization]".'
        )
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def is_quantized(model: PreTrainedModel) -> bool:
    """Return whether the weights of a model are packed."""
    return model.config.to_dict().get("quantization_config") is not None
