"""What an engine is, and what engines other than the learner's own model have in common.

Such an engine gets token ids and gives token ids back, with the log-probs they were sampled with:
nothing is tokenized twice. What it returns is checked before a policy learns from it.
"""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self
from uuid import uuid4

from agents.config.options import Options
from agents.config.train import TrainConfig
from agents.errors import EngineError

if TYPE_CHECKING:  # the configuration asks engines what they need, before torch is loaded
    from torch import Tensor

    from agents.policies.base import Generated, Policy
    from agents.policies.prefixes import Prefixes

IMPORTANCE_CAP = 2.0
"""What TRL begins with, too. Source: Yao et al. 2025, "Your efficient RL framework secretly brings
you off-policy RL training", who introduce the cap; huggingface/trl, `vllm_importance_sampling_cap`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """What an engine may want to know of the run that it generates for."""

    config: TrainConfig
    policies: Mapping[str, Policy]
    """By name."""
    max_tokens: int
    """Longest prompt and response together."""
    model: str
    """Base model of the policies: a folder, or a name on the hub, for an engine that needs it."""
    dtype: str
    """Of the learner's arithmetic, such as `bfloat16`."""
    folder: Path
    """To write in, such as adapters; not there yet. No other process of the run writes in it."""


class Engine(ABC):
    """Generates the responses of a rollout.

    `@register_engine("mine")` makes a subclass known as `--engine mine`. What it needs of a
    configuration is checked before a model is loaded.
    """

    needs_lora: ClassVar[bool] = False
    """Adapters are pushed to it: policies are LoRA adapters and nothing else."""
    needs_one_base: ClassVar[bool] = False
    """All policies share one base model."""
    needs_stored_base: ClassVar[bool] = False
    """It loads the base model itself, from a folder or the hub: `EngineRun.model`."""
    continues: ClassVar[bool] = False
    """Its `generate` takes `prefixes`; algorithms that branch need that."""
    aside: ClassVar[bool] = False
    """Its `generate` may run in another thread while the learner learns, with the weights of the
    last `sync`."""
    importance_cap: ClassVar[float | None] = None
    """Largest weight of a token that the learner finds likelier than the engine did, unless the
    configuration says otherwise; None for an engine that samples from what is learnt."""
    Config: ClassVar[type[Options]] = Options
    """What one may configure. An engine of your own derives from it for fields of its own, which
    are flags then, and stand in config.json."""

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Check a configuration before anything is loaded.

        Raises:
            ValueError: if the engine cannot be used with it.
        """
        if config.algorithm_config.continues and not cls.continues:
            raise ValueError(
                f"Expected an engine that continues responses with algorithm {config.algorithm}, "
                f"got {config.engine}, which begins them only: pass --engine builtin."
            )
        if cls.needs_lora and config.adapter != "lora":
            raise ValueError(
                f"Expected adapter lora with engine {config.engine}, to which adapters are pushed, "
                f"got {config.adapter}: pass --adapter lora, or --engine builtin."
            )
        if cls.needs_one_base and len(set(config.models)) > 1:
            raise ValueError(
                f"Expected one base model with engine {config.engine}, got {config.model}: pass "
                "--engine builtin."
            )
        if cls.needs_stored_base and "tiny" in config.models:
            raise ValueError(
                f"Expected a model in a folder or on the hub with engine {config.engine}, got "
                "tiny, which is built in memory: pass --engine builtin."
            )

    @classmethod
    def from_run(cls, run: EngineRun) -> Self:
        """Start the engine of a run, or connect to it.

        Raises:
            EngineError: if it cannot be used for this run.
        """
        return cls()

    @abstractmethod
    def sync(self, policy: Policy) -> None:
        """Take over the policy's present weights; called for each before an iteration's rollout."""

    @abstractmethod
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        uniforms: Tensor,
        prefixes: Prefixes | None = None,
        greedy: bool = False,
    ) -> Generated:
        """Sample one response to each prompt, or the rest of one.

        Args:
            policy: whose weights, temperature and nucleus to use.
            prompts: B texts.
            max_new_tokens: T, the longest response, its end token included.
            uniforms: (B, T) in [0, 1), the randomness of each row.
            prefixes: (B,) first tokens of the responses, which count among the T; the rest is
                returned. Given only to an engine that `continues`.
            greedy: take the most probable token instead of sampling.

        Raises:
            EngineError: if the engine fails, or returns what no policy can have said.
        """

    def warning(self) -> str:
        """Return a line for the user, if something has changed since it was last asked for."""
        return ""

    def rest(self) -> None:  # noqa: B027
        """Release GPU memory for the update, until the next `sync`."""

    def close(self) -> None:  # noqa: B027
        """Release everything that the engine holds."""


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

    def write(self, policy: Policy) -> Adapter:
        """Write a policy's present weights; the version before stays until `remove`.

        Raises:
            EngineError: if the disk has no room for them.
        """
        from safetensors import SafetensorError

        from agents.models.adapters import LoraBackbone

        assert isinstance(policy.backbone, LoraBackbone)  # of an engine that `needs_lora`
        self._count += 1
        name = f"{policy.name}-{self._run}-{self._count}"
        adapter = Adapter(name, self._count, self.root / name)
        try:
            adapter.folder.mkdir(parents=True)
            # No tokenizer: texts stay with the learner, and vLLM reads none with an adapter.
            policy.backbone.save_adapter(policy.name, adapter.folder)
        except (OSError, SafetensorError) as error:
            self.remove(adapter)
            raise EngineError(
                f"Expected to write an adapter to {adapter.folder}, got {error}: make room there, "
                "and go on with --resume."
            ) from error
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


def logit_bias(policy: Policy) -> dict[str, dict[int, float]]:
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
    policy: Policy,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    rows: Sequence[Sampled],
    limits: Sequence[int],
) -> Generated:
    """Check and pad what an engine has returned.

    Args:
        policy: that was asked.
        prompt_ids: (B, L) padded on the left.
        prompt_mask: (B, L) bool.
        rows: B responses.
        limits: (B,) the most tokens that were asked for.

    Raises:
        EngineError: if a response is not one that the policy can have given.
    """
    ends = policy.backbone.stop_ids.tolist()
    known = set(policy.backbone.tokenizer.get_vocab().values())
    for row, limit in zip(rows, limits, strict=True):
        _check(row, ends, known, limit)
    return policy.padded(
        prompt_ids, prompt_mask, [row.ids for row in rows], [row.log_probs for row in rows]
    )


def _check(row: Sampled, ends: Sequence[int], known: Set[int], limit: int) -> None:
    ids, log_probs = row
    whole = all(isinstance(i, int) and i in known for i in ids)
    if not whole or not 1 <= len(ids) <= limit:
        raise EngineError(
            f"Expected 1 to {limit} token ids, out of those of {len(known)} tokens, from "
            f"the engine, got {len(ids)}: {str(ids)[:80]}."
        )
    finite = all(isinstance(p, int | float) and math.isfinite(p) for p in log_probs)
    if not finite or len(log_probs) != len(ids):
        raise EngineError(
            f"Expected a finite log-prob for each of {len(ids)} tokens from the engine, got "
            f"{str(log_probs)[:80]}."
        )
    early = any(end in ids[:-1] for end in ends)
    if early or (ids[-1] not in ends and len(ids) < limit):
        raise EngineError(
            f"Expected responses that end with one of {ends} or after {limit} tokens, got "
            f"{len(ids)} that end with {ids[-1]}: start vLLM with --generation-config vllm, so "
            "that it stops at no other token."
        )
