"""vLLM servers generate: on other GPUs or machines, with an adapter pushed for every policy.

They must be started for it; docs/engines.md has the command and the reasons for its flags.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeVar

import numpy as np

from agents.config.options import MAY_CHANGE, Options
from agents.config.run import RunConfig
from agents.engines.base import (
    IMPORTANCE_CAP,
    AdapterFolder,
    Engine,
    EngineRun,
    Sampled,
    logit_bias,
    pack,
    row_seeds,
    unpadded,
)
from agents.engines.client import LostError, ServedModel, VLLMClient
from agents.errors import EngineError
from agents.policies.prefixes import tokens_left

if TYPE_CHECKING:
    from torch import Tensor

    from agents.policies.base import Generated, Policy
    from agents.policies.prefixes import Prefixes

CONCURRENT = 256
"""Requests under way at a time, of each server: vLLM's default for the sequences of a batch
(`max_num_seqs`)."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class VLLMServerConfig(Options):
    """vLLM servers."""

    engine_url: Annotated[str, MAY_CHANGE] = ""
    """Address of the server, such as http://localhost:8000; of several, with commas between them,
    which then share the rows of every batch."""

    @property
    def urls(self) -> list[str]:
        """`engine_url` as a list, each address once."""
        return list(dict.fromkeys(url.strip() for url in self.engine_url.split(",")))

    def check(self, run: RunConfig) -> None:
        """Check that there is an address."""
        if not all(url.startswith(("http://", "https://")) for url in self.urls):
            raise ValueError(
                "Expected an engine_url that begins with http:// or https:// with the engine "
                f"{run.engine}, got {self.engine_url!r}: pass --engine-url http://HOST:PORT, or "
                "several with commas between them."
            )


class Server(NamedTuple):
    """One of the servers of a run."""

    client: VLLMClient
    served: ServedModel


