"""Backbone: the language models of a run by policy name, up to their hidden states and logits.

This is the base class. `LoraBackbone` (adapters.py) holds one frozen base and an adapter per
policy, `FullBackbone` (copies.py) one full copy per policy. The reference model is asked for by the
name None. Sampling and scoring are in `agents.policies`.

Nothing here depends on an architecture. Hidden states come from the body of a model, and logits
from the model's own forward pass over them. `check_pieces` refuses a model where that is wrong.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from agents.distributed.sharding import Sharding
from agents.models.averaging import Mean
from agents.models.compiled import CompiledLayers
from agents.models.kernels import GrowingLayer
from agents.models.loading import is_quantized

AdapterKind = Literal["lora", "dora", "full"]


class Backbone(ABC):
    """The models of a run, by policy name."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        sharding: Sharding | None = None,
        compiled: CompiledLayers | None = None,
    ):
        self.base = base
        self.tokenizer = tokenizer
        self.device = device
        expect_rows_for_tokens(base, tokenizer)
        self.stop_ids = torch.tensor(_stop_ids(base, tokenizer), device=device)
        """(S,) tokens that end a response; chat models have several."""
        self.tokenless_ids = torch.tensor(_tokenless_ids(base, tokenizer), device=device)
        """(K,) int64 rows of the head that stand for no token; they have probability 0."""
        self.sharding = sharding
        self.compiled = compiled
        """The compiled layers; None where they run as they are."""
        self.takes_wide_mask = False
        """Whether `hidden` takes a mask of its own for each new token; only tested on a GPU."""
        self.reading: tuple[str | None, Tensor] = None, torch.empty(0)
        """Who reads in the present forward pass, and (B, n) bool: which tokens are no padding."""

    @abstractmethod
    def use_adapter(self, name: str | None) -> Any:
        """Return a context manager that yields a policy's causal LM, or the reference's (None)."""

    @abstractmethod
    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Return what a policy trains, by name; all float32."""

    averages_by_tensor: ClassVar[bool]
    """Whether the mean of policies is the mean of each tensor, so that a running one will do."""

    @abstractmethod
    def weights(self, name: str) -> dict[str, Tensor]:
        """Return what a policy is besides its base, as `mean` and `lent` take it; no copies."""

    @abstractmethod
    def mean(self, points: Sequence[Mapping[str, Tensor]]) -> Mean:
        """Return the mean of what `weights` returned, at several times or of several policies."""

    @abstractmethod
    def lent(self, name: str, weights: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Let a policy have other weights for a while; whatever is lent is not to be read then."""

    @abstractmethod
    def save_pretrained(self, name: str, folder: Path, *, writes: bool = True) -> None:
        """Write a folder that transformers and peft load alone.

        With sharded layers all ranks must call it; one of them writes.
        """

    @property
    def config(self) -> Any:
        """Return the transformers configuration of the language model."""
        return self.base.config.get_text_config(decoder=True)

    def any_alive(self, alive: Tensor) -> bool:
        """Return whether some response has not ended, so that one more token must be sampled.

        Sharded layers are gathered from all ranks, so all ranks must run them equally often: then
        the responses of all ranks count.

        Args:
            alive: (B,) bool, of this rank.
        """
        here = bool(alive.any())
        return self.sharding.world.any(here) if self.sharding else here

    @property
    def quantized(self) -> bool:
        """Return whether the weights of the base are 8 or 4 bits wide."""
        return is_quantized(self.base)

    @property
    def rows(self) -> int:
        """Return how many tokens the model can read: ids are below this."""
        return _rows(self.base)

    @property
    def context(self) -> int:
        """Longest sequence that the model can read, in tokens; some 10³⁰ if nothing limits it."""
        # Absent where positions are relative, and under another name in the files of GPT-2.
        positions = getattr(self.config, "max_position_embeddings", None)
        return int(positions or self.tokenizer.model_max_length)

    def new_cache(self) -> DynamicCache:
        """Return an empty key-value cache, with sliding windows where the model has them."""
        cache = DynamicCache(config=self.config)
        cache.layers = [
            GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
        ]
        return cache

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
            mask: (B, m + n) bool over the m cached and the n new tokens; or (B, 1, n, K) bool:
                which of the K places of a fixed cache a token reads (see `takes_wide_mask`).
            positions: (B, n) position of each new token in its own text, not counting padding.
            cache: key-value cache of the m tokens before, filled in place; None for none.

        Returns:
            (B, n, D) in the dtype of the network.
        """
        self.reading = name, mask[:, -ids.shape[1] :]
        with self.use_adapter(name) as model:
            return model.base_model(
                input_ids=ids,
                attention_mask=mask if mask.dim() == 4 else mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state

    def logits(self, name: str | None, hidden: Tensor) -> Tensor:
        """Return next-token logits (..., V) for hidden states (..., D).

        Vocabularies are padded to round numbers: rows without a token get -inf here, the one place
        that sampling, scoring, KL, entropy and the reference have in common.
        """
        logits = self.head_logits(name, hidden)
        if not len(self.tokenless_ids):
            return logits
        # In place where no operation can have kept what it returned for its gradient.
        fill = logits.index_fill if logits.requires_grad else logits.index_fill_
        return fill(-1, self.tokenless_ids, -torch.inf)

    def head_logits(self, name: str | None, hidden: Tensor) -> Tensor:
        """Return what the model's head says (..., V), of rows without a token as well."""
        with self.use_adapter(name) as model:
            dtype = model.get_output_embeddings().weight.dtype
            states = hidden.to(dtype).reshape(1, -1, hidden.shape[-1])
            logits = _with_states(model, states)(inputs_embeds=states).logits
            return logits.view(*hidden.shape[:-1], -1)

    def _wrap_layers(self, model: nn.Module, *, checkpoints: bool) -> None:
        """Compile the layers of a model, and recompute what is compiled: as far as is wanted."""
        if self.compiled:
            self.compiled.add(model)
        if checkpoints:
            self._checkpoint_layers(model)

    def _checkpoint_layers(self, model: nn.Module) -> None:
        """Recompute a model's layers in the backward pass instead of keeping what they compute.

        transformers does so in training mode only, which turns dropout on.
        """
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise ValueError(
                "Expected a model whose layers can be recomputed with gradient_checkpointing, got "
                f"{type(self.base).__name__}: pass --no-gradient-checkpointing."
            )
        for layer in layers:
            layer.forward = partial(self._run_layer, layer.forward)

    def _run_layer(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # By the time of the backward pass another policy may be the active one.
        run = partial(self._run_under, self.reading, forward)
        return checkpoint(run, *args, use_reentrant=False, **kwargs)

    def _run_under(
        self,
        reading: tuple[str | None, Tensor],
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        self.reading = reading
        with self.use_adapter(reading[0]):
            return forward(*args, **kwargs)


class _OnlyStates(BaseModelOutput):
    """What the body of a model returns, with None for all but the last hidden states."""

    def __getattr__(self, name: str) -> None:
        return None


class _NoBody(nn.Module):
    """A body that has computed its last hidden states already."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    @property
    def decoder(self) -> _NoBody:
        """What OPT calls in its body."""
        return self

    def forward(self, *_: Any, **__: Any) -> BaseModelOutput:
        return _OnlyStates(last_hidden_state=self.states)  # type: ignore[arg-type]


def _with_states(model: PreTrainedModel, states: Tensor) -> PreTrainedModel:
    """Return a model of the same head and forward pass that starts from these hidden states.

    What a model does to its logits (Gemma's soft cap, the scales of Granite and Cohere) stands in
    its forward pass and nowhere else. The copy is shallow: weights, hooks and adapters are those of
    the model.
    """
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _NoBody(states)}
    return head


def token_positions(mask: Tensor) -> Tensor:
    """Positions (B, L) of tokens in their own text, for a mask (B, L) with padding on the left."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def expect_rows_for_tokens(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a model has a row for the tokens that its tokenizer puts around every text.

    A padding token without one is replaced, in place, by the end token: what is padded is masked.

    Raises:
        ValueError: if the model cannot read a begin token, or cannot say an end token.
    """
    rows = _rows(base)
    if int(tokenizer.pad_token_id) >= rows:  # type: ignore[arg-type]
        tokenizer.pad_token = tokenizer.eos_token
    around: list[int] = tokenizer("")["input_ids"]  # type: ignore[assignment]
    for i in (tokenizer.eos_token_id, *around):
        if int(i) >= rows:  # type: ignore[arg-type]
            raise ValueError(
                f"Expected a model with a row for each special token of its tokenizer, got {rows} "
                f"rows and {tokenizer.convert_ids_to_tokens(int(i))!r} with id {i}: "  # type: ignore[arg-type]
                "resize_token_embeddings(len(tokenizer)) and save the model again."
            )


def _rows(base: PreTrainedModel) -> int:
    # Of the weight, which an adapted layer shows as well.
    return int(base.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]


def _tokenless_ids(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    with_token = set(tokenizer.get_vocab().values())
    return [i for i in range(int(base.get_output_embeddings().out_features)) if i not in with_token]  # type: ignore[union-attr]


def _stop_ids(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    generation = base.generation_config.eos_token_id if base.generation_config else None
    more = generation if isinstance(generation, list) else [generation]
    return sorted({i for i in [tokenizer.eos_token_id, *more] if isinstance(i, int)})


@torch.no_grad()
def check_pieces(backbone: Backbone, tolerance: float) -> None:
    """Check on six tokens that padding, cache and head give the logits of the model as a whole.

    Args:
        backbone: whose reference is run.
        tolerance: largest difference, in shares of the largest logit.

    Raises:
        ValueError: if they do not: recurrent models that padding disturbs, positions that cannot be
            given, heads that read more than the last hidden states.
    """
    ids = torch.arange(1, 7, device=backbone.device)[None] % backbone.rows
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]], device=backbone.device).bool()
    positions = token_positions(mask)
    padded = torch.cat([ids[:, :2], ids], dim=1)
    kind = type(backbone.base).__name__
    try:
        with backbone.use_adapter(None) as model:
            expected = model(input_ids=ids).logits.float()
        cache = backbone.new_cache()
        parts = [slice(0, 6), slice(6, 7), slice(7, 8)]
        hidden = [
            backbone.hidden(None, padded[:, p], mask[:, : p.stop], positions[:, p], cache)
            for p in parts
        ]
        found = backbone.head_logits(None, torch.cat(hidden, dim=1)[:, 2:]).float()
    except (TypeError, AttributeError, KeyError, ValueError, AssertionError) as error:
        # bitsandbytes asserts that a processor can multiply matrices of these sizes
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"Expected a causal language model that runs with padding, positions and a cache, got "
            f"{kind}: {reason}"
        ) from error
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= tolerance:
        raise ValueError(
            f"Expected a causal language model whose logits do not depend on padding and cache and "
            f"follow from its last hidden states, got {kind}, where they differ by "
            f"{difference:.2g} of the largest: choose another --model."
        )


@torch.no_grad()
def takes_wide_mask(backbone: Backbone, tolerance: float) -> bool:
    """Return whether a model gives the same hidden states for a mask that names each pair.

    Those that derive distances from the mask (Bloom) or read a window of it (Gemma) do not.

    Args:
        backbone: whose reference is run.
        tolerance: largest difference, in shares of the largest hidden state.
    """
    ids = torch.arange(1, 9, device=backbone.device)[None] % backbone.rows
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]], device=backbone.device).bool()
    positions = token_positions(mask)
    itself = torch.eye(8, dtype=torch.bool, device=backbone.device)  # or padding would read nothing
    wide = (mask[:, None, :] & torch.ones_like(itself).tril()) | itself
    expected = backbone.hidden(None, ids, mask, positions)[mask].float()
    try:
        found = backbone.hidden(None, ids, wide[:, None], positions)[mask].float()
    except (TypeError, AttributeError, ValueError, IndexError, RuntimeError):
        return False
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
