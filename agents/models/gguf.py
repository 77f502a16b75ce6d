"""Models in GGUF files: made into a transformers folder once, and read from there ever after.

Such a file holds weights of 2 to 8 bits, the architecture and the tokenizer. Policies are trained
on a base of bfloat16 or float32, and adapters have to name one that transformers loads by itself:
a folder in the cache, whose name has the digest of the file and the dtype.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.config.named_models import NAMED_MODELS

_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError),
    struct.error,
)
"""What becomes of a reader of bytes where they are damaged, or of a kind it does not know."""


_MAGIC = b"GGUF"


_DIGEST = 16
"""Hexadecimal digits of the SHA-256 that name a folder."""


def is_gguf(model: str) -> bool:
    """Return whether a model is a GGUF file: a path, REPO:FILE, or the name of one in a package."""
    named = NAMED_MODELS.get(model)
    return bool(named and named.package) or model.lower().endswith(".gguf")


def gguf_folder(model: str, dtype: torch.dtype) -> Path:
    """Return the transformers folder of a GGUF file, and write it where there is none yet.

    Args:
        model: `FILE.gguf`, `REPO:FILE.gguf` on the hub, or a named model that a package carries.
        dtype: of the weights in the folder.

    Raises:
        ValueError: if there is no such file, transformers cannot read it, or gguf is missing.
    """
    file = _file(model)
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"Expected a GGUF file, got {str(file)!r}, which is of another kind.")
        opened.seek(0)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()[:_DIGEST]
    name = f"{file.stem}-{digest}-{str(dtype).removeprefix('torch.')}"
    folder = cache_folder() / "gguf" / name
    if not folder.is_dir():
        _write(file, folder, dtype)
    return folder


def cache_folder() -> Path:
    """Return where files are kept that can be made again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # As the XDG base directory specification has it: a relative path counts as none.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "cory"


def _file(model: str) -> Path:
    if model in NAMED_MODELS:
        return _packaged(model)
    if (path := Path(model)).is_file():
        return path.resolve()
    repository, colon, name = model.partition(":")
    if not colon or not repository or path.exists():
        raise ValueError(
            f"Expected the path of a GGUF file, or REPO:FILE.gguf for one on the hub, got "
            f"{model!r}, where there is none."
        )
    try:
        return Path(hf_hub_download(repository, name))
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"Expected a GGUF file on the hub, got {model!r}: {_first_line(error)}"
        ) from error


def _packaged(model: str) -> Path:
    named = NAMED_MODELS[model]
    # Found, not imported: what the package itself would load is not needed.
    spec = find_spec(named.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(folder) / named.file).is_file():
            return file
    raise ValueError(
        f"Expected the package that carries the model {model}, found none: {named.install}"
    )


def _write(file: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write the folder whole or not at all; who is second to do so takes what is there."""
    model, tokenizer = _read(file, dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if find_spec("gguf") is None:
        raise ValueError(
            f"Expected the package gguf to read {file.name}, found none: pip install gguf."
        )
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
        dense = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=dtype, quantization_config=dense, trust_remote_code=False
        )
    except _UNREADABLE as error:
        raise ValueError(
            f"Expected a GGUF file of a causal language model that transformers can read, got "
            f"{str(file)!r}: {_first_line(error)}"
        ) from error
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
