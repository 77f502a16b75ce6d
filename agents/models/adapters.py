"""Adapters: low-rank updates on one frozen base model, one per policy.

The reference is the base with all adapters off; it costs no memory of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.distributed.sharding import Sharding
from agents.models.averaging import Adapter, Mean, config_of_rank, mean_adapter
from agents.models.backbone import Backbone
from agents.models.compiled import CompiledLayers
from agents.models.files import is_down, plain_name
from agents.models.loading import is_quantized
from agents.models.low_rank import speed_up_adapters


class LoraBackbone(Backbone):
    """One frozen base, one LoRA or DoRA adapter per policy (see `lora_config`)."""

    averages_by_tensor = False

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: Sequence[str],
        *,
        config: LoraConfig,
        device: torch.device,
        seed: int,
        gradient_checkpointing: bool = False,
        sharding: Sharding | None = None,
        compiled: CompiledLayers | None = None,
    ):
        super().__init__(base, tokenizer, device, sharding, compiled)
        base.requires_grad_(False)
        # peft draws the initial weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: PeftModel = get_peft_model(base, config, adapter_name=names[0])  # type: ignore[assignment]
            for name in names[1:]:
                self.model.add_adapter(name, config)
        self._factors = speed_up_adapters(self.model)
        if not is_quantized(base):  # those are loaded where they stay
            self.model.to(device)
        self.model.eval()
        self._wrap_layers(base, checkpoints=gradient_checkpointing)
        self._parameters: dict[str, dict[str, nn.Parameter]] = {
            name: {
                key.replace(f".{name}", ""): parameter
                for key, parameter in self.model.named_parameters()
                if f".{name}." in f"{key}."
            }
            for name in names
        }
        for parameter in (p for own in self._parameters.values() for p in own.values()):
            parameter.requires_grad_(True)  # peft lets the adapter that is shown learn alone
        self._layers = [vars(m) for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        self._shown: str | None = names[0]
        if sharding:
            sharding.shard(base, base.base_model)

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[PreTrainedModel]:
        """Switch to a policy's adapter, or all adapters off."""
        before = self._shown
        self._show_adapter(name)
        try:
            with self._factors.held():
                yield self.base
        finally:
            self._show_adapter(before)

    def _show_adapter(self, name: str | None) -> None:
        # peft's own way walks all modules, three times for the reference, and turns gradients off
        # for every adapter that it deactivates: two forwards under two adapters and one backward
        # would leave the first without a gradient, and without an error.
        if name == self._shown:
            return
        self._shown = name
        shown: dict[str, Any] = {"_disable_adapters": name is None}
        if name is not None:
            shown["_active_adapter"] = [name]
        for attributes in self._layers:
            attributes.update(shown)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return the adapter's matrices."""
        return self._parameters[name]

    @torch.no_grad()
    def weights(self, name: str) -> dict[str, Tensor]:
        """Return the factors, the scaling multiplied into one of them, and magnitudes of DoRA."""
        config = self.model.peft_config[name]
        assert isinstance(config, LoraConfig)
        detached = {key: parameter.detach() for key, parameter in self._parameters[name].items()}
        return Adapter.of(detached, config).tensors(torch.float32)

    @torch.no_grad()
    def mean(self, points: Sequence[Mapping[str, Tensor]]) -> Mean:
        """Return the mean of the updates, of the least rank that keeps to `TOLERANCE`."""
        found = mean_adapter([Adapter.of_products(p) for p in points], [1.0] * len(points))
        tensors = found.adapter.tensors(torch.float32)
        return Mean(weights=tensors, rank=found.rank, error=found.error)

    @contextmanager
    def lent(self, name: str, weights: dict[str, Tensor]) -> Iterator[None]:
        """Let a policy have another adapter for a while, of one rank in all layers."""
        parameters, config = self._parameters[name], self.model.peft_config[name]
        assert isinstance(config, LoraConfig)
        layers = [m for m in self.model.modules() if isinstance(m, LoraLayer) and name in m.scaling]
        own = {key: parameter.data for key, parameter in parameters.items()}
        scalings = [layer.scaling[name] for layer in layers]
        rank = next(len(tensor) for key, tensor in weights.items() if is_down(key))
        try:
            self._show(name, {key: weights[plain_name(key)] for key in own}, [1.0] * len(layers))
            self.model.peft_config[name] = config_of_rank(config, rank)
            yield
        finally:
            self._show(name, own, scalings)
            self.model.peft_config[name] = config

    def _show(self, name: str, tensors: Mapping[str, Tensor], scalings: Sequence[float]) -> None:
        parameters = self._parameters[name]
        for key, parameter in parameters.items():
            parameter.data = tensors[key].to(parameter.device)
        increment_version(parameters.values())  # which casts of them go by
        layers = [m for m in self.model.modules() if isinstance(m, LoraLayer) and name in m.scaling]
        for layer, scaling in zip(layers, scalings, strict=True):
            layer.scaling[name] = scaling

    def save_pretrained(self, name: str, folder: Path, *, writes: bool = True) -> None:
        """Write a peft adapter folder with its tokenizer; adapters are whole everywhere."""
        if writes:
            self.save_adapter(name, folder)
            self.tokenizer.save_pretrained(folder)

    def save_adapter(self, name: str, folder: Path) -> None:
        """Write a peft adapter folder, for one who has base and tokenizer."""
        # Base weights are frozen and of their own size: peft need not look for the base to compare.
        self.model.save_pretrained(
            str(folder), selected_adapters=[name], save_embedding_layers=False
        )
        # peft puts every adapter but one called "default" into a subfolder of its own.
        for file in (folder / name).iterdir():
            file.replace(folder / file.name)
        (folder / name).rmdir()
        # peft's card is a form to fill in, and names the base by its path on this machine.
        (folder / "README.md").unlink(missing_ok=True)


