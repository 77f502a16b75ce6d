"""HTTP client of a vLLM server: completions, the model it serves, adapters.

It sends and receives token ids, and knows neither policies nor the game.

Sources: vllm-project/vllm, vllm/entrypoints/openai/completion/protocol.py at 002032ee
(`CompletionRequest`, `CompletionResponseChoice`), vllm/entrypoints/openai/models/serving.py at
00153c8b (`/v1/models` and adapters), vllm/entrypoints/serve/engine/protocol.py at f1bf7bd0
(`ModelCard`, `ErrorResponse`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

from agents.engines.base import Adapter, Sampled
from agents.errors import EngineError

START = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora "
    "--generation-config vllm --logprobs-mode processed_logprobs"
)
"""The command that starts a server; docs/engines.md explains its flags."""


class ServedModel(NamedTuple):
    """The base model of a server."""

    name: str
    """Its name in requests."""
    source: str
    """The folder, or the name on the hub, that it was loaded from."""
    max_tokens: int
    """Most tokens of a prompt and its response together."""


class StatusError(EngineError):
    """The server has answered a request with an HTTP error."""

    def __init__(self, status: int, path: str, reason: str):
        super().__init__(f"HTTP {status} for {path} ({reason}).")
        self.status = status


class LostError(EngineError):
    """The server does not answer, or has failed: another one may answer instead."""


class VLLMClient:
    """Client of one server; the environment variable VLLM_API_KEY holds its API key, if any."""

    def __init__(self, url: str, *, timeout_s: float = 600.0, retries: int = 3, pause_s: float = 1):
        """Store the address; no request is sent yet.

        Args:
            url: such as `http://localhost:8000`, with or without `/v1`.
            timeout_s: longest wait for one answer.
            retries: how often a request is sent again after its connection was lost. The request
                holds a seed, so the response is the same every time.
            pause_s: seconds before the first retry; every later pause is twice as long.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s
        self._retries = retries
        self._pause_s = pause_s
        # The server is in the local network, which a proxy to the internet cannot reach.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def base_model(self) -> ServedModel:
        """Return the base model, to which adapters are added.

        Waits thirty seconds at most: nothing is generated yet.
        """
        reply = self._json("/v1/models", timeout_s=min(30, self._timeout_s))
        try:
            [card] = [card for card in reply["data"] if not card.get("parent")]
            return ServedModel(card["id"], card["root"] or card["id"], int(card["max_model_len"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                f"Expected one base model of a vLLM server at {self.url}/v1/models, got "
                f"{str(reply)[:120]}."
            ) from error

    def load(self, adapter: Adapter) -> None:
        """Make the server load an adapter from its folder."""
        body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
        try:
            # No retry: had only the answer been lost, the server would refuse the name as taken.
            self._send("/v1/load_lora_adapter", body, retries=0)
        except StatusError as error:
            self._expect_alive(error)
            raise EngineError(
                f"Expected the server to load the adapter in {adapter.folder}, got {error} Start "
                f"it as `{START}`, with --max-lora-rank of at least the run's lora_rank, and where "
                "it can read that folder (--out on a file system that both share)."
            ) from error

    def unload(self, adapter: Adapter) -> None:
        """Make the server drop an adapter.

        Waits ten seconds at most: a run that ends must not hang on a server that is shutting down.
        """
        body = {"lora_name": adapter.name}
        self._send("/v1/unload_lora_adapter", body, retries=0, timeout_s=min(10, self._timeout_s))

    def complete(self, prompt: Sequence[int], **options: Any) -> Sampled:
        """Sample a response to one prompt.

        Args:
            prompt: token ids.
            options: further fields of the request.

        Raises:
            EngineError: if the server does not answer, refuses, or answers in another form.
        """
        reply = self._json("/v1/completions", {"prompt": list(prompt), **options})
        try:
            [choice] = reply["choices"]
            # vLLM has no log-prob for a token where it was not asked for one.
            log_probs = [nan if p is None else p for p in choice["logprobs"]["token_logprobs"]]
            sampled = Sampled(list(choice["token_ids"]), log_probs)
            read = list(choice["prompt_token_ids"])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                "Expected a completion with token_ids, prompt_token_ids and logprobs, as vLLM has "
                f"sent them since 0.10.2, got {str(reply)[:120]}."
            ) from error
        if read != list(prompt):
            raise EngineError(
                f"Expected the server to read the {len(prompt)} tokens of the prompt as they are, "
                f"got {len(read)}: {str(read)[:80]}."
            )
        return sampled

    def _json(
        self, path: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        try:
            text = self._send(path, body, retries=self._retries, timeout_s=timeout_s)
        except StatusError as error:
            self._expect_alive(error)
            raise
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise EngineError(
                f"Expected JSON from the vLLM server at {self.url}{path}, got {text[:80]!r}."
            ) from error

    def _expect_alive(self, error: StatusError) -> None:
        if error.status >= 500:
            raise LostError(
                f"Expected the vLLM server at {self.url} to answer, got {str(error).rstrip('.')}: "
                "look into its log, start it again, and go on with --resume."
            ) from error

    def _send(
        self,
        path: str,
        body: dict[str, Any] | None,
        *,
        retries: int,
        timeout_s: float | None = None,
    ) -> str:
        """Send one request, a POST if it has a body, and return the text of the answer."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        attempt = 0
        while True:
            try:
                request = urllib.request.Request(self.url + path, data, headers)
                with self._opener.open(request, timeout=timeout_s or self._timeout_s) as response:
                    return response.read().decode("utf-8", errors="replace")
            except urllib.error.HTTPError as error:
                raise StatusError(error.code, path, _reason(error)) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if attempt == retries or _timed_out(error):
                    raise LostError(
                        f"Expected a vLLM server at {self.url}, got no answer to {path} ({error}): "
                        f"start it as `{START}`, or pass its --engine-url."
                    ) from error
            time.sleep(self._pause_s * 2**attempt)
            attempt += 1


def _timed_out(error: Exception) -> bool:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(reason, TimeoutError)


def _reason(error: urllib.error.HTTPError) -> str:
    """Return what the server says about a refusal, in one line."""
    text = error.read().decode("utf-8", errors="replace")
    with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
        text = json.loads(text)["error"]["message"]
    return " ".join(str(text).split())
