"""A real vLLM server, and vLLM in the process, generate for our learner, at the pinned version.

In this order: the server is killed by the last of those that ask it.
"""

import json
import os
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from scipy.stats import chisquare

from agents.engines.client import VLLMClient
from agents.engines.vllm_server import VLLMServerEngine, request_options
from agents.errors import EngineError
from agents.models.adapters import LoraBackbone, lora_config
from agents.models.files import EMBEDDED_MODEL
from agents.models.loading import load_base
from agents.policies.llm import LLMPolicy
from tests.trainers.test_openenv import free_port

pytestmark = pytest.mark.trainer

START_S = 300
MODEL = str(EMBEDDED_MODEL)
# float32 summed in another order; 1.3e-6 to 1.5e-6 was seen
GAP = 1e-5
VARIABLES = {
    **os.environ,
    **{"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1"},
    **{"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"},
}
SERVER = (
    *("--model", MODEL, "--host", "127.0.0.1", "--enable-lora", "--max-loras", "4"),
    *("--max-lora-rank", "16", "--generation-config", "vllm", "--dtype", "float32"),
    *("--logprobs-mode", "processed_logprobs", "--max-model-len", "256"),
    # a seeded request whose prompt is read in pieces ends the engine on CPUs
    *("--max-num-batched-tokens", "16384", "--no-enable-chunked-prefill"),
)


@contextmanager
def serving(log: Path):
    """Yield the process of a server and its address, once it is healthy."""
    port = free_port()
    # `vllm serve` looks for a distribution called vllm, and this one is called vllm-cpu
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *SERVER]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=out, stderr=out, env=VARIABLES
        )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while not healthy(url):
            assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
            assert time.monotonic() < end, log.read_text(encoding="utf-8")[-2000:]
            time.sleep(1)
        yield process, url
    finally:
        for member in family(process):
            member.kill()
        process.wait()


def family(process):
    """Return the processes of a server, first the one that listens."""
    try:
        found = psutil.Process(process.pid)
        return [found, *found.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("vllm") / "log") as found:
        yield found


@pytest.fixture
def url(server):
    return server[1]


def command(out, *flags, iterations=2):
    return [
        *(sys.executable, "-m", "agents", "train", "imdb", "--device", "cpu"),
        *("--dtype", "float32", "--batch-size", "16", "--minibatch-size", "16"),
        *("--iterations", str(iterations), "--save-every", "1", "--sample-every", "99"),
        *("--evaluation-queries", "0", "--out", str(out), *flags),
    ]


def started(out, *flags, iterations=2, **options):
    return subprocess.Popen(
        command(out, *flags, iterations=iterations),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=VARIABLES, **options,
    )  # fmt: skip


def served(url):
    return "--engine", "vllm_server", "--engine-url", url


def rows(out):
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def present(url):
    """Return the adapters that the server has."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as response:
        return [card["id"] for card in json.load(response)["data"] if card["parent"]]


def moved_policy():
    """Return a policy whose adapter differs from the base."""
    base, tokenizer = load_base(MODEL, torch.float32)
    config, device = lora_config(base, 16), torch.device("cpu")
    backbone = LoraBackbone(base, tokenizer, ["llm_0"], config=config, device=device, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters("llm_0").values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return LLMPolicy(name="llm_0", backbone=backbone)


@pytest.fixture
def connected(url, tmp_path):
    engine = VLLMServerEngine(
        [VLLMClient(url, timeout_s=120)],
        model=MODEL, folder=tmp_path / "adapters", max_tokens=256, reshaped=True,
    )  # fmt: skip
    policy = moved_policy()
    engine.sync(policy)
    yield engine, policy
    engine.close()


def drawn(count, length):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, length, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def two_runs(server, tmp_path_factory):
    """Return the folders of two runs of one seed that one server has generated for at once."""
    folders = [tmp_path_factory.mktemp("runs") / name for name in "ab"]
    runs = [started(folder, *served(server[1])) for folder in folders]
    for run in runs:
        _, said = run.communicate(timeout=300)
        assert run.returncode == 0, said
    return folders


def test_what_the_server_samples_from_is_what_is_learnt(two_runs):
    for folder in two_runs:
        assert len(rows(folder)) == 2
        for row in rows(folder):
            assert max(row["llm_0/sampler_gap"], row["llm_1/sampler_gap"]) <= GAP


def test_two_trainers_of_one_seed_are_answered_alike_whatever_the_other_asks(two_runs):
    rewards = [[row["llm_0/task_reward"] for row in rows(folder)] for folder in two_runs]
    # the same tokens: a seed decides them, but for ties that another batch rounds otherwise
    assert rewards[0] == pytest.approx(rewards[1], abs=0.2)


def test_adapters_come_and_go(two_runs, url):
    assert present(url) == []
    assert not [path for folder in two_runs for path in folder.glob("adapters_*")]


def test_responses_are_whole(connected):
    engine, policy = connected
    prompts = ["This film", "I", "The actors in this one are", "Never"] * 4
    found = engine.generate(policy, prompts, max_new_tokens=24, uniforms=drawn(16, 24))
    ends = policy.backbone.stop_ids.tolist()
    lengths = found.tokens.response_mask.sum(1).tolist()
    all_ids = found.tokens.response_ids.tolist()
    for ids, length, text in zip(all_ids, lengths, found.texts, strict=True):
        assert 1 <= length <= 24
        assert not any(end in ids[: length - 1] for end in ends)
        assert length == 24 or ids[length - 1] in ends
        said = [i for i in ids[:length] if i not in ends]
        assert policy.backbone.tokenizer.decode(said) == text


def test_a_response_ends_with_the_end_token(url, connected):
    _, policy = connected
    [end] = policy.backbone.stop_ids.tolist()
    reply = VLLMClient(url).complete(
        policy.backbone.tokenizer("This film")["input_ids"],
        **request_options(temperature=1.0, top_p=1.0, stops=[end]),
        **{"model": MODEL, "max_tokens": 9, "seed": 0, "logit_bias": {end: 100}},
    )
    assert reply.ids == [end]
    assert reply.log_probs == pytest.approx([0.0], abs=1e-6)


def test_greedy_is_the_learners_own_greedy(connected):
    engine, policy = connected
    prompts = ["This film", "The actors in this one are"]
    options = {"max_new_tokens": 8, "uniforms": drawn(2, 8), "greedy": True}
    found = engine.generate(policy, prompts, **options)
    assert found.texts == policy.generate(prompts, **options).texts


def test_the_distribution_is_ours(connected):
    engine, policy = connected
    prompts, seeds = ["This film"] * 2000, drawn(2000, 1)
    options = {"max_new_tokens": 1, "uniforms": seeds}
    counts = []
    for source in (
        engine.generate(policy, prompts, **options),
        policy.generate(prompts, **options),
    ):
        ids = source.tokens.response_ids[:, 0]
        counts.append(torch.bincount(ids, minlength=policy.backbone.rows))
    ids = policy.backbone.tokenizer(prompts[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        probs = policy.backbone.model(ids).logits[0, -1].double().softmax(-1)
    often = probs.topk(30).indices
    expected = torch.cat([probs[often], 1 - probs[often].sum()[None]])
    for count in counts:
        found = torch.cat([count[often], (2000 - count[often].sum())[None]])
        # one in 10,000 of the versions that sample rightly would fail
        assert chisquare(found.numpy(), 2000 * expected.numpy()).pvalue > 1e-4


def no_large_files():
    """Let every file end at 100 kB, as on a disk that fills up; an adapter has 1 MB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_disk_without_room_for_an_adapter_is_one_line(url, tmp_path):
    run = started(tmp_path / "run", *served(url), preexec_fn=no_large_files)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 2
    assert said.splitlines()[-1].startswith("error: ")
    assert "File too large" in said
    assert not (tmp_path / "run").exists()
    assert present(url) == []


def test_a_server_that_hangs_is_not_waited_for_long(server):
    process, url = server
    for member in family(process):
        member.suspend()
    before = time.monotonic()
    with pytest.raises(EngineError, match=r"Expected a vLLM server at .* got no answer"):
        VLLMClient(url, timeout_s=3).base_model()
    assert time.monotonic() - before < 30
    for member in family(process):
        member.resume()
    assert VLLMClient(url).base_model().name == MODEL


def test_a_server_that_is_killed_ends_the_run_with_a_checkpoint(server, tmp_path):
    process, url = server
    out = tmp_path / "run"
    run = started(out, *served(url), iterations=50)
    while not (out / "checkpoints" / "step_1").exists():
        assert run.poll() is None
        time.sleep(0.2)
    for member in family(process):
        member.kill()
    _, said = run.communicate(timeout=120)
    assert run.returncode == 2
    last = said.splitlines()[-1]
    assert last.startswith("error: Expected ")
    assert "the vLLM server at" in last or "a vLLM server at" in last
    assert rows(out)
    assert not list(out.glob("adapters_*"))


def test_vllm_in_the_process_learns_what_the_server_has_taught(two_runs, tmp_path):
    run = started(tmp_path / "run", "--engine", "vllm")
    _, said = run.communicate(timeout=400)
    assert run.returncode == 0, said[-2000:]
    for row, expected in zip(rows(tmp_path / "run"), rows(two_runs[0]), strict=True):
        assert row["llm_0/sampler_gap"] <= GAP
        assert row["llm_0/task_reward"] == pytest.approx(expected["llm_0/task_reward"], abs=0.2)
