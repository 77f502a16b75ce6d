"""Model cards, uploads to a hub on this machine, and merged models."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents import TrainConfig, train
from agents.cli.main import main
from agents.models.files import EMBEDDED_MODEL
from agents.publishing.cards import write_cards


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of LoRA adapters on a base that is a folder of this machine."""
    out = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(
        **{"task": "imdb", "model": str(EMBEDDED_MODEL), "dtype": "float32", "iterations": 1},
        **{"batch_size": 4, "minibatch_size": 4, "evaluation_queries": 4, "learning_rate": 0.05},
        out=str(out),
    )
    return train(config, console=Console(file=io.StringIO())).folder


class Hub(BaseHTTPRequestHandler):
    """The few endpoints that an upload speaks with."""

    def do_POST(self) -> None:
        """Answer as the hub does, and remember."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        if server.refuses:  # type: ignore[attr-defined]
            return self._answer({"error": "no room"}, status=403)
        if self.path.endswith("/repos/create"):
            server.created.append(json.loads(body))  # type: ignore[attr-defined]
            name = json.loads(body)["name"]
            owner = json.loads(body).get("organization", "me")
            return self._answer({"url": f"https://huggingface.co/{owner}/{name}"})
        if "/preupload/" in self.path:
            files = [f["path"] for f in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]
            return self._answer({"files": modes})
        if "/commit/" in self.path:
            repository = self.path.split("/models/")[1].rpartition("/commit")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    server.files[repository, line["value"]["path"]] = content  # type: ignore[attr-defined]
            url = f"https://huggingface.co/{repository}/commit/0"
            return self._answer({"commitUrl": url, "commitOid": "0", "pullRequestUrl": None})
        return self._answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        """Describe a repository with nothing in it."""
        self._answer({"id": "me/x", "sha": "0", "siblings": [], "private": True})

    def _answer(self, value: object, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.created, server.files, server.refuses = [], {}, False  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    real = huggingface_hub.HfApi
    monkeypatch.setattr("agents.publishing.hub.HfApi", lambda: real(endpoint=address, token="hf_x"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    # This hub is on this machine, whatever the environment says of the other.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("agents.publishing.hub.get_token", lambda: "hf_x")
    yield server
    server.shutdown()
    server.server_close()


def read_card(folder: Path) -> tuple[dict, str]:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_card_says_what_was_trained_how_and_how_well_without_a_path_of_this_machine(run):
    folder = run / "final" / "llm_1"
    head, body = read_card(folder)
    assert head["library_name"] == "peft"
    assert {"mappo", "imdb", "arxiv:2410.06101"} <= set(head["tags"])
    assert head["datasets"] == "stanfordnlp/imdb"
    assert "base_model" not in head  # a folder of this machine is none that others have
    assert "license" not in head
    row = json.loads((run / "evaluation.json").read_text())["rows"][2]
    assert row["name"] == "llm_1"
    assert f"| llm_1 | {row['reward'][0]:.2f} ±" in body
    [index] = head["model-index"]
    assert index["name"] == "llm_1"
    metrics = {m["type"]: m["value"] for r in index["results"] for m in r["metrics"]}
    assert metrics["reward"] == round(row["reward"][0], 4)
    assert {r["dataset"]["type"] for r in index["results"]} == {"stanfordnlp/imdb"}
    assert '"learning_rate": 0.05' in body
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    for part in (str(EMBEDDED_MODEL), str(run), str(run.parent)):
        assert part not in body


def test_a_card_shows_what_the_policy_writes_and_where_it_ends(run):
    _, body = read_card(run / "final" / "llm_0")
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["policy"] == "llm_0" and row["iteration"] == 1]
    samples = body.split("## Samples")[1].split("\n## ")[0]
    for row in last[:3]:
        assert f"reads: {row['query']}\nanswers: {row['response']}" in samples
    assert "seed 0" in body.split("## Limits")[1]
    assert "–" not in body.split("## Evaluation")[1].split("\n## ")[0], "a cell is empty"


def test_a_text_that_would_end_the_block_of_samples_stays_in_it(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["response"] = "````\n# a heading"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_cards(tmp_path / "run")
    _, body = read_card(tmp_path / "run" / "final" / "llm_0")
    assert "`````text\n" in body


def test_the_lines_of_a_card_load_the_policy(run, monkeypatch):
    _, body = read_card(run / "final" / "llm_0")
    code = body.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) == 4
    monkeypatch.chdir(run)
    names: dict = {}
    exec(code, names)
    assert isinstance(names["policy"], PeftModel)


def test_a_push_uploads_every_policy_privately_with_a_card_that_names_its_address(run, hub, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["push", str(run), "org/films"]) == 0
    assert "org/films-llm_1" in capsys.readouterr().out
    assert [c["name"] for c in hub.created] == ["films-llm_0", "films-llm_1"]
    assert all(c["visibility"] == "private" and c["organization"] == "org" for c in hub.created)
    card = hub.files["org/films-llm_1", "README.md"].decode()
    assert 'from_pretrained("org/films-llm_1")' in card
    for content in hub.files.values():
        assert str(EMBEDDED_MODEL).encode() not in content
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_policy_whose_base_others_do_not_have_is_pushed_whole(run, hub, tmp_path):
    assert main(["push", str(run), "org/films"]) == 0
    received = tmp_path / "received"
    received.mkdir()
    for (repository, name), content in hub.files.items():
        if repository == "org/films-llm_0":
            (received / name).write_bytes(content)
    assert not list(received.glob("adapter*"))
    head, body = read_card(received)
    assert head["library_name"] == "transformers"
    assert "A whole model" in body
    ids = AutoTokenizer.from_pretrained(received)("This film was", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(received)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32)
        plain = base(ids).logits
        wanted = PeftModel.from_pretrained(base, str(run / "final" / "llm_0"))(ids).logits
    # float32 sums in another order
    assert float((found - wanted).abs().max()) < 1e-3 < float((plain - wanted).abs().max()) / 2


def test_an_adapter_whose_base_is_on_the_hub_is_pushed_as_it_is(run, hub, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    weights = (run / "final" / "llm_0" / "adapter_model.safetensors").read_bytes()
    for path in (tmp_path / "run").glob("final/*/adapter_config.json"):
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "base_model_name_or_path": "openai-community/gpt2"}))
    assert main(["push", str(tmp_path / "run"), "org/films"]) == 0
    assert hub.files["org/films-llm_0", "adapter_model.safetensors"] == weights
    assert not any(name == "model.safetensors" for _, name in hub.files)
    (tmp_path / "README.md").write_bytes(hub.files["org/films-llm_0", "README.md"])
    head, body = read_card(tmp_path)
    assert head["base_model"] == "openai-community/gpt2"
    assert head["base_model_relation"] == "adapter"
    assert "AutoPeftModelForCausalLM" in body


def test_a_public_push_says_so(run, hub):
    assert main(["push", str(run), "org/films", "--public"]) == 0
    assert all(created["visibility"] == "public" for created in hub.created)


def test_a_hub_that_refuses_is_one_line_and_leaves_the_run_complete(run, hub, capsys):
    hub.refuses = True
    before = (run / "final" / "llm_0" / "adapter_model.safetensors").read_bytes()
    assert main(["push", str(run), "org/films"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "org/films-llm_0" in error
    assert "try again with" in error
    assert (run / "final" / "llm_0" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["films", "a/b/c", "org/my films"])
def test_a_wrong_name_or_no_login_ends_before_training(capsys, tmp_path, monkeypatch, name):
    monkeypatch.setattr("agents.publishing.hub.get_token", lambda: "hf_x")
    argv = ["train", "toy", "--out", str(tmp_path / "run"), "--push-to-hub"]
    assert main([*argv, name]) == 2
    assert "ORG/NAME" in capsys.readouterr().err
    monkeypatch.setattr("agents.publishing.hub.get_token", lambda: None)
    assert main([*argv, "org/films"]) == 2
    assert "hf auth login" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_is_not_pushed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.publishing.hub.get_token", lambda: "hf_x")
    (tmp_path / "config.json").write_text("{}")
    assert main(["push", str(tmp_path), "org/films"]) == 2
    assert "Expected a finished run" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_model_has_the_logits_of_the_adapter(run, tmp_path, dtype):
    out = tmp_path / "new" / "merged"
    folder = run / "final" / "llm_0"
    assert main(["merge", str(folder), str(out), "--dtype", dtype]) == 0
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.dtype == getattr(torch, dtype)
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(out)("This film was", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        plain = base(ids).logits
        wanted = PeftModel.from_pretrained(base, str(folder))(ids).logits
        found = merged(ids).logits.float()
    # float32 sums in another order; bfloat16 keeps 8 bits of every weight.
    tolerance = 1e-3 if dtype == "float32" else 0.05 * float(wanted.abs().max())
    assert float((found - wanted).abs().max()) < tolerance
    assert float((plain - wanted).abs().max()) > 2 * tolerance
    assert str(EMBEDDED_MODEL) not in (out / "config.json").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["merged"]


def test_a_merge_refuses_what_is_no_adapter_and_an_out_that_holds_something(run, tmp_path, capsys):
    assert main(["merge", str(EMBEDDED_MODEL), str(tmp_path / "out")]) == 2
    assert "a whole model already" in capsys.readouterr().err
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["merge", str(run / "final" / "llm_0"), str(tmp_path)]) == 2
    assert "new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
