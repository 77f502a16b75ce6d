"""What lies in the folder of a model: which kind of policy, which weights, whose code, what base.

Weights are read as safetensors only: to read a pickle is to run what it says. Code that a model
brings along is never run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from agents.config.named_models import NAMED_MODELS
from agents.records.folder import RunFolder

ADAPTER_CONFIG = "adapter_config.json"


MODEL_CONFIG = "config.json"
"""Of transformers, for a whole model."""


EMBEDDED_PARTS = ("agents", "assets", "model")


EMBEDDED_MODEL = Path(__file__).parents[2].joinpath(*EMBEDDED_PARTS)


_MAGNITUDE = ".lora_magnitude_vector"


_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def policy_kind(
    folder: Path, wanted: str = "the folder of a policy"
) -> Literal["adapter", "whole"]:
    """Return whether a folder holds an adapter or a whole model.

    Args:
        folder: of a policy.
        wanted: what the caller was to give, in its words.

    Raises:
        ValueError: if it holds neither; of a run, the policies in it are named.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    run = RunFolder.of_final(folder) or RunFolder(folder)
    if policies := run.final_policies():
        found = f"{folder}: name {' or '.join(map(str, policies))}"
    elif run.metrics_path.is_file():
        found = f"the run {folder}, which is not finished: go on with `train TASK --resume`"
    elif (folder / MODEL_CONFIG).is_file():
        return "whole"
    else:
        found = f"{folder}, which {'holds none' if folder.is_dir() else 'is no folder'}"
    raise ValueError(f"Expected {wanted}, such as runs/imdb/final/llm_0, got {found}.")


def find_model(model: str) -> str:
    """Return where transformers finds a model.

    The embedded one is found by its name, and wherever a checkout lay in which an adapter of it was
    trained.
    """
    path = Path(model)
    moved = path.parts[-len(EMBEDDED_PARTS) :] == EMBEDDED_PARTS and not path.exists()
    return str(EMBEDDED_MODEL) if model == "embedded" or moved else model


def plain_name(name: str) -> str:
    """Return the name of an adapter's parameter as peft writes it, without a last `.weight`."""
    return name.removesuffix(".weight") if f"{_MAGNITUDE}." in name else name


def is_down(name: str) -> bool:
    """Return whether a tensor is the factor of an adapter that reads the input of its layer."""
    return name.endswith((".lora_A.weight", ".lora_embedding_A"))


def is_up(name: str) -> bool:
    """Return whether a tensor is the factor of an adapter that writes the output of its layer."""
    return name.endswith((".lora_B.weight", ".lora_embedding_B"))


def up_of(down: str) -> str:
    """Return the name of the other factor of a layer."""
    head, _, tail = down.rpartition("_A")
    return f"{head}_B{tail}"


def is_magnitude(name: str) -> bool:
    """Return whether a tensor holds the magnitudes of DoRA."""
    return name.endswith(_MAGNITUDE)


def is_on_hub(model: str) -> bool:
    """Return whether others find a model under this name: the hub's, and no folder here."""
    ours = model in NAMED_MODELS or Path(model).exists()
    return not ours and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) is not None


def check_safetensors(folder: Path) -> None:
    """Refuse a folder whose only weights are pickles.

    Raises:
        ValueError: if it is one.
    """
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    pickles = [name for name in pickles if name not in _NO_WEIGHTS]
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"Expected weights as safetensors, got {pickles[0]} in {folder}: reading a pickle can "
            "run code. Where you trust it, load it with transformers or peft and save it again."
        )


def why_not(error: Exception) -> str:
    """Return in one line what keeps transformers from loading a model."""
    if "trust_remote_code" in str(error):
        return "it brings code of its own, which is not run"
    if "use_safetensors=True" in str(error):
        return "it has no weights as safetensors, and to read a pickle can run code"
    return str(error).splitlines()[0]
