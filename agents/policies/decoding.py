"""Token by token: sample responses with a key-value cache, on a GPU by replaying a recorded step.

A step of a small model is hundreds of kernels of a few microseconds each, which Python cannot
launch as fast as a GPU runs them. A CUDA graph launches them at once: the first step of a batch
runs as it is, the second is recorded, and all others replay the record. Both ways give the same
tokens, and `tests/agents/policies/test_decoding.py` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import StaticCache
from transformers.cache_utils import StaticLayer

from agents.models.backbone import Backbone, token_positions

Pick = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From logits (B, V) and uniforms (B,) to tokens (B,) and their log-probs (B,)."""


_ALIGNED = 8
"""Keys that the attention kernels of GPUs read at a time."""


_LOOK_EVERY = 16
"""Replayed steps between two looks at whether all responses have ended: each waits for the GPU."""


_WORTH_RECORDING = 4
"""New tokens from which on a record pays."""


class Decoded(NamedTuple):
    """Responses as they were drawn; all (B, T)."""

    tokens: Tensor
    log_probs: Tensor
    kept: Tensor
    """Whether a token is part of the response: its end token is, what comes after is not."""


def can_record(backbone: Backbone, new_tokens: int) -> bool:
    """Return whether steps of this model can be recorded, and whether that pays.

    Layers that are gathered from other processes cannot; a window that slides, or an attention
    that is not PyTorch's own, needs a mask of another form; bitsandbytes has not been tried.
    """
    return (
        backbone.device.type == "cuda"
        and new_tokens >= _WORTH_RECORDING
        and backbone.sharding is None
        and not backbone.quantized
        and backbone.base.config._attn_implementation == "sdpa"
        and backbone.takes_wide_mask
        and all(type(layer) is StaticLayer for layer in StaticCache(backbone.config, 1).layers)
    )


def decode_stepwise(
    backbone: Backbone,
    name: str | None,
    ids: Tensor,
    mask: Tensor,
    uniforms: Tensor,
    pick: Pick,
    *,
    limits: Tensor,
) -> Decoded:
    """Sample responses with a cache that grows.

    Args:
        backbone: holds the models.
        name: policy, or None for the reference.
        ids: (B, L) prompts, padded on the left.
        mask: (B, L) bool, True where they are not padded.
        uniforms: (B, T) the randomness of each token.
        pick: takes a token; called once for each place, in order.
        limits: (B,) the most tokens of each, from 1 to T.
    """
    cache = backbone.new_cache()
    positions = token_positions(mask)
    alive = torch.ones(len(ids), dtype=torch.bool, device=backbone.device)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for t in range(uniforms.shape[1]):
        hidden = backbone.hidden(name, ids, mask, positions, cache)[:, -1]
        tokens, chosen = pick(backbone.logits(name, hidden), uniforms[:, t])
        columns.append((tokens, chosen, alive))
        alive = alive & ~torch.isin(tokens, backbone.stop_ids) & (limits > t + 1)
        if not backbone.any_alive(alive):
            break
        ids = tokens[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = positions[:, -1:] + 1
    return Decoded(*(torch.stack(parts, dim=1) for parts in zip(*columns, strict=True)))


def decode_recorded(
    backbone: Backbone,
    name: str | None,
    ids: Tensor,
    mask: Tensor,
    uniforms: Tensor,
    pick: Pick,
    *,
    limits: Tensor,
    record: bool = True,
) -> Decoded:
    """Sample responses with a cache of fixed size, by a step that reads and writes fixed tensors.

    Args:
        backbone: holds the models; `can_record` has said yes.
        name: policy, or None for the reference.
        ids: (B, L) prompts, padded on the left.
        mask: (B, L) bool, True where they are not padded.
        uniforms: (B, T) the randomness of each token.
        pick: takes a token; without state, for it is recorded.
        limits: (B,) the most tokens of each, from 1 to T; as many steps are taken as the largest.
        record: False runs every step as it is, which needs no GPU.
    """
    steps = int(limits.max())
    step = _FixedStep(backbone, name, ids, mask, uniforms=uniforms[:, :steps], pick=pick)
    replay = step.run
    for t in range(1, steps):
        if t == 2 and record:
            replay = _recorded(step.run)
        replay()
        if t % _LOOK_EVERY == 0 and bool(_ends(step.tokens[:, :t], backbone).any(1).all()):
            break
    ended = _ends(step.tokens, backbone).long().cumsum(1)
    kept = torch.arange(steps, device=backbone.device)[None] < limits[:, None]
    kept[:, 1:] &= ended[:, :-1] == 0
    longest = int(kept.sum(1).max())
    return Decoded(step.tokens[:, :longest], step.log_probs[:, :longest], kept[:, :longest])


class _FixedStep:
    """A step of decoding between tensors that stay where they are, so that it can be recorded.

    The first token is sampled when it is built; `run` samples the next one.
    """

    def __init__(
        self,
        backbone: Backbone,
        name: str | None,
        ids: Tensor,
        mask: Tensor,
        *,
        uniforms: Tensor,
        pick: Pick,
    ):
        (count, self._length), steps = ids.shape, uniforms.shape[1]
        self._backbone, self._name, self._uniforms, self._pick = backbone, name, uniforms, pick
        cache = backbone.new_cache()
        positions = token_positions(mask)
        hidden = backbone.hidden(name, ids, mask, positions, cache)[:, -1]
        room = -(-(self._length + steps) // _ALIGNED) * _ALIGNED
        self._cache = StaticCache(backbone.config, max_cache_len=room)
        for layer, filled in zip(self._cache.layers, cache.layers, strict=True):
            layer.update(filled.keys, filled.values)  # type: ignore[union-attr]
        device = backbone.device
        self._read = torch.zeros(count, 1, 1, room, dtype=torch.bool, device=device)
        self._read[:, 0, 0, : self._length] = mask
        self._last, self._position = ids[:, -1:].clone(), positions[:, -1:].clone()
        self._place = torch.zeros(1, dtype=torch.long, device=device)
        self.tokens = torch.zeros(count, steps, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(count, steps, device=device)
        self._emit(hidden)

    def run(self) -> None:
        """Sample the next token of every response."""
        self._read.index_fill_(3, self._place + self._length, True)
        self._place.add_(1)
        self._position.add_(1)
        hidden = self._backbone.hidden(
            self._name, self._last, self._read, self._position, self._cache
        )
        self._emit(hidden[:, -1])

    def _emit(self, hidden: Tensor) -> None:
        uniforms = self._uniforms.index_select(1, self._place)[:, 0]
        drawn, chosen = self._pick(self._backbone.logits(self._name, hidden), uniforms)
        self.tokens.index_copy_(1, self._place, drawn[:, None])
        self.log_probs.index_copy_(1, self._place, chosen[:, None])
        self._last.copy_(drawn[:, None])


def _ends(tokens: Tensor, backbone: Backbone) -> Tensor:
    return torch.isin(tokens, backbone.stop_ids)


def _recorded(step: Callable[[], None]) -> Callable[[], None]:
    """Record what a step launches, without running it."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # `torch.cuda.graph` would collect garbage and give all free memory back first.
        graph.capture_begin()
        try:
            step()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay
