"""A vLLM server generates: on another GPU or machine, with an adapter pushed for every policy.

The server must be started for it; docs/engines.md has the command and the reasons for its flags.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np

from agents.config.options import MAY_CHANGE, Options
from agents.config.run import RunConfig
from agents.engines.base import (
    IMPORTANCE_CAP,
    AdapterFolder,
    Engine,
    EngineRun,
    logit_bias,
    pack,
    row_seeds,
    unpadded,
)
from agents.engines.client import StatusError, VLLMClient
from agents.errors import EngineError
from agents.policies.prefixes import tokens_left

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.base import Generated, Policy
    from agents.policies.prefixes import Prefixes

CONCURRENT = 256
"""Requests under way at a time: vLLM's default for the sequences of a batch (`max_num_seqs`)."""


@dataclass(frozen=True, kw_only=True)
class VLLMServerConfig(Options):
    """A vLLM server."""

    engine_url: Annotated[str, MAY_CHANGE] = ""
    """Address of the server, such as http://localhost:8000."""

    def check(self, run: RunConfig) -> None:
        """Check that there is an address."""
        if not self.engine_url.startswith(("http://", "https://")):
            raise ValueError(
                "Expected an engine_url that begins with http:// or https:// with the engine "
                f"{run.engine}, got {self.engine_url!r}: pass --engine-url http://HOST:PORT."
            )


class VLLMServerEngine(Engine):
    """A vLLM server, on another GPU or machine.

    Prompts go there as token ids and adapters as folders. Every row is a request of its own: one
    with several prompts has one seed for all of them
    (vllm/entrypoints/openai/completion/serving.py at 030ea52e, `_create_completion`).
    """

    needs_lora = needs_one_base = needs_stored_base = continues = True
    importance_cap = IMPORTANCE_CAP
    Config = VLLMServerConfig

    def __init__(
        self, client: VLLMClient, *, model: str, folder: Path, max_tokens: int, reshaped: bool
    ):
        """Check that the server is the one that the run needs.

        Args:
            client: of the server.
            model: the run's base model, a folder or a name on the hub.
            folder: where to write adapters; the server must be able to read it.
            max_tokens: longest prompt and response together.
            reshaped: whether temperature, top-p or a bias change the distribution.

        Raises:
            EngineError: if it is not there, has another model, or too short a context; or if it
                returns log-probs of another distribution than it samples from.
        """
        self._client = client
        self._adapters = AdapterFolder(folder)
        self._served = served = client.base_model()
        if not _same_model(model, served.name, served.source):
            raise EngineError(
                f"Expected the vLLM server at {client.url} to serve {model}, got {served.source} "
                f"(as {served.name}): start one with that model, or pass another --model."
            )
        if served.max_tokens < max_tokens:
            raise EngineError(
                f"Expected a vLLM server with room for {max_tokens} tokens, got "
                f"{served.max_tokens}: start it with --max-model-len {max_tokens} or more."
            )
        if reshaped:
            self._expect_processed_log_probs()

    @classmethod
    def from_run(cls, run: EngineRun) -> Self:
        """Connect to the server that the configuration names.

        Raises:
            EngineError: if it is not the one that the run needs.
        """
        config, options, policies = run.config, run.config.engine_config, run.policies.values()
        assert isinstance(options, VLLMServerConfig)
        shaped = (config.temperature, config.top_p) != (1.0, 1.0)
        return cls(
            VLLMClient(options.engine_url),
            model=run.model,
            folder=run.folder,
            max_tokens=run.max_tokens,
            reshaped=shaped or any(len(policy.backbone.tokenless_ids) for policy in policies),
        )

    def _expect_processed_log_probs(self) -> None:
        # Of one token to choose from, the probability is 1. Its raw log-prob, taken before
        # temperature, top-k and top-p, is below 0. The median, for two logits may be alike, or one
        # of them may drown all others.
        options = self._options(temperature=1.0, top_p=1.0, stops=[])
        options |= {"model": self._served.name, "max_tokens": 9, "seed": 0, "top_k": 1}
        found = float(np.median(self._client.complete([1], **options).log_probs))
        if not abs(found) <= 1e-6:
            raise EngineError(
                "Expected log-probs of the distribution that is sampled from, which temperature, "
                "top_p or a padded vocabulary change, got raw ones "
                f"({found:.3f} for the only choice): start the vLLM server with --logprobs-mode "
                "processed_logprobs."
            )

    def sync(self, policy: Policy) -> None:
        """Push the policy's adapter under a new name, in the place of the one before."""
        if not policy.learns:
            return
        before = self._adapters.present.get(policy.name)
        if before is not None:
            # An adapter that the server has evicted by itself cannot be unloaded: so much the
            # better, since its name is never used again.
            with contextlib.suppress(StatusError):
                self._client.unload(before)
            self._adapters.remove(before)
        self._client.load(self._adapters.write(policy))

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
        """Sample one response to each prompt, or the rest of one; see `Engine`."""
        prompt_ids, prompt_mask = policy.encode(prompts, max_new_tokens, prefixes)
        rows = unpadded(prompt_ids, prompt_mask)
        limits = tokens_left(prefixes, len(rows), max_new_tokens)
        options = self._options(
            temperature=0.0 if greedy else policy.temperature,
            top_p=1.0 if greedy else policy.top_p,
            stops=policy.backbone.stop_ids.tolist(),
        )
        options |= logit_bias(policy)
        if not policy.learns:
            options["model"] = self._served.name
        else:
            options["model"] = self._adapters.present[policy.name].name
        with ThreadPoolExecutor(min(len(rows), CONCURRENT)) as pool:
            sampled = pool.map(
                lambda row, limit, seed: self._client.complete(
                    row, max_tokens=limit, seed=seed, **options
                ),
                rows,
                limits,
                row_seeds(uniforms),
            )
            return pack(policy, prompt_ids, prompt_mask, list(sampled), limits)

    @staticmethod
    def _options(*, temperature: float, top_p: float, stops: list[int]) -> dict[str, Any]:
        return {
            "temperature": temperature,
            "top_p": top_p,
            # Whatever is left out is filled from the model's generation_config.json, which may cut
            # the distribution or punish repetition.
            **{"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
            **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
            # The end of a response is the tokenizer's end token; a model may name others.
            **{"ignore_eos": True, "stop_token_ids": stops},
            # 0: of the sampled token only.
            **{"logprobs": 0, "return_token_ids": True},
        }

    def close(self) -> None:
        """Take the adapters from the server and delete their files."""
        for adapter in self._adapters.present.values():
            # It may be the server's death that ends the run.
            with contextlib.suppress(EngineError):
                self._client.unload(adapter)
        self._adapters.clear()


def _same_model(model: str, name: str, source: str) -> bool:
    if model in (name, source):
        return True
    folders = [Path(model).resolve(), Path(source).resolve()]
    return folders[0] == folders[1] and folders[0].is_dir()
