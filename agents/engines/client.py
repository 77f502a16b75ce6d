"""What a vLLM server is told, and what it answers: its HTTP protocol and nothing else.

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
"""How a server is to be started; docs/engines.md has the whole line."""


class ServedModel(NamedTuple):
    """The base model of a server."""

    name: str
    """What requests call it."""
    source: str
    """The folder, or the name on the hub, that it was loaded from."""
    max_tokens: int
    """Longest prompt and response together."""


class StatusError(EngineError):
    """The server has answered that it cannot do what it was asked."""


class VLLMClient:
    """Speaks with one server. An API key is taken from the environment variable VLLM_API_KEY."""

    def __init__(self, url: str, *, timeout_s: float = 600.0, retries: int = 3, pause_s: float = 1):
        """Take note of the address; nothing is sent yet.

        Args:
            url: such as `http://localhost:8000`, with or without `/v1`.
            timeout_s: how long one answer may take.
            retries: how often a request whose connection is lost is repeated; a response is the
                same every time, since its seed is sent along.
            pause_s: before the first repetition; each further pause is twice as long.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout_s = timeout_s
        self._retries = retries
        self._pause_s = pause_s
        # The server is a neighbour: a proxy to the outside would not find it.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def base_model(self) -> ServedModel:
        """Ask for the model that adapters are put on."""
        reply = self._json("/v1/models")
        try:
            [card] = [card for card in reply["data"] if not card.get("parent")]
            return ServedModel(card["id"], card["root"] or card["id"], int(card["max_model_len"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                f"Expected one base model of a vLLM server at {self.url}/v1/models, got "
                f"{str(reply)[:120]}."
            ) from error

    def load(self, adapter: Adapter) -> None:
        """Let the server read an adapter."""
        body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
        try:
            # Not repeated: if only the answer was lost, the name would be refused as taken.
            self._send("/v1/load_lora_adapter", body, retries=0)
        except StatusError as error:
            raise EngineError(
                f"Expected the server to load the adapter in {adapter.folder}, got {error} Start "
                f"it as `{START}`, with --max-lora-rank of at least the run's lora_rank, and where "
                "it can read that folder (--out on a file system that both share)."
            ) from error

    def unload(self, adapter: Adapter) -> None:
        """Let the server forget an adapter; it may be on its last legs, so not for long."""
        body = {"lora_name": adapter.name}
        self._send("/v1/unload_lora_adapter", body, retries=0, timeout_s=min(10, self._timeout_s))

    def complete(self, prompt: Sequence[int], **options: Any) -> Sampled:
        """Let the server continue one prompt.

        Args:
            prompt: token ids.
            options: further fields of the request.

        Raises:
            EngineError: if it does not answer, refuses, or answers in another form.
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

    def _json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        text = self._send(path, body, retries=self._retries)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise EngineError(
                f"Expected JSON from the vLLM server at {self.url}{path}, got {text[:80]!r}."
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
                raise StatusError(f"HTTP {error.code} for {path} ({_reason(error)}).") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if attempt == retries or _timed_out(error):
                    raise EngineError(
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
    return " ".join(str(text).split())[:300]
