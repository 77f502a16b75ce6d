"""A vLLM server without vLLM: the same protocol over real HTTP, and a real model behind it.

It generates by recomputing every forward pass with peft on its own copy of the base, so that it
shares no line with what it tests. It is stricter than vLLM in one place: vLLM ignores fields that
it does not know, this one refuses them. Like vLLM it keeps keys and values by the name of an
adapter (here: whole models), so that a name used twice serves the old weights.

Sources: as in agents/engines/client.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

FIELDS = {
    "/v1/completions": {
        *("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty", "logprobs"),
        *("ignore_eos", "stop_token_ids", "return_token_ids", "logit_bias"),
    },
    "/v1/load_lora_adapter": {"lora_name", "lora_path", "load_inplace"},
    "/v1/unload_lora_adapter": {"lora_name", "lora_int_id"},
}


class Refusal(Exception):
    """An answer with a status other than 200."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class FakeVLLM:
    """What the server has been told, what it has loaded, and what it shall do wrong."""

    def __init__(self, model: str, *, max_model_len: int = 64):
        self.model = model
        self.name = model
        self.max_model_len = max_model_len
        self.processed = True
        self.api_key: str | None = None
        self.lora = True
        self.generation_config: dict[str, Any] = {}
        self.stale = False
        self.fault: Callable[[str, int], None] = lambda path, count: None
        """Called with the path and the number of requests so far; may raise what it likes."""
        self.spoil: Callable[[dict[str, Any]], Any] = lambda reply: reply
        """Changes the reply to a completion; text is sent as it is."""
        self.barrier: threading.Barrier | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.loaded: list[tuple[str, dict[str, torch.Tensor]]] = []
        self.present: dict[str, Any] = {}
        self._cached: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._base = self._fresh()
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def _fresh(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32).eval()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for at, body in self.requests if at == path]

    def answer(self, path: str, body: dict[str, Any] | None, key: str | None) -> Any:
        with self._lock:
            self.requests.append((path, body or {}))
            count = len(self.requests)
        if self.api_key and key != f"Bearer {self.api_key}":
            raise Refusal(401, "Unauthorized")
        self.fault(path, count)
        if path == "/v1/models":
            return self._models()
        if body is None or path not in FIELDS or ("lora" in path and not self.lora):
            raise Refusal(404, "Not Found")
        if unknown := body.keys() - FIELDS[path]:
            raise Refusal(400, f"Unknown fields: {unknown}")
        if path == "/v1/completions":
            return self.spoil(self._complete(body))
        return self._load(body) if "unload" not in path else self._unload(body)

    def _models(self) -> dict[str, Any]:
        length = self.max_model_len
        cards = [{"id": self.name, "root": self.model, "parent": None, "max_model_len": length}]
        for name in self.present:
            cards.append({"id": name, "root": "…", "parent": self.name, "max_model_len": None})
        return {"object": "list", "data": [{"object": "model", **card} for card in cards]}

    def _load(self, body: dict[str, Any]) -> str:
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.present and not body.get("load_inplace"):
            raise Refusal(400, f"The lora adapter '{name}' has already been loaded.")
        if not (folder / "adapter_config.json").is_file():
            raise Refusal(404, f"Loading lora {name} failed: No adapter found for {folder}")
        self.loaded.append((name, load_file(folder / "adapter_model.safetensors")))
        policy = name.split("-")[0]
        old = next((m for n, m in self.present.items() if n.split("-")[0] == policy), None)
        old = old or next((m for n, m in self._cached.items() if n.split("-")[0] == policy), None)
        model = PeftModel.from_pretrained(self._fresh(), str(folder)).eval()
        self.present[name] = self._cached.setdefault(name, old if self.stale and old else model)
        return f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: dict[str, Any]) -> str:
        if self.present.pop(body["lora_name"], None) is None:
            raise Refusal(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, name = body["prompt"], body["model"]
        if not prompt or not all(isinstance(i, int) and i >= 0 for i in prompt):
            raise Refusal(400, "prompt: expected token ids")
        if name != self.name and name not in self.present:
            raise Refusal(404, f"The model `{name}` does not exist.")
        if len(prompt) + body["max_tokens"] > self.max_model_len:
            raise Refusal(400, f"This model's maximum context length is {self.max_model_len}.")
        if self.barrier is not None:
            self.barrier.wait(timeout=20)
        model = self._base if name == self.name else self.present[name]
        ids, log_probs, stopped = self._generate(model, prompt, body)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        choice = {
            **{"index": 0, "text": text, "finish_reason": "stop" if stopped else "length"},
            "logprobs": {
                "text_offset": [0] * len(ids),
                "token_logprobs": log_probs,
                "tokens": [self.tokenizer.decode([i]) for i in ids],
                "top_logprobs": [{}] * len(ids),
            },
            **{"stop_reason": ids[-1] if stopped else None, "prompt_logprobs": None},
            "token_ids": ids if body.get("return_token_ids") else None,
            "prompt_token_ids": prompt if body.get("return_token_ids") else None,
        }
        return {"id": "cmpl-0", "object": "text_completion", "model": name, "choices": [choice]}

    @torch.no_grad()
    def _generate(
        self, model: Any, prompt: list[int], body: dict[str, Any]
    ) -> tuple[list[int], list[float], bool]:
        end = self.tokenizer.eos_token_id
        stops = set(body.get("stop_token_ids") or ())
        if not body.get("ignore_eos"):
            stops |= {end, *self.generation_config.get("eos_token_id", ())}
        generator = torch.Generator().manual_seed(body["seed"])
        ids: list[int] = []
        log_probs: list[float] = []
        for _ in range(body["max_tokens"]):
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1].float()
            shaped = self._shaped(logits, body)
            if self._option(body, "temperature", 1.0) == 0:
                token = int(shaped.argmax())
            else:
                token = int(torch.multinomial(shaped.softmax(-1), 1, generator=generator))
            ids.append(token)
            of = shaped if self.processed else logits
            log_probs.append(float(of.log_softmax(-1)[token]))
            if token in stops:
                return ids, log_probs, True
        return ids, log_probs, False

    def _option(self, body: dict[str, Any], name: str, default: float) -> Any:
        """Take a field from the request, the model's generation config, or the default."""
        return body[name] if name in body else self.generation_config.get(name, default)

    def _shaped(self, logits: torch.Tensor, body: dict[str, Any]) -> torch.Tensor:
        """Apply bias, temperature, top-k and top-p in vLLM's order."""
        logits = logits.clone()
        for i, bias in (body.get("logit_bias") or {}).items():
            logits[int(i)] += max(-100.0, min(100.0, bias))
        shaped = logits / (self._option(body, "temperature", 1.0) or 1.0)
        if top_k := self._option(body, "top_k", 0):
            shaped = shaped.masked_fill(shaped < shaped.topk(top_k).values[-1], -torch.inf)
        top_p = self._option(body, "top_p", 1.0)
        probs, order = shaped.softmax(-1).sort(descending=True)
        outside = order[(probs.cumsum(-1) - probs) >= top_p]
        return shaped.index_fill(0, outside, -torch.inf) if top_p < 1 else shaped


def _handler(server: FakeVLLM) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _reply(self, body: dict[str, Any] | None) -> None:
            status = 200
            try:
                reply = server.answer(self.path, body, self.headers.get("Authorization"))
            except Refusal as refusal:
                status = refusal.status
                reply = {"error": {"message": str(refusal), "type": "…", "code": status}}
            except ConnectionError:
                self.close_connection = True
                return
            data = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self._reply(json.loads(self.rfile.read(length)))

    return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


@contextmanager
def serve(fake: FakeVLLM, port: int = 0):
    """Serve on this machine until the block ends; yields the address."""
    server = _Server(("127.0.0.1", port), _handler(fake))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
