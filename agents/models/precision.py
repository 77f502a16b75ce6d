"""Float32 weights behind a model that computes in bfloat16.

An update of full fine-tuning is far smaller than the last place of a bfloat16 weight, so what
learns is kept in float32. The model itself holds bfloat16 copies: casting all weights in every
forward pass, as autocast does, costs more than the pass when a token is generated at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters in place, and no buffers: rotary frequencies must stay exact."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


class MasterWeights:
    """Float32 copies of a model's parameters, which take their gradients and lend their values."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        """Take over a float32 model, which computes in `dtype` from now on."""
        self._working = dict(model.named_parameters())
        self.parameters = {
            name: nn.Parameter(parameter.detach().clone())
            for name, parameter in self._working.items()
        }
        cast_parameters(model, dtype)
        for name, parameter in self._working.items():
            parameter.register_post_accumulate_grad_hook(self._hand_over(name))
        self._seen = self._versions()

    def _hand_over(self, name: str):
        master = self.parameters[name]

        def hook(parameter: Tensor) -> None:
            # Several backward passes add up in float32.
            assert parameter.grad is not None
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

        return hook

    def _versions(self) -> int:
        return sum(parameter._version for parameter in self.parameters.values())

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the model up to date, if a master has been written to since."""
        if (versions := self._versions()) == self._seen:
            return
        masters: list[Tensor] = [self.parameters[name] for name in self._working]
        working: list[Tensor] = [*self._working.values()]
        torch._foreach_copy_(working, masters)  # pyright: ignore[reportPrivateImportUsage]
        self._seen = versions

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the model hold the float32 weights for a while, to be saved."""
        narrow = {name: parameter.data for name, parameter in self._working.items()}
        try:
            for name, parameter in self._working.items():
                parameter.data = self.parameters[name].data
            yield
        finally:
            for name, parameter in self._working.items():
                parameter.data = narrow[name]
