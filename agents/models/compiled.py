"""Decoder layers that are compiled: one graph for all layers of a model, kept between runs.

Only passes with a gradient are compiled, which are those of the update, where most of the time
goes. Generation, scoring and evaluation run as they do without. The layers of a model differ in
nothing but their weights, which are inputs of a graph, and numbers of rows and tokens are left
open: one graph does for full fine-tuning, and two for adapters, whose first layer reads what has no
gradient. As many come again for batches without padding, which need no mask.

Source: regional compilation, https://docs.pytorch.org/tutorials/recipes/regional_compilation.html.
What it costs and saves is measured in `gain.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from agents.models.gguf import cache_folder
from agents.models.low_rank import LowRankLayer

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


class CompiledLayers:
    """The compiled layers of the models of a backbone."""

    def __init__(self, backend: str = "inductor"):
        """Prepare to compile, once a layer runs.

        Args:
            backend: of `torch.compile`.
        """
        _keep_graphs()
        self._backend = backend
        self._on = True
        self._functions: dict[type[nn.Module], Callable[..., Any]] = {}

    def add(self, model: nn.Module) -> None:
        """Let the decoder layers of a model be compiled, in place; weights and names stay.

        Raises:
            ValueError: if it has none that transformers can tell.
        """
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise ValueError(
                "Expected a model of decoder layers with compile, got "
                f"{type(model).__name__}: leave out --compile."
            )
        for layer in layers:
            adapted = [part for part in layer.modules() if isinstance(part, LowRankLayer)]
            layer.forward = partial(self._run, layer, layer.forward, adapted)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Let all layers run as they are for a while."""
        self._on = False
        try:
            yield
        finally:
            self._on = True

    def _run(
        self,
        layer: nn.Module,
        eager: Callable[..., Any],
        adapted: Sequence[LowRankLayer],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        given = (*args, *kwargs.values())
        cached = any(isinstance(value, Cache) for value in given)
        if cached or not (self._on and torch.is_grad_enabled()):
            return eager(*args, **kwargs)
        tensors = [*_tensors(given)]
        for part in adapted:
            part.look_up(tensors[0].dtype)
        for tensor in tensors:  # (B, L, …), or masks (B, 1, L, L)
            open_sizes = (0, 2, 3) if tensor.dim() == 4 else (0, 1)
            torch._dynamo.maybe_mark_dynamic(tensor, open_sizes)
        return self._function(type(layer))(layer, *args, **kwargs)

    def _function(self, kind: type[nn.Module]) -> Callable[..., Any]:
        if kind not in self._functions:
            self._functions[kind] = torch.compile(kind.forward, backend=self._backend)
        return self._functions[kind]


def _keep_graphs() -> None:
    """Let PyTorch keep graphs in our folder, unless the user has named one.

    Its own default is in the folder of temporary files, and stands in the environment once
    PyTorch's compiler has been imported.
    """
    if os.environ.get(_CACHE) in (None, default_cache_dir()):
        os.environ[_CACHE] = str(cache_folder() / "inductor")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield tensors, and those within tuples, such as the angles of positions."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)