class VLLMServerEngine(Engine):
    """vLLM servers, on other GPUs or machines.

    All have all adapters, and each generates its share of the rows. One that does not answer any
    more is left out, and what it was asked is asked of the others with the same seeds.

    Prompts go there as token ids and adapters as folders. Every row is a request of its own: one
    with several prompts has one seed for all of them
    (vllm/entrypoints/openai/completion/serving.py at 030ea52e, `_create_completion`).
    """

    needs_lora = needs_one_base = needs_stored_base = continues = aside = True
    importance_cap = IMPORTANCE_CAP
    Config = VLLMServerConfig

    def __init__(
        self,
        clients: Sequence[VLLMClient],
        *,
        model: str,
        folder: Path,
        max_tokens: int,
        reshaped: bool,
    ):
        """Check that the servers are those that the run needs.

        Args:
            clients: of the servers, at least one.
            model: the run's base model, a folder or a name on the hub.
            folder: where to write adapters; the servers must be able to read it.
            max_tokens: longest prompt and response together.
            reshaped: whether temperature, top-p or a bias change the distribution.

        Raises:
            EngineError: if one is not there, has another model, or too short a context; or if it
                returns log-probs of another distribution than it samples from.
        """
        self._adapters = AdapterFolder(folder)
        self._servers = [Server(client, client.base_model()) for client in clients]
        self._lock = Lock()
        self._lines: list[str] = []
        for server in self._servers:
            _expect_fit(server, model, max_tokens)
            if reshaped:
                _expect_processed_log_probs(server)

    @classmethod
    def from_run(cls, run: EngineRun) -> Self:
        """Connect to the servers that the configuration names.

        Raises:
            EngineError: if one is not what the run needs.
        """
        config, options, policies = run.config, run.config.engine_config, run.policies.values()
        assert isinstance(options, VLLMServerConfig)
        shaped = (config.temperature, config.top_p) != (1.0, 1.0)
        return cls(
            [VLLMClient(url) for url in options.urls],
            model=run.model,
            folder=run.folder,
            max_tokens=run.max_tokens,
            reshaped=shaped or any(len(policy.backbone.tokenless_ids) for policy in policies),
        )

    def sync(self, policy: Policy) -> None:
        """Push the policy's adapter under a new name, in the place of the one before."""
        if not policy.learns:
            return
        before = self._adapters.present.get(policy.name)
        if before is not None:
            for server in list(self._servers):
                # An adapter that the server has evicted by itself cannot be unloaded: so much the
                # better, since its name is never used again. A server that is lost fails below.
                with contextlib.suppress(EngineError):
                    server.client.unload(before)
            self._adapters.remove(before)
        adapter = self._adapters.write(policy)
        for server in list(self._servers):
            try:
                server.client.load(adapter)
            except LostError as error:
                self._leave_out(server, error)

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
        options = request_options(
            temperature=0.0 if greedy else policy.temperature,
            top_p=1.0 if greedy else policy.top_p,
            stops=policy.backbone.stop_ids.tolist(),
        )
        options |= logit_bias(policy)
        adapter = self._adapters.present[policy.name].name if policy.learns else None

        def ask(index: int, row: list[int], limit: int, seed: int) -> Sampled:
            return self._of_one(
                index,
                lambda server: server.client.complete(
                    row,
                    model=adapter or server.served.name,
                    max_tokens=limit,
                    seed=seed,
                    **options,
                ),
            )

        at_a_time = min(len(rows), CONCURRENT * len(self._servers))
        with ThreadPoolExecutor(at_a_time) as pool:
            sampled = pool.map(ask, range(len(rows)), rows, limits, row_seeds(uniforms))
            return pack(policy, prompt_ids, prompt_mask, list(sampled), limits)

    def _of_one(self, index: int, ask: Callable[[Server], T]) -> T:
        """Return what the server of a row answers, or another one in its place.

        Raises:
            EngineError: if the request is refused, or nobody is left.
        """
        while True:
            servers = self._servers
            server = servers[index % len(servers)]
            try:
                return ask(server)
            except LostError as error:
                self._leave_out(server, error)

    def _leave_out(self, server: Server, error: LostError) -> None:
        """Go on without a server.

        Raises:
            LostError: if it was the last one.
        """
        with self._lock:
            left = [other for other in self._servers if other is not server]
            if not left:
                raise error
            if len(left) == len(self._servers):
                return  # another row has found it first
            self._servers = left
            self._lines.append(
                f"Left out the vLLM server at {server.client.url}, {len(left)} left: {error}"
            )

    def warning(self) -> str:
        """Return which servers have been left out since this was last asked for."""
        with self._lock:
            lines, self._lines = self._lines, []
        return "\n".join(lines)

    def close(self) -> None:
        """Take the adapters from the servers and delete their files."""
        for server in self._servers:
            for adapter in self._adapters.present.values():
                # It may be the server's death that ends the run.
                with contextlib.suppress(EngineError):
                    server.client.unload(adapter)
        self._adapters.clear()


def request_options(*, temperature: float, top_p: float, stops: list[int]) -> dict[str, Any]:
    """Return the fields of a request that shape the distribution, and what it is to return."""
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


def _expect_fit(server: Server, model: str, max_tokens: int) -> None:
    served, url = server.served, server.client.url
    if not _same_model(model, served.name, served.source):
        raise EngineError(
            f"Expected the vLLM server at {url} to serve {model}, got {served.source} "
            f"(as {served.name}): start one with that model, or pass another --model."
        )
    if served.max_tokens < max_tokens:
        raise EngineError(
            f"Expected the vLLM server at {url} to have room for {max_tokens} tokens, got "
            f"{served.max_tokens}: start it with --max-model-len {max_tokens} or more."
        )


def _expect_processed_log_probs(server: Server) -> None:
    # Of one token to choose from, the probability is 1. Its raw log-prob, taken before
    # temperature, top-k and top-p, is below 0. The median, for two logits may be alike, or one
    # of them may drown all others.
    options = request_options(temperature=1.0, top_p=1.0, stops=[])
    options |= {"model": server.served.name, "max_tokens": 9, "seed": 0, "top_k": 1}
    found = float(np.median(server.client.complete([1], **options).log_probs))
    if not abs(found) <= 1e-6:
        raise EngineError(
            "Expected log-probs of the distribution that is sampled from, which temperature, "
            "top_p or a padded vocabulary change, got raw ones "
            f"({found:.3f} for the only choice): start the vLLM server with --logprobs-mode "
            "processed_logprobs."
        )


def _same_model(model: str, name: str, source: str) -> bool:
    if model in (name, source):
        return True
    folders = [Path(model).resolve(), Path(source).resolve()]
    return folders[0] == folders[1] and folders[0].is_dir()