def lora_config(
    model: nn.Module,
    rank: int,
    *,
    targets: Sequence[str] = ("all-linear",),
    rank_pattern: Mapping[str, int] | None = None,
    ramp: tuple[int, int] | None = None,
    dora: bool = False,
) -> LoraConfig:
    """Return the settings of LoRA (Hu et al. 2021, arXiv 2106.09685) or DoRA (arXiv 2402.09353).

    Args:
        model: what will be adapted.
        rank: r; α is 2r everywhere.
        targets: last parts of the names of modules; `all-linear` is every linear layer but the
            head: "LoRA Without Regret" (Schulman et al. 2025) finds that RL matches full
            fine-tuning if the MLP is adapted, too.
        rank_pattern: rank by part of a module's name, such as `layers.0` or `mlp`; the first that
            fits counts.
        ramp: ranks of the first and the last layer instead, between which those of the others lie.
        dora: learn magnitudes apart from directions.

    Raises:
        ValueError: if a target or a pattern fits no module.
    """
    rank_pattern = ramp_pattern(model, *ramp) if ramp else rank_pattern or {}
    names = [f".{name}." for name, _ in model.named_modules()]
    for part in targets:
        if part != "all-linear" and not any(name.endswith(f".{part}.") for name in names):
            raise ValueError(_no_module("lora_targets", "end", part, model))
    for part in rank_pattern:
        if not any(f".{part}." in name for name in names):
            raise ValueError(_no_module("lora_rank_pattern", "are in", part, model))
    ranks = {rf"{re.escape(part)}(\..*)?": r for part, r in rank_pattern.items()}
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear" if "all-linear" in targets else list(targets),
        rank_pattern=ranks,
        alpha_pattern={part: 2 * r for part, r in ranks.items()},
        use_dora=dora,
        task_type="CAUSAL_LM",
    )


def ramp_pattern(model: nn.Module, first: int, last: int) -> dict[str, int]:
    """Return a rank for each layer: r_l = r_0 + (r_f − r_0) l / (L − 1), to the nearest.

    Source: PRILoRA (Benedek & Wolf 2024, arXiv 2401.11316).

    Args:
        model: a causal language model with L layers in a list.
        first: rank of the layer that reads the embeddings; >= 1.
        last: rank of the layer before the head; >= 1.

    Raises:
        ValueError: if there is no such list.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers  # type: ignore[union-attr, operator]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            ranks = torch.linspace(first, last, count, dtype=torch.float64).round().int().tolist()
            return {f"{name.split('.')[-1]}.{i}": rank for i, rank in enumerate(ranks)}
    raise ValueError(
        f"Expected a model with a list of {count} layers for lora_ramp, got "
        f"{type(model).__name__}: pass --lora-rank-pattern instead."
    )


def _no_module(field: str, how: str, part: str, model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if not list(module.children())]
    example = names[len(names) // 2]
    return f"Expected parts in {field} that {how} module names such as {example}, got {part!r}."
