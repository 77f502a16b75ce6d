"""Adapters that lose what matters least: entries of A that are small where inputs are small.

After PRILoRA (Benedek & Wolf 2024, arXiv 2401.11316), whose period and moving average are not
published. What is pruned stays so: it is masked again behind every optimizer step, which Adam's
momentum would undo otherwise. B is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from agents.distributed.world import World
from agents.models.backbone import Backbone

PRUNES = 4
"""In how many steps of equal size the share is reached."""


DECAY = 0.9
"""Of the running norms, per optimizer step."""


class Pruner:
    """The masks of one policy's adapter, and the norms of what its layers read."""

    def __init__(self, backbone: Backbone, name: str, share: float, every: int):
        """Watch the layers of a policy.

        Args:
            backbone: of LoRA adapters.
            name: of the policy.
            share: of each row of A that is zeroed in the end, in [0, 1).
            every: optimizer steps between two prunes.
        """
        self._backbone = backbone
        self._name = name
        self._share = share
        self._every = every
        self._down: dict[str, nn.Parameter] = {}
        """By layer: A (r, D)."""
        self._read: dict[str, list[Tensor]] = {}
        """By layer, since the last step: sums of squares (D,), with the number of tokens behind."""
        for key, layer in backbone.base.named_modules():
            if isinstance(layer, LoraLayer) and name in layer.lora_A:
                self._down[key] = layer.lora_A[name].weight  # type: ignore[assignment]
                # Of the layer itself: its A is not called (see `speed_up_adapters`).
                cast("nn.Module", layer).register_forward_pre_hook(partial(self._watch, key))
        self.steps = 0
        self.norms: dict[str, Tensor] = {}
        """By layer: (D,) running root of the mean square of each input; none before a step."""
        self.masks: dict[str, Tensor] = {}
        """By layer: (r, D) bool, True where A is kept; none before the first prune."""

    def _watch(self, key: str, layer: Any, inputs: tuple[Any, ...]) -> None:
        """Take note of what a layer reads where a gradient will be asked for, but for padding."""
        name, mask = self._backbone.reading
        if not torch.is_grad_enabled() or name != self._name:
            return
        x: Tensor = inputs[0].detach()
        # Experts read some of the tokens only, without their places.
        rows = x[mask] if x.shape[:-1] == mask.shape else x.flatten(0, -2)
        squares = rows.float().square().sum(0)
        self._read.setdefault(key, []).append(torch.cat([squares, squares.new_tensor([len(rows)])]))

    @torch.no_grad()
    def settle(self, world: World, *, stepped: bool) -> None:
        """Take note of a minibatch, and of its optimizer step unless that was left out.

        Args:
            world: the processes that have shared it.
            stepped: whether the optimizer has taken the step.
        """
        nothing = {key: [down.new_zeros(down.shape[1] + 1)] for key, down in self._down.items()}
        sums = [torch.stack(self._read.get(key, none)).sum(0) for key, none in nothing.items()]
        self._read.clear()
        if not stepped:
            return
        totals = world.total(torch.cat(sums)).split([len(s) for s in sums])
        for key, total in zip(self._down, totals, strict=True):
            norm = (total[:-1] / total[-1].clamp(min=1)).sqrt()
            self.norms[key] = DECAY * self.norms.get(key, norm) + (1 - DECAY) * norm
        self.steps += 1
        if self.steps % self._every == 0:
            self.prune(self._share * min(1.0, self.steps // self._every / PRUNES))
        self.apply()

    @torch.no_grad()
    def prune(self, share: float) -> None:
        """Mask the share of each row that has the lowest |A_ij| · norm of input j."""
        for key, down in self._down.items():
            scores = down.abs() * self.norms[key]
            count = round(share * down.shape[1])
            # What was pruned before scores 0, and so comes first again.
            lowest = scores.argsort(dim=1, stable=True)[:, :count]
            self.masks[key] = torch.ones_like(down, dtype=torch.bool).scatter(1, lowest, False)

    @torch.no_grad()
    def apply(self) -> None:
        """Zero what is masked."""
        for key, mask in self.masks.items():
            self._down[key].mul_(mask)

    @property
    def pruned(self) -> float:
        """Share of the entries of A that are masked."""
        masked = sum(int((~mask).sum()) for mask in self.masks.values())
        return masked / sum(down.numel() for down in self._down.values())

    def tensors(self) -> dict[str, Tensor]:
        """Return norms, masks and steps, by name."""
        return {
            "steps": torch.tensor(self.steps),
            **{f"norm/{key}": norm for key, norm in self.norms.items()},
            **{f"mask/{key}": mask for key, mask in self.masks.items()},
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` returned."""
        self.steps = int(tensors["steps"])
        found: dict[str, dict[str, Tensor]] = {"norm": {}, "mask": {}}
        for name, tensor in tensors.items():
            kind, _, key = name.partition("/")
            if key:
                found[kind][key] = tensor.to(self._down[key].device)
        self.norms, self.masks = found["norm"], found["mask"]
