"""The models of a run: one base with named LoRA adapters, or one full copy per policy.

A backbone answers for every policy and for the reference model, whose name is None. With LoRA the
reference is the base with all adapters off; with full fine-tuning it is a frozen copy.
`use_adapter` is the only place that switches adapters.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

EMBEDDED_NAME = "agents/assets/model"
EMBEDDED_MODEL = Path(__file__).parent.parent / EMBEDDED_NAME

AdapterKind = Literal["lora", "full"]
DType = Literal["auto", "float32", "bfloat16"]


class Backbone(ABC):
    """The models of a run, by policy name."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, device: torch.device):
        self.tokenizer = tokenizer
        self.device = device

    @abstractmethod
    def use_adapter(self, name: str | None) -> Any:
        """Return a context manager that yields a policy's causal LM, or the reference's (None)."""

    @abstractmethod
    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return what a policy trains, by name; all float32."""

    @abstractmethod
    def save_pretrained(self, name: str, folder: Path) -> None:
        """Write a folder that transformers and peft load alone."""

    @property
    @abstractmethod
    def config(self) -> Any:
        """Return the transformers configuration of the base model."""

    def anybody(self, alive: Tensor) -> bool:
        """Return whether a response (B,) bool goes on, so that one more token is needed."""
        return bool(alive.any())

    @property
    def context(self) -> int:
        """Longest sequence the model was trained on, in tokens."""
        return int(self.config.max_position_embeddings)

    def hidden(
        self,
        name: str | None,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Any = None,
    ) -> Tensor:
        """Run the network up to its last hidden states.

        Args:
            name: policy, or None for the reference.
            ids: (B, n) new tokens.
            mask: (B, m + n) bool over the m cached and the n new tokens.
            positions: (B, n) position of each new token in its own text, not counting padding.
            cache: key-value cache of the m tokens before, filled in place; None for none.

        Returns:
            (B, n, D) in the dtype of the network.
        """
        with self.use_adapter(name) as model:
            return model.base_model(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state

    def logits(self, name: str | None, hidden: Tensor) -> Tensor:
        """Return next-token logits (..., V) for hidden states (..., D)."""
        with self.use_adapter(name) as model:
            head = model.get_output_embeddings()
            return head(hidden.to(head.weight.dtype))


class LoraBackbone(Backbone):
    """One frozen base, one LoRA adapter per policy (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: Sequence[str],
        *,
        rank: int,
        device: torch.device,
        seed: int,
    ):
        super().__init__(tokenizer, device)
        base.requires_grad_(False)
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            # Every linear layer but the head: "LoRA Without Regret" (Schulman et al. 2025) finds
            # that RL matches full fine-tuning if the MLP is adapted, too.
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        # peft draws the initial weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: PeftModel = get_peft_model(base, config, adapter_name=names[0])  # type: ignore[assignment]
            for name in names[1:]:
                self.model.add_adapter(name, config)
        self.model.to(device).eval()
        self._parameters: dict[str, dict[str, nn.Parameter]] = {
            name: {
                key.replace(f".{name}.", "."): parameter
                for key, parameter in self.model.named_parameters()
                if f".{name}." in key
            }
            for name in names
        }
        self._restore_gradients()

    @property
    def config(self) -> Any:
        """Return the configuration of the base."""
        return self.model.get_base_model().config

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[PreTrainedModel]:
        """Switch to a policy's adapter, or all adapters off."""
        base: PreTrainedModel = self.model.get_base_model()  # type: ignore[assignment]
        if name is None:
            with self.model.disable_adapter():
                yield base
            self._restore_gradients()
            return
        if self.model.active_adapter != name:
            self.model.set_adapter(name)
            self._restore_gradients()
        yield base

    def _restore_gradients(self) -> None:
        # peft turns gradients off for every adapter it deactivates. Two forwards under two adapters
        # and one backward would leave the first without a gradient, and without an error.
        for parameters in self._parameters.values():
            for parameter in parameters.values():
                parameter.requires_grad_(True)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return the adapter's matrices."""
        return self._parameters[name]

    def save_pretrained(self, name: str, folder: Path) -> None:
        """Write a peft adapter folder with its tokenizer."""
        self.model.save_pretrained(str(folder), selected_adapters=[name])
        # peft puts every adapter but one called "default" into a subfolder of its own.
        for file in (folder / name).iterdir():
            file.replace(folder / file.name)
        (folder / name).rmdir()
        # peft's card is a form to fill in, and names the base by its path on this machine.
        (folder / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)


class FullBackbone(Backbone):
    """One trainable copy of the whole model per policy and one frozen copy for the reference."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: Sequence[str],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__(tokenizer, device)
        # Master weights stay in float32, or small updates would be lost; autocast computes in
        # `dtype`.
        base = base.float().eval()
        nn.Module.to(base, device)
        self._autocast = dtype if dtype != torch.float32 else None
        self.models: dict[str | None, PreTrainedModel] = {
            name: copy.deepcopy(base).requires_grad_(True) for name in names
        }
        self.models[None] = base.requires_grad_(False)

    @property
    def config(self) -> Any:
        """Return the configuration of the base."""
        return self.models[None].config

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[PreTrainedModel]:
        """Pick the copy of a policy, or the frozen one."""
        enabled = self._autocast is not None
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=enabled):
            yield self.models[name]

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return all weights of the copy."""
        return dict(self.models[name].named_parameters())

    def save_pretrained(self, name: str, folder: Path) -> None:
        """Write a transformers folder with its tokenizer."""
        self.models[name].save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def pick_device(device: str) -> torch.device:
    """Return the named device; `auto` prefers an accelerator."""
    if device != "auto":
        return torch.device(device)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def pick_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in; `auto` takes bfloat16 where the hardware multiplies it."""
    if dtype != "auto":
        return getattr(torch, dtype)
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if fast else torch.float32


def load_base(model: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer.

    Args:
        model: `embedded`, a folder, or a name on the hub.
        dtype: of the weights.

    Raises:
        ValueError: if there is no such model.
    """
    source = str(EMBEDDED_MODEL) if model in ("embedded", EMBEDDED_NAME) else model
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        base = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"Expected a causal language model (`embedded`, a folder, or a name on the hub), "
            f"got {model!r}: {reason}"
        ) from error
    if source == str(EMBEDDED_MODEL):
        base.name_or_path = (
            EMBEDDED_NAME  # peft writes it into the adapter: no path of this machine
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return base, tokenizer


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
) -> Backbone:
    """Build the backbone of a run around a base model."""
    if adapter == "lora":
        base = base.to(dtype)  # type: ignore[arg-type]
        return LoraBackbone(base, tokenizer, names, rank=rank, device=device, seed=seed)
    return FullBackbone(base, tokenizer, names, dtype=dtype, device=device)
