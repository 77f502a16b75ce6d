"""The same arithmetic in fewer passes over memory: what transformers and peft do, faster on CPUs.

Small models spend their time not on matrix products but on the passes between them: casts of LoRA's
inputs to float32 and back, seven passes for one GELU, twenty over logits as wide as the vocabulary.
Each function here equals a slow path to rounding, and `tests/agents/models/test_kernels.py` says
so. Nothing here knows an architecture; what does not fit is left as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agents.maths.distributions import sampling_log_probs

_ATTENTION = "products"


_SLOW_DTYPE = torch.bfloat16
"""In which the backward pass of PyTorch's kernel is slow."""


_LONGEST = 1024
"""Keys up to which a matrix of all scores is faster than the kernel that keeps none."""


_LEAST_ROOM = 32
"""Tokens that fit into a cache before it has to move."""


_BLOCK = {"cpu": 2**19}
"""Numbers in one block of logits: on a CPU, what stays in its cache over all passes."""


_LARGE_BLOCK = 2**26


_M_TRIM_THRESHOLD, _M_MMAP_MAX, _MOST = -1, -4, 2**31 - 1
"""Of glibc's malloc.h; mallopt takes an int. (The threshold of mmap cannot pass 32 MiB.)"""


_LOWEST = torch.finfo(torch.float32).min


def speed_up(model: PreTrainedModel, device: torch.device) -> None:
    """Let a model use faster forms of what it computes, in place; weights and names stay."""
    for module in model.modules():
        if isinstance(module, NewGELUActivation | FastGELUActivation):
            module.forward = _gelu
    if device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(_ATTENTION, attention)
        AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
        model.set_attn_implementation(_ATTENTION)


