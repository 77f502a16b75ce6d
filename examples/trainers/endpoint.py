"""A chat endpoint of the OpenAI kind over a policy of a run, or the embedded model.

python examples/trainers/endpoint.py --port 8000 --policy runs/imdb/final/llm_0

It is reached from this machine alone, answers one request at a time, and knows what an evaluation
of one turn needs: the user's last message, `max_tokens` and `temperature`.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import agents

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--policy", default=str(Path(agents.__file__).parent / "assets" / "model"))
flags = parser.parse_args()
policy = agents.load_policy(flags.policy)


class Chat(BaseHTTPRequestHandler):
    """Answers `POST /v1/chat/completions`."""

    def do_POST(self):  # the library's name
        """Continue the user's last message."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or 16
        greedy = asked.get("temperature") == 0
        prompt = asked["messages"][-1]["content"]
        text = policy.generate([prompt], max_new_tokens=limit, greedy=greedy).texts[0]
        message = {"role": "assistant", "content": text}
        counts = [len(policy.backbone.tokenizer.encode(part)) for part in (prompt, text)]
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        answer = {
            **{"id": "chat", "object": "chat.completion", "created": int(time.time())},
            "model": asked["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": dict(zip(names, (*counts, sum(counts)), strict=True)),
        }
        self._send(json.dumps(answer).encode())

    def _send(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


print(f"http://127.0.0.1:{flags.port}/v1", flush=True)
HTTPServer(("127.0.0.1", flags.port), Chat).serve_forever()
