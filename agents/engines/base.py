"""What an engine is, and what engines other than the learner's own model have in common.

Such an engine gets token ids and gives token ids back, with the log-probs they were sampled with:
nothing is tokenized twice. What it returns is checked before a policy learns from it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

import torch
from torch import Tensor

from agents.errors import EngineError
from agents.policies.llm import Generated, LLMPolicy, response_texts
from agents.types import Generation


class Engine(Protocol):
    """Generates the responses of a rollout."""

    def sync(self, policy: LLMPolicy) -> None:
        """Take over the policy's present weights; called for each before an iteration's rollout."""
        ...

    def generate(
        self,
        policy: LLMPolicy,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        uniforms: Tensor,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt.

        Args:
            policy: whose weights, temperature and nucleus to use.
            prompts: B texts.
            max_new_tokens: T, the longest response, its end token included.
            uniforms: (B, T) in [0, 1), the randomness of each row.
            greedy: take the most probable token instead of sampling.

        Raises:
            EngineError: if the engine fails, or returns what no policy can have said.
        """
        ...

    def rest(self) -> None:
        """Give memory back until the next `sync`: the rollout is over, the update comes."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Sampled(NamedTuple):
    """One response as an engine returns it."""

    ids: list[int]
    log_probs: list[float]


class Adapter(NamedTuple):
    """One version of a policy's weights, as vLLM knows it."""

    name: str
    number: int
    """At least 1."""
    folder: Path


class AdapterFolder:
    """Writes each version of a policy's adapter under a name and number that are never used again.

    vLLM keys its prefix cache by the adapter's name (by its number in older versions), not by its
    weights: under one name, new weights would be served keys and values of the old ones.

    Source: vllm-project/vllm issue 42125, and `_gen_lora_extra_hash_keys` in
        vllm/v1/core/kv_cache_utils.py.
    """

    def __init__(self, root: Path):
        """Take a folder that the engine, too, can read; it is emptied, and removed by `clear`."""
        self.root = root.absolute()
        # A run that was killed has left its adapters behind.
        shutil.rmtree(self.root, ignore_errors=True)
        # A server outlives runs, and another run may have an llm_0, too.
        self._run = uuid4().hex[:8]
        self._count = 0
        self.present: dict[str, Adapter] = {}

    def write(self, policy: LLMPolicy) -> Adapter:
        """Write a policy's present weights; the version before stays until `remove`."""
        self._count += 1
        name = f"{policy.name}-{self._run}-{self._count}"
        adapter = Adapter(name, self._count, self.root / name)
        adapter.folder.mkdir(parents=True)
        policy.backbone.save_pretrained(policy.name, adapter.folder)
        self.present[policy.name] = adapter
        return adapter

    def remove(self, adapter: Adapter) -> None:
        """Delete the files of one version."""
        shutil.rmtree(adapter.folder, ignore_errors=True)

    def clear(self) -> None:
        """Delete all of them."""
        for adapter in self.present.values():
            self.remove(adapter)
        self.present.clear()
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


def row_seeds(uniforms: Tensor) -> list[int]:
    """Derive a seed in [0, 2^53) for each row from its first number; JSON carries it exactly."""
    return (uniforms[:, 0].double() * 2**53).long().tolist()


def logit_bias(policy: LLMPolicy) -> dict[str, dict[int, float]]:
    """Return the option that keeps vLLM from rows without a token; empty where there are none.

    vLLM samples them like any other (vllm-project/vllm issue 13175). -100 is the least that its API
    takes, added before the temperature: such a row keeps a probability below e^(-100 / T) times
    that of the most probable token.
    """
    ids = policy.backbone.tokenless_ids.tolist()
    return {"logit_bias": dict.fromkeys(ids, -100.0)} if ids else {}


def unpadded(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Return the tokens (B, L) that count, row by row."""
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


def pack(
    policy: LLMPolicy,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    rows: Sequence[Sampled],
    max_new_tokens: int,
) -> Generated:
    """Check and pad what an engine has returned.

    Args:
        policy: that was asked.
        prompt_ids: (B, L) padded on the left.
        prompt_mask: (B, L) bool.
        rows: B responses.
        max_new_tokens: T, the longest response that was asked for.

    Raises:
        EngineError: if a response is not one that the policy can have given.
    """
    backbone = policy.backbone
    ends, pad = backbone.stop_ids.tolist(), backbone.tokenizer.pad_token_id
    known = set(backbone.tokenizer.get_vocab().values())
    for row in rows:
        _check(row, ends, known, max_new_tokens)
    width = max(len(row.ids) for row in rows)
    lengths = torch.tensor([len(row.ids) for row in rows])
    ids = [row.ids + [pad] * (width - len(row.ids)) for row in rows]
    log_probs = [row.log_probs + [0.0] * (width - len(row.ids)) for row in rows]
    generation = Generation(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        response_ids=torch.tensor(ids).to(backbone.device),
        response_mask=(torch.arange(width)[None] < lengths[:, None]).to(backbone.device),
        sampled_log_probs=torch.tensor(log_probs, dtype=torch.float32).to(backbone.device),
    )
    return Generated(response_texts(backbone, generation), generation)


def _check(row: Sampled, ends: Sequence[int], known: Set[int], max_new_tokens: int) -> None:
    ids, log_probs = row
    whole = all(isinstance(i, int) and i in known for i in ids)
    if not whole or not 1 <= len(ids) <= max_new_tokens:
        raise EngineError(
            f"Expected 1 to {max_new_tokens} token ids, out of those of {len(known)} tokens, from "
            f"the engine, got {len(ids)}: {str(ids)[:80]}."
        )
    finite = all(isinstance(p, int | float) and math.isfinite(p) for p in log_probs)
    if not finite or len(log_probs) != len(ids):
        raise EngineError(
            f"Expected a finite log-prob for each of {len(ids)} tokens from the engine, got "
            f"{str(log_probs)[:80]}."
        )
    early = any(end in ids[:-1] for end in ends)
    if early or (ids[-1] not in ends and len(ids) < max_new_tokens):
        raise EngineError(
            f"Expected responses that end with one of {ends} or after {max_new_tokens} tokens, got "
            f"{len(ids)} that end with {ids[-1]}: start vLLM with --generation-config vllm, so "
            "that it stops at no other token."
        )