def _gelu(input: Tensor) -> Tensor:
    # One function for all layers: compiled code is kept by the identity of what it calls.
    return nn.functional.gelu(input, approximate="tanh")


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the whole process; on Linux with glibc only.

    Otherwise every large tensor is new memory to the kernel, which clears it page by page: a third
    of the time of full fine-tuning.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _MOST)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as `sdpa` does; where a gradient will be asked for in bfloat16, by matrix products.

    The backward pass of PyTorch's fused kernel on CPUs takes three to eight times as long in
    bfloat16 at these lengths.

    Args:
        module: the attention layer.
        query: (B, H, L, D).
        key: (B, H / groups, M, D).
        value: (B, H / groups, M, D).
        attention_mask: (B, 1, L, M) bool, True where a key is read; None if causal.
        scaling: of the scores; 1 / √D if None.
        options: what only `sdpa` knows.

    Returns:
        (B, L, H, D), and no weights.
    """
    plain = not options.get("dropout") and all(
        options.get(name) is None for name in ("position_bias", "cache", "softcap", "s_aux")
    )
    graph = torch.is_grad_enabled() and query.requires_grad
    if not (plain and graph and query.dtype == _SLOW_DTYPE and key.shape[2] <= _LONGEST):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    (count, heads, length, width), keys = query.shape, key.shape[2]
    if attention_mask is None:
        full = torch.ones(length, keys, dtype=torch.bool, device=query.device)
        attention_mask = full.tril(keys - length)[None, None]
    if attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(
            ~attention_mask, lowest
        )
    scores = torch.baddbmm(
        attention_mask.expand(count, heads, length, keys).reshape(-1, length, keys),
        query.reshape(-1, length, width),
        key.reshape(-1, keys, width).transpose(1, 2),
        alpha=width**-0.5 if scaling is None else scaling,
    )
    read = torch.bmm(scores.softmax(-1), value.reshape(-1, keys, value.shape[-1]))
    return read.view(count, heads, length, -1).transpose(1, 2), None


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer that have room for more: a new token copies nothing but its own.

    transformers' layer copies all that came before for every token, a fifth of the time of a long
    response. Without gradients only, and for what appends and nothing else.
    """

    _buffers: list[Tensor]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, H, n, D) and return all keys and values, (B, H, m + n, D)."""
        parts = key_states, value_states
        if not self.is_initialized:
            self.lazy_initialization(*parts)
            self._buffers = [part[:, :, :0] for part in parts]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            room = end + max(_LEAST_ROOM, end // 2)
            larger = [part.new_empty(*part.shape[:2], room, part.shape[-1]) for part in parts]
            for new, old in zip(larger, self._buffers, strict=True):
                new[:, :, :start] = old[:, :, :start]
            self._buffers = larger
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer[:, :, start:end] = part
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values


class TokenScores(NamedTuple):
    """What two distributions say of N tokens; all (N,) float32."""

    log_probs: Tensor
    entropies: Tensor
    kls: Tensor
    ref_log_probs: Tensor


def score_tokens(
    logits: Tensor, ref_logits: Tensor, ids: Tensor, temperature: float = 1.0
) -> TokenScores:
    """Score tokens under a policy and its reference, in blocks of rows.

    Equals `log_softmax`, `entropy` and `exact_kl` on the whole, with 2 N V numbers of the dtype of
    the logits kept for the backward pass, and none of float32.

    Args:
        logits: (N, V) of the policy, with a gradient.
        ref_logits: (N, V) of the reference; takes none.
        ids: (N,) the tokens.
        temperature: divides all logits.
    """
    return TokenScores(*_ScoreTokens.apply(logits, ref_logits, ids, temperature))


class _ScoreTokens(torch.autograd.Function):
    """Scores with their gradients, by hand.

    With l = log π, q = log π_ref, entropy H and KL K, for logits z at temperature 1:
    ∂l_a/∂z = 1_a − π, ∂H/∂z = −π (l + H), ∂K/∂z = π (l − q − K).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, ref_logits: Tensor, ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        columns = torch.empty(4, len(ids), device=logits.device)
        for rows in row_blocks(logits):
            log_probs = _log_probs(logits[rows], temperature)
            ref_log_probs = _log_probs(ref_logits[rows], temperature)
            chosen = ids[rows, None]
            columns[0, rows] = log_probs.gather(-1, chosen)[:, 0]
            columns[3, rows] = ref_log_probs.gather(-1, chosen)[:, 0]
            probs = log_probs.exp()
            columns[1, rows] = -torch.linalg.vecdot(probs, log_probs)
            columns[2, rows] = torch.linalg.vecdot(probs, log_probs.sub_(ref_log_probs))
        outputs = columns.unbind()
        ctx.save_for_backward(logits, ref_logits, ids, outputs[1], outputs[2])
        ctx.temperature = temperature
        ctx.mark_non_differentiable(outputs[3])
        return outputs  # type: ignore[return-value]

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, log_prob_grads: Tensor, entropy_grads: Tensor, kl_grads: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, ref_logits, ids, entropies, kls = ctx.saved_tensors
        constants = -(log_prob_grads + entropy_grads * entropies + kl_grads * kls)
        grads = torch.empty_like(logits)
        for rows in row_blocks(logits):
            log_probs = _log_probs(logits[rows], ctx.temperature)
            probs = log_probs.exp()
            gaps = _log_probs(ref_logits[rows], ctx.temperature).neg_().add_(log_probs)
            inner = gaps.mul_(kl_grads[rows, None])
            inner.addcmul_(log_probs, entropy_grads[rows, None], value=-1)
            inner.add_(constants[rows, None]).mul_(probs)
            inner.scatter_add_(-1, ids[rows, None], log_prob_grads[rows, None])
            grads[rows] = inner.div_(ctx.temperature)
        return grads, None, None, None


def row_blocks(logits: Tensor) -> list[slice]:
    """Divide the rows (N, V) so that all passes over a block stay in the cache of a CPU."""
    size = max(1, _BLOCK.get(logits.device.type, _LARGE_BLOCK) // logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    # Tokens of probability 0 count nothing; -inf times 0 would be nan.
    return sampling_log_probs(logits, temperature=temperature).clamp_(min=_LOWEST)
