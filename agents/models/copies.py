"""Full fine-tuning: one copy of the base model per policy, and a frozen one as the reference."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.distributed.sharding import Sharding, whole_tensors
from agents.models.averaging import Mean, mean_tensor
from agents.models.backbone import Backbone
from agents.models.compiled import CompiledLayers
from agents.models.precision import MasterWeights, cast_parameters


class FullBackbone(Backbone):
    """One trainable copy of the whole model per policy and one frozen copy for the reference."""

    averages_by_tensor = True

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: Sequence[str],
        *,
        dtype: torch.dtype,
        device: torch.device,
        gradient_checkpointing: bool = False,
        sharding: Sharding | None = None,
        compiled: CompiledLayers | None = None,
    ):
        super().__init__(base, tokenizer, device, sharding, compiled)
        base = base.float().eval()
        nn.Module.to(base, device)
        narrow = dtype if dtype != torch.float32 else None
        # Layers that are spread stay in float32; autocast computes in `dtype`.
        self._autocast = narrow if sharding else None
        self.models: dict[str | None, PreTrainedModel] = {}
        self._masters: dict[str, MasterWeights] = {}
        self._parameters: dict[str, dict[str, nn.Parameter]] = {}
        for name in (*names, None):  # one after the other: none is whole for longer than it must
            model = copy.deepcopy(base) if name else base
            self.models[name] = model.requires_grad_(name is not None)
            if name:
                self._wrap_layers(model, checkpoints=gradient_checkpointing)
            if sharding:
                sharding.shard(model, model.base_model)
            if name and narrow and not sharding:
                self._masters[name] = MasterWeights(model, narrow)
            elif narrow and not sharding:
                cast_parameters(model, narrow)
            if name:
                # Taken once: while a layer is gathered, the model shows other tensors.
                own = dict(model.named_parameters())
                masters = self._masters.get(name)
                self._parameters[name] = masters.parameters if masters else own

    @contextmanager
    def use_adapter(self, name: str | None) -> Iterator[PreTrainedModel]:
        """Pick the copy of a policy, or the frozen one."""
        if masters := self._masters.get(name or ""):
            masters.refresh()
        enabled = self._autocast is not None
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=enabled):
            yield self.models[name]

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return all weights of the copy, in float32."""
        return self._parameters[name]

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return all weights of the copy, in float32."""
        return {key: parameter.detach() for key, parameter in self._parameters[name].items()}

    def mean(self, points: Sequence[Mapping[str, Tensor]]) -> Mean:
        """Return the mean of each tensor."""
        shares = [1.0] * len(points)
        mean = {key: mean_tensor([p[key] for p in points], shares) for key in points[0]}
        return Mean(weights=mean)

    @contextmanager
    def lent(self, name: str, weights: dict[str, Tensor]) -> Iterator[None]:
        """Change places with other weights for a while: no copy of the whole is made."""
        self._swap(name, weights)
        try:
            yield
        finally:
            self._swap(name, weights)

    @torch.no_grad()
    def _swap(self, name: str, weights: dict[str, Tensor]) -> None:
        for key, parameter in self._parameters[name].items():
            own = parameter.detach().clone()
            parameter.copy_(weights[key])
            weights[key].copy_(own)

    def save_pretrained(self, name: str, folder: Path, *, writes: bool = True) -> None:
        """Write a transformers folder with its tokenizer."""
        model = self.models[name]
        whole = whole_tensors(model.state_dict(), keep=writes) if self.sharding else None
        masters = self._masters.get(name)
        if writes:
            with masters.shown() if masters else nullcontext():
                model.save_pretrained(folder, state_dict=whole)
            self.tokenizer.save_pretrained(folder)
