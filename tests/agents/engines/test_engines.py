"""Generation by a vLLM server: what is sent, what is believed, and what ends a run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.engines import BuiltinEngine
from agents.engines.base import EngineRun, row_seeds
from agents.engines.client import VLLMClient
from agents.engines.start import make_engine
from agents.engines.vllm_local import VLLMEngine
from agents.engines.vllm_server import VLLMServerEngine
from agents.errors import EngineError
from agents.models import loading
from agents.models.adapters import LoraBackbone, lora_config
from agents.models.files import EMBEDDED_MODEL
from agents.models.loading import load_base
from agents.models.tiny import tiny_model
from agents.policies.llm import LLMPolicy
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.training.loop import train
from agents.training.trainer import Trainer
from cory_env import make_task
from tests.agents.fake_vllm import FakeVLLM, Refusal, serve
from tests.agents.fakes import flags, reference_hidden
from tests.trajectories import timeless

QUIET = Console(quiet=True)
PROMPTS = ["abc>", "=", "ba,cab=", "hg>"]
# float32 summed in another order (cached or not, padded or not) differs in the last digits
FLOAT32 = 2e-5


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> str:
    """Return the folder of an untrained toy model, which a server can load."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    base, tokenizer = tiny_model(make_task("toy"), seed=0)
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def fake(tiny_folder):
    return FakeVLLM(tiny_folder)


@pytest.fixture
def url(fake, monkeypatch):
    """Serve the fake; repetitions do not wait."""
    monkeypatch.setattr("agents.engines.client.time", SimpleNamespace(sleep=lambda s: None))
    with serve(fake) as address:
        yield address


@pytest.fixture
def server_config(toy_config, fake, url):
    def make(**changes) -> TrainConfig:
        values = {
            **{"model": fake.model, "adapter": "lora", "lora_rank": 4, "learning_rate": 0.05},
            **{"engine": "vllm_server", "engine_url": url},
        }
        return toy_config(**{**values, **changes})

    return make


def moved_policy(model: str, *, moved: float = 0.2, **options) -> LLMPolicy:
    """Return a policy whose adapter differs from the base."""
    base, tokenizer = load_base(model, torch.float32)
    backbone = LoraBackbone(
        base,
        tokenizer,
        ["llm_0"],
        config=lora_config(base, 4),
        device=torch.device("cpu"),
        seed=0,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters("llm_0").values():
            parameter += moved * torch.randn(parameter.shape, generator=generator)
    return LLMPolicy(name="llm_0", backbone=backbone, **options)


def connect(url: str, fake: FakeVLLM, tmp_path, *, max_tokens: int = 16, **options):
    return VLLMServerEngine(
        [VLLMClient(url, timeout_s=20)],
        model=fake.model,
        folder=tmp_path / "adapters",
        max_tokens=max_tokens,
        reshaped=options.get("reshaped", False),
    )


def uniforms(count: int, length: int = 3, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, length, generator=generator, dtype=torch.float64)


def start(config: TrainConfig) -> Trainer:
    """Build what `train` builds before its first iteration."""
    trainer = Trainer(config)
    trainer.engine = make_engine(trainer.config, trainer.policies, trainer.games.rules, rank=0)
    return trainer


# --- what a run sends -----------------------------------------------------------------------------


def test_every_iteration_pushes_every_policys_present_weights_under_a_new_name(server_config, fake):
    trainer = start(server_config())
    pushed = []
    for iteration in range(2):
        for name in ("llm_0", "llm_1"):
            weights = trainer.policies[name].parameters()
            pushed.append((name, {k: v.detach().clone() for k, v in weights.items()}))
        trainer.iterate(iteration)
    assert len(fake.loaded) == 4
    # the policy that is asked first is pushed first, and that changes with the roles
    order = [0, 1, 3, 2]
    for (found_name, found), (name, expected) in zip(
        fake.loaded, [pushed[i] for i in order], strict=True
    ):
        assert found_name.startswith(f"{name}-")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert len({name for name, _ in fake.loaded}) == 4
    learnt = [
        torch.equal(a, b) for a, b in zip(pushed[0][1].values(), pushed[2][1].values(), strict=True)
    ]
    assert not all(learnt), "nothing was learnt: the second push proves nothing"
    assert set(fake.present) == {fake.loaded[2][0], fake.loaded[3][0]}


def test_whoever_has_the_role_is_asked_with_its_own_adapter(server_config, fake):
    trainer = start(server_config())
    for iteration in range(2):
        trainer.iterate(iteration)
    models = [body["model"].split("-")[0] for body in fake.bodies("/v1/completions")]
    asked = [set(models[i : i + 8]) for i in range(0, 32, 8)]
    assert asked == [{"llm_0"}, {"llm_1"}, {"llm_1"}, {"llm_0"}]


def test_what_the_server_samples_is_scored_alike_and_weighs_one(server_config):
    trainer = start(server_config(temperature=0.8, top_p=0.9))
    trainer.iterate(0)
    for turn in trainer.prepare(trainer.collect(trainer.assign(1))):
        batch = turn.batch
        weights = batch.weights[batch.response_mask]
        # e^x - 1 of a difference of two sums in float32
        assert float((weights - 1).abs().max()) < 1e-4
    row = trainer.iterate(2)
    assert row["llm_0/sampler_gap"] < FLOAT32
    assert row["llm_1/sampler_gap"] < FLOAT32


def test_branches_are_played_by_the_server_with_what_is_left_of_each_response(server_config, fake):
    trainer = start(server_config(algorithm="vine", segment="tokens:1", k=2))
    trainer.iterate(0)
    bodies = fake.bodies("/v1/completions")
    assert {body["max_tokens"] for body in bodies} == {3, 2, 1}
    assert len(bodies) == trainer.ledger.totals.responses > 2 * 8 * 3
    begun = {tuple(b["prompt"]) for b in bodies[:16]}
    assert all(tuple(b["prompt"][: b["max_tokens"] - 3]) in begun for b in bodies[16:40]
               if b["max_tokens"] < 3)  # fmt: skip


def test_a_server_with_stale_adapters_shows_in_the_weights_and_is_capped(server_config, fake):
    trainer = start(server_config(learning_rate=0.2))
    fake.stale = True
    fresh = trainer.iterate(0)
    row = trainer.iterate(1)
    # 96 responses: one token in 40 or so is twice as probable as the server has it
    batches = [
        turn.batch
        for i in range(2, 8)
        for turn in trainer.prepare(trainer.collect(trainer.assign(i)))
    ]
    weights = torch.cat([batch.weights[batch.response_mask] for batch in batches])
    assert fresh["llm_0/sampler_gap"] < FLOAT32
    assert row["llm_0/sampler_gap"] > 0.05
    assert float(weights.min()) < 0.9
    assert float(weights.max()) == 2.0
    assert int((weights == 2).sum()) > 1


def test_a_request_says_everything_that_shapes_the_distribution(url, fake, tmp_path):
    # what a model's generation_config.json would put in the place of a field left out
    fake.generation_config = {"top_k": 1, "temperature": 0.1, "top_p": 0.1, "eos_token_id": [1, 2]}
    policy = moved_policy(fake.model, temperature=0.7, top_p=0.9)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    draws = uniforms(4)
    engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    bodies = {tuple(b["prompt"]): b for b in fake.bodies("/v1/completions")}
    tokenizer = policy.backbone.tokenizer
    for prompt, seed in zip(PROMPTS, row_seeds(draws), strict=True):
        assert bodies[tuple(tokenizer(prompt)["input_ids"])] == {
            **{"model": fake.loaded[0][0], "prompt": tokenizer(prompt)["input_ids"]},
            **{"max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0},
            **{"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
            **{"ignore_eos": True, "stop_token_ids": [tokenizer.eos_token_id]},
            **{"logprobs": 0, "return_token_ids": True, "seed": seed},
        }
    assert len(set(row_seeds(draws))) == 4


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.6)])
def test_log_probs_are_those_of_the_sampling_distribution(url, fake, tmp_path, temperature, top_p):
    fake.generation_config = {"top_k": 1, "eos_token_id": [1]}
    policy = moved_policy(fake.model, temperature=temperature, top_p=top_p)
    engine = connect(url, fake, tmp_path, reshaped=temperature != 1)
    engine.sync(policy)
    _, tokens = engine.generate(policy, PROMPTS * 6, max_new_tokens=3, uniforms=uniforms(24))
    hidden = reference_hidden(policy.backbone, tokens)
    with torch.no_grad():
        scores = policy.score(tokens, hidden)
    torch.testing.assert_close(scores.log_probs, tokens.sampled_log_probs, atol=FLOAT32, rtol=0)
    lengths = tokens.response_mask.sum(1)
    assert lengths.min() < lengths.max(), "no response ended early"


def test_a_response_holds_its_end_token_and_its_text_does_not(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    texts, tokens = engine.generate(policy, PROMPTS * 6, max_new_tokens=3, uniforms=uniforms(24))
    end = policy.backbone.tokenizer.eos_token_id
    ended = 0
    for text, ids, mask in zip(texts, tokens.response_ids, tokens.response_mask, strict=True):
        kept = ids[mask].tolist()
        assert end not in kept[:-1]
        assert len(kept) == 3 or kept[-1] == end
        assert len(text) == len(kept) - (kept[-1] == end)
        ended += kept[-1] == end
    assert ended


def test_a_response_that_ends_at_once_is_empty(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    end = policy.backbone.tokenizer.eos_token_id

    def at_once(reply):
        reply["choices"][0]["token_ids"] = [end]
        reply["choices"][0]["logprobs"]["token_logprobs"] = [-1.5]
        return reply

    fake.spoil = at_once
    texts, tokens = engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=uniforms(4))
    assert texts == [""] * 4
    assert tokens.response_ids.tolist() == [[end]] * 4
    assert tokens.sampled_log_probs.tolist() == [[-1.5]] * 4


def test_greedy_is_the_learners_own_greedy(url, fake, tmp_path):
    policy = moved_policy(fake.model, temperature=0.5, top_p=0.5)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    found = engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=uniforms(4), greedy=True)
    expected = BuiltinEngine().generate(
        policy, PROMPTS, max_new_tokens=3, uniforms=uniforms(4), greedy=True
    )
    assert found.texts == expected.texts
    assert torch.equal(found.tokens.response_ids, expected.tokens.response_ids)
    assert torch.equal(found.tokens.prompt_ids, expected.tokens.prompt_ids)
    assert torch.equal(found.tokens.response_mask, expected.tokens.response_mask)


def test_the_reference_is_the_server_s_base_model(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    reference = replace(policy, name="reference", learns=False)
    engine = connect(url, fake, tmp_path)
    engine.sync(reference)
    engine.generate(reference, PROMPTS, max_new_tokens=3, uniforms=uniforms(4))
    assert fake.loaded == []
    assert {body["model"] for body in fake.bodies("/v1/completions")} == {fake.name}


def test_a_row_is_sampled_alike_whatever_rows_go_with_it(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    draws = uniforms(8)
    whole = engine.generate(policy, PROMPTS * 2, max_new_tokens=3, uniforms=draws).texts
    parts = [
        engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=part).texts
        for part in draws.split(4)
    ]
    assert whole == parts[0] + parts[1]
    other = engine.generate(policy, PROMPTS * 2, max_new_tokens=3, uniforms=uniforms(8, seed=1))
    assert other.texts != whole


def test_the_rows_of_a_batch_are_under_way_together(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    fake.barrier = threading.Barrier(16)
    engine.generate(policy, PROMPTS * 4, max_new_tokens=3, uniforms=uniforms(16))
    assert not fake.barrier.broken


def test_any_text_goes_there_and_back_as_the_same_tokens(tmp_path):
    fake = FakeVLLM(str(EMBEDDED_MODEL), max_model_len=256)
    policy = moved_policy("embedded", moved=0.02)
    prompts = ["Das hätte – naïve 映画 🎬", "<|endoftext|> <end>", "\n\t\\u0000"]
    with serve(fake) as url:
        engine = connect(url, fake, tmp_path)
        engine.sync(policy)
        found = engine.generate(
            policy, prompts, max_new_tokens=6, uniforms=uniforms(3, 6), greedy=True
        )
    expected = BuiltinEngine().generate(
        policy, prompts, max_new_tokens=6, uniforms=uniforms(3, 6), greedy=True
    )
    assert found.texts == expected.texts
    assert torch.equal(found.tokens.response_ids, expected.tokens.response_ids)


def kept_ids(tokens):
    rows = zip(tokens.response_ids, tokens.response_mask, strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


def assert_rests_are_greedy(engine, policy):
    """Behind every prefix of a greedy response comes its rest, in requests of what is left."""
    options = {"max_new_tokens": 3, "uniforms": uniforms(4), "greedy": True}
    engine.sync(policy)
    whole = engine.generate(policy, PROMPTS, **options).tokens
    rows = kept_ids(whole)
    cuts = [min(cut, len(row) - 1) for cut, row in zip([0, 1, 2, 1], rows, strict=True)]
    assert len(set(cuts)) == 3
    prefixes = [row[:cut] for row, cut in zip(rows, cuts, strict=True)]
    rest = engine.generate(policy, PROMPTS, prefixes=prefixes, **options).tokens
    assert kept_ids(rest) == [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
    return cuts


def test_a_server_continues_a_response_from_any_cut(url, fake, tmp_path):
    cuts = assert_rests_are_greedy(connect(url, fake, tmp_path), moved_policy(fake.model, moved=1))
    bodies = fake.bodies("/v1/completions")[4:]  # in the order in which they came
    asked = sorted((len(body["prompt"]), body["max_tokens"]) for body in bodies)
    assert asked == sorted((len(p) + cut, 3 - cut) for p, cut in zip(PROMPTS, cuts, strict=True))


def test_a_rest_that_is_too_long_for_its_response_is_not_believed(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    fake.spoil = change_choice(token_ids=[1, 1], token_logprobs=[-1.0] * 2)
    with pytest.raises(EngineError, match="Expected 1 to 1 token ids"):
        engine.generate(
            policy, PROMPTS[:1], max_new_tokens=3, uniforms=uniforms(1), prefixes=[[1, 1]]
        )


# --- what is not believed -------------------------------------------------------------------------


def change_choice(**changes):
    def spoil(reply):
        log_probs = changes.pop("token_logprobs", None)
        reply["choices"][0].update(changes)
        if log_probs is not None:
            reply["choices"][0]["logprobs"]["token_logprobs"] = log_probs
        return reply

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda reply: '{"choices": [', "Expected JSON.*choices"),
        (lambda reply: "", "Expected JSON"),
        (lambda reply: [], "Expected a completion with token_ids"),
        (lambda reply: {"choices": []}, "Expected a completion with token_ids"),
        (change_choice(token_ids=None), "since 0.10.2"),
        (change_choice(logprobs=None), "Expected a completion with token_ids"),
        (change_choice(prompt_token_ids=[1]), "Expected the server to read the . tokens"),
        (change_choice(token_ids=[]), "Expected 1 to 3 token ids"),
        (change_choice(token_ids=[1, 1, 1, 1]), "Expected 1 to 3 token ids"),
        (change_choice(token_ids=[999]), "out of those of 12 tokens"),
        (change_choice(token_ids=["a"]), "Expected 1 to 3 token ids"),
        (change_choice(token_ids=[1, 1, 1], token_logprobs=[-1.0]), "for each of 3 tokens"),
        (change_choice(token_ids=[1, 1, 1], token_logprobs=[-1.0, None, -1.0]), "finite"),
        (change_choice(token_ids=[1, 1, 1], token_logprobs=[-1.0, float("nan"), 0]), "finite"),
        (change_choice(token_ids=[1], token_logprobs=[-1.0]), "--generation-config vllm"),
        (change_choice(token_ids=[0, 1, 1], token_logprobs=[-1.0] * 3), "end with one of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_reply_of_another_form_is_one_line(url, fake, tmp_path, spoil, message):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    fake.spoil = spoil
    with pytest.raises(EngineError, match=message) as caught:
        engine.generate(policy, PROMPTS[:1], max_new_tokens=3, uniforms=uniforms(1))
    assert "\n" not in str(caught.value)


def refuse(status: int, message: str, on: str = "/v1/completions"):
    def fault(path: str, count: int) -> None:
        if path == on:
            raise Refusal(status, message)

    return fault


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refuse(500, "EngineCore died\nunexpectedly"), r"HTTP 500 .*EngineCore died unexpectedly"),
        (refuse(400, "too long"), r"HTTP 400 for /v1/completions \(too long\)"),
        (refuse(404, "The model `x` does not exist."), "HTTP 404 .*does not exist"),
    ],
)
def test_a_refusal_says_why_and_is_not_repeated(url, fake, tmp_path, fault, message):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    fake.fault = fault
    with pytest.raises(EngineError, match=message):
        engine.generate(policy, PROMPTS[:1], max_new_tokens=3, uniforms=uniforms(1))
    assert len(fake.bodies("/v1/completions")) == 1


def test_a_prompt_that_outgrows_the_server_is_refused_by_it(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    fake.max_model_len = 5
    with pytest.raises(EngineError, match=r"HTTP 400 .*maximum context length is 5"):
        engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=uniforms(4))


@pytest.mark.parametrize("losses", [3, 4])
def test_a_lost_connection_is_tried_three_times_more_with_the_same_seed(
    url, fake, tmp_path, losses
):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    draws, before = uniforms(1), len(fake.requests)

    def fault(path: str, count: int) -> None:
        if count <= before + losses:
            raise ConnectionResetError

    fake.fault = fault
    if losses == 3:
        engine.generate(policy, PROMPTS[:1], max_new_tokens=3, uniforms=draws)
    else:
        with pytest.raises(EngineError, match="got no answer to /v1/completions"):
            engine.generate(policy, PROMPTS[:1], max_new_tokens=3, uniforms=draws)
    assert [body["seed"] for body in fake.bodies("/v1/completions")] == row_seeds(draws) * 4


def test_a_server_that_hangs_is_not_waited_for_twice(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    client = VLLMClient(url, timeout_s=0.3)
    engine = VLLMServerEngine(
        [client], model=fake.model, folder=tmp_path / "adapters", max_tokens=16, reshaped=False
    )
    hanging = threading.Event()
    fake.fault = lambda path, count: hanging.wait(20)
    with pytest.raises(EngineError, match=r"no answer to /v1/completions \(timed out\)"):
        engine.generate(
            replace(policy, name="reference", learns=False),
            PROMPTS[:1],
            max_new_tokens=3,
            uniforms=uniforms(1),
        )
    hanging.set()
    assert len(fake.bodies("/v1/completions")) == 1


def test_an_adapter_that_the_server_has_evicted_is_replaced_all_the_same(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    fake.fault = refuse(500, "Failed to remove lora adapter", on="/v1/unload_lora_adapter")
    engine.sync(policy)
    assert len(fake.loaded) == 2
    assert [p.name for p in (tmp_path / "adapters").iterdir()] == [fake.loaded[1][0]]


def test_what_a_killed_run_has_left_behind_is_removed(url, fake, tmp_path):
    (tmp_path / "adapters" / "llm_0-old-7").mkdir(parents=True)
    engine = connect(url, fake, tmp_path)
    engine.sync(moved_policy(fake.model))
    assert [p.name for p in (tmp_path / "adapters").iterdir()] == [fake.loaded[0][0]]


def test_closing_leaves_neither_files_nor_adapters(url, fake, tmp_path):
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(policy)
    assert fake.present
    engine.close()
    assert fake.present == {}
    assert list(tmp_path.iterdir()) == []


def test_an_api_key_is_sent_and_not_stored(server_config, fake, monkeypatch):
    fake.api_key = "secret-key"
    with pytest.raises(EngineError, match="HTTP 401"):
        train(server_config(iterations=1), console=QUIET)
    monkeypatch.setenv("VLLM_API_KEY", "secret-key")
    run = train(server_config(iterations=1), console=QUIET)
    assert "secret-key" not in (run.folder / "config.json").read_text()


# --- a run ----------------------------------------------------------------------------------------


def fails(capsys, argv: list[str], *parts: str) -> None:
    """Run a command and expect one line with these parts, and exit code 2."""
    capsys.readouterr()  # progress bars of what was loaded before
    assert main(argv) == 2
    *start, error = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert all("is not the embedded model" in line for line in start), start
    for part in parts:
        assert part in error


def last_state(config: TrainConfig):
    return load_checkpoint(RunFolder(config.run_folder).checkpoints()[-1])


def test_a_server_that_dies_ends_the_run_with_a_checkpoint_and_it_goes_on_to_the_same_end(
    capsys, tmp_path, server_config, fake
):
    whole = server_config(out=str(tmp_path / "whole"), iterations=3)
    parts = server_config(out=str(tmp_path / "parts"), iterations=3, save_every=100)
    train(whole, console=QUIET)
    before = len(fake.bodies("/v1/completions"))

    def dies(path: str, count: int) -> None:
        # in the observer's turn of the second iteration
        if len(fake.bodies("/v1/completions")) > before + 24:
            raise ConnectionResetError

    fake.fault = dies
    fails(capsys, ["train", "toy", *flags(parts)], "Expected a vLLM server at", "vllm serve")
    assert [p.name for p in RunFolder(parts.run_folder).checkpoints()] == ["step_1"]
    assert not (parts.run_folder / "adapters_0").exists()
    fake.fault = lambda path, count: None
    assert main(["train", "toy", "--resume", *flags(parts, "out")]) == 0
    found, expected = last_state(parts), last_state(whole)
    assert timeless(found[1]) == timeless(expected[1])
    assert all(torch.equal(found[0][key], expected[0][key]) for key in expected[0])


def test_a_run_may_go_on_with_a_server_elsewhere(server_config, fake):
    config = server_config(iterations=1)
    train(config, console=QUIET)
    with serve(fake) as address:
        moved = config.replace(iterations=2, engine_url=address)
        assert not train(moved, resume=True, console=QUIET).interrupted
    assert RunFolder(config.run_folder).read_config().engine_config.engine_url == address


def test_a_finished_run_holds_no_adapters_and_no_server_is_asked_to_evaluate(server_config, fake):
    run = train(server_config(iterations=1, evaluation_queries=8), console=QUIET)
    assert run.evaluation is not None
    assert not (run.folder / "adapters_0").exists()
    assert fake.present == {}
    assert len(fake.bodies("/v1/completions")) == 16


@pytest.mark.parametrize(
    ("change", "config", "parts"),
    [
        ({"model": "other/model", "name": "other"}, {}, ["other/model", "another --model"]),
        ({"max_model_len": 20}, {}, ["room for 35 tokens, got 20", "--max-model-len 35"]),
        ({"processed": False}, {"temperature": 0.7}, ["--logprobs-mode processed_logprobs"]),
        ({"fault": refuse(503, "starting", on="/v1/models")}, {}, ["HTTP 503", "starting"]),
    ],
    ids=["model", "length", "log-probs", "status"],
)
def test_a_server_that_does_not_fit_is_refused_before_anything_is_written(
    capsys, server_config, fake, change, config, parts
):
    chosen = server_config(**config)
    for name, value in change.items():
        setattr(fake, name, value)
    fails(capsys, ["train", "toy", *flags(chosen)], *parts)
    assert not chosen.run_folder.exists()


def test_log_probs_that_are_missing_are_not_taken_for_processed_ones(url, fake, tmp_path):
    fake.spoil = change_choice(token_logprobs=[None] * 9)
    with pytest.raises(EngineError, match="--logprobs-mode processed_logprobs"):
        connect(url, fake, tmp_path, reshaped=True)


def test_raw_log_probs_do_no_harm_at_temperature_one(server_config, fake):
    fake.processed = False
    row = start(server_config()).iterate(0)
    assert row["llm_0/sampler_gap"] < FLOAT32


@pytest.fixture(scope="module")
def padded_folder(tmp_path_factory) -> str:
    """Return the folder of a toy model with as many rows without a token as with one."""
    folder = tmp_path_factory.mktemp("models") / "padded"
    base, tokenizer = tiny_model(make_task("toy"), seed=0)
    rows = base.config.vocab_size
    base.resize_token_embeddings(2 * rows, mean_resizing=False)
    with torch.no_grad():  # three times as far from 0: most draws would fall on one of them
        base.lm_head.weight[rows:] = 3 * base.lm_head.weight[:rows]
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_server_is_kept_from_rows_without_a_token(
    server_config, fake, padded_folder, temperature
):
    fake.__init__(padded_folder)
    trainer = start(server_config(temperature=temperature, batch_size=32, minibatch_size=32))
    row = trainer.iterate(0)
    assert row["llm_0/sampler_gap"] < FLOAT32
    assert row["llm_1/sampler_gap"] < FLOAT32
    rows = int(trainer.policies["llm_0"].backbone.config.vocab_size)
    bias = {str(i): -100.0 for i in range(rows // 2, rows)}
    probe, *asked = fake.bodies("/v1/completions")  # how log-probs are made, before the run
    assert "logit_bias" not in probe
    assert all(body["logit_bias"] == bias for body in asked)


def test_raw_log_probs_are_refused_where_rows_are_left_out(
    capsys, server_config, fake, padded_folder
):
    fake.__init__(padded_folder)
    fake.processed = False
    fails(capsys, ["train", "toy", *flags(server_config())], "--logprobs-mode processed_logprobs")


def test_vllm_in_the_process_is_kept_from_rows_without_a_token(
    local_config, stand_in, fake, padded_folder
):
    fake.__init__(padded_folder)
    row = start(local_config(batch_size=32, minibatch_size=32)).iterate(0)
    assert row["llm_0/sampler_gap"] < FLOAT32


def test_no_server_is_one_line(capsys, server_config):
    chosen = server_config(engine_url="http://127.0.0.1:9")
    fails(capsys, ["train", "toy", *flags(chosen)], "http://127.0.0.1:9", "refused", "vllm serve")
    assert not chosen.run_folder.exists()


def test_a_server_without_adapters_is_one_line_and_the_run_can_begin_once_it_has_them(
    capsys, server_config, fake
):
    chosen = server_config(iterations=1)
    fake.lora = False
    parts = ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "--enable-lora", "HTTP 404"]
    fails(capsys, ["train", "toy", *flags(chosen)], *parts)
    assert not chosen.run_folder.exists()
    fake.lora = True
    assert main(["train", "toy", *flags(chosen)]) == 0


def test_the_server_may_go_by_another_name_for_the_same_folder(url, fake, tmp_path):
    fake.name = "served"
    policy = moved_policy(fake.model)
    engine = connect(url, fake, tmp_path)
    engine.sync(replace(policy, name="reference", learns=False))
    engine.generate(
        replace(policy, name="reference", learns=False),
        PROMPTS,
        max_new_tokens=3,
        uniforms=uniforms(4),
    )
    assert fake.bodies("/v1/completions")[0]["model"] == "served"


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "vllm", "adapter": "full"}, "Expected adapter lora with engine vllm"),
        ({"engine": "vllm", "model": "tiny"}, "built in memory"),
        ({"engine": "vllm_server"}, "--engine-url http://HOST:PORT"),
        ({"engine_url": "http://here"}, "--engine vllm_server"),
        ({"engine": "vllm_server", "engine_url": "here:8000"}, "begins with http://"),
        ({"engine": "sglang"}, "builtin, vllm, vllm_server"),
        ({"engine": "vllm", "engine_memory": 1.5}, "engine_memory to be between 0 and 1"),
        ({"engine": "vllm", "engine_memory": 0.0}, "engine_memory to be above 0"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(
    ("values", "cap"),
    [
        ({}, None),
        ({"importance_cap": 1.5}, 1.5),
        ({"engine": "vllm"}, 2.0),
        ({"engine": "vllm", "importance_cap": 5.0}, 5.0),
    ],
)
def test_another_engine_brings_its_own_cap(values, cap):
    assert TrainConfig(**values).algorithm_config.importance_cap == cap
    assert TrainConfig(**values).replace(engine="builtin").algorithm_config.importance_cap == (
        values.get("importance_cap")
    )


def test_seeds_are_of_53_bits_and_of_the_row_s_first_number():
    draws = torch.tensor([[0.5, 0.1], [1 - 2**-53, 0.2], [0.0, 0.3]], dtype=torch.float64)
    assert row_seeds(draws) == [2**52, 2**53 - 1, 0]


# --- vLLM in the same process ---------------------------------------------------------------------


class StandIn:
    """`vllm` with the signatures of its classes; generation is the fake server's."""

    def __init__(self, fake: FakeVLLM):
        self.fake = fake
        self.llms: list = []
        self.SamplingParams = Params

    def LLM(
        self,
        *,
        model: str,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        enable_lora: bool = False,
        max_loras: int = 1,
        max_lora_rank: int = 16,
        enable_sleep_mode: bool = False,
        max_num_batched_tokens: int | None = None,
        enable_chunked_prefill: bool = True,
        logprobs_mode: str = "raw_logprobs",
        generation_config: str = "auto",
    ):
        options = {**locals(), "ids": []}
        llm = StandInLLM(self.fake, options)
        self.fake.processed = logprobs_mode == "processed_logprobs"
        self.llms.append(llm)
        return llm


@dataclass
class Params:
    """The fields of `SamplingParams` that a policy may need, with vLLM's defaults."""

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    logit_bias: dict[int, float] | None = None


@dataclass
class Request:
    """`LoRARequest`, whose first three fields are given by position."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""


class StandInLLM:
    def __init__(self, fake: FakeVLLM, options: dict):
        self.fake = fake
        self.options = options
        self.asleep = False
        self.calls: list[str] = []

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        assert self.options["enable_sleep_mode"]
        assert level == 1
        self.calls.append("sleep")
        self.asleep = True

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.calls.append("wake_up")
        self.asleep = False

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        assert not self.asleep
        assert not use_tqdm
        self.calls.append("generate" if lora_request is None else lora_request.lora_name)
        assert len(prompts) == len(sampling_params)
        if lora_request is not None and lora_request.lora_name not in self.fake.present:
            assert lora_request.lora_int_id not in (n for _, n in self.options["ids"])
            self.options["ids"].append((lora_request.lora_name, lora_request.lora_int_id))
            body = {"lora_name": lora_request.lora_name, "lora_path": lora_request.lora_path}
            self.fake.answer("/v1/load_lora_adapter", body, None)
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            body = {k: v for k, v in asdict(params).items() if k != "detokenize"}
            body |= {"prompt": prompt["prompt_token_ids"], "return_token_ids": True}
            body["model"] = lora_request.lora_name if lora_request else self.fake.name
            [choice] = self.fake.answer("/v1/completions", body, None)["choices"]
            steps = zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True)
            log_probs = [{i: SimpleNamespace(logprob=p, rank=1)} for i, p in steps]
            answer = SimpleNamespace(token_ids=choice["token_ids"], logprobs=log_probs)
            outputs.append(SimpleNamespace(outputs=[answer]))
        return outputs


@pytest.fixture
def stand_in(fake, monkeypatch):
    vllm = StandIn(fake)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.lora", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=Request))
    return vllm


@pytest.fixture
def local_config(toy_config, fake):
    def make(**changes) -> TrainConfig:
        values = {"model": fake.model, "adapter": "lora", "lora_rank": 4, "learning_rate": 0.05}
        return toy_config(**{**values, "engine": "vllm", **changes})

    return make


@pytest.mark.parametrize("sleeps", [True, False])
def test_vllm_in_the_process_gets_a_new_version_every_iteration_and_sleeps_between_on_a_gpu(
    local_config, stand_in, fake, sleeps
):
    trainer = start(local_config(temperature=0.8, top_p=0.9))
    engine = trainer.engine
    stand_in.llms[0].options["enable_sleep_mode"] = engine._sleeps = sleeps
    [llm] = stand_in.llms
    rows = [trainer.iterate(iteration) for iteration in range(2)]
    for row in rows:
        assert row["llm_0/sampler_gap"] < FLOAT32
        assert row["llm_1/sampler_gap"] < FLOAT32
    kinds = [call.split("-")[0] for call in llm.calls]
    expected = ["llm_0", "llm_1", "sleep", "wake_up", "llm_1", "llm_0", "sleep"]
    if not sleeps:
        expected = [kind for kind in expected if kind.startswith("llm")]
    assert kinds == expected
    assert len(set(llm.options["ids"])) == 4
    found = fake.loaded[-1][1]
    assert found.keys() == trainer.policies["llm_0"].parameters().keys()
    trainer.engine.close()
    assert not (trainer.config.run_folder / "adapters_0").exists()


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", {"enable_sleep_mode": True, "enable_chunked_prefill": True}),
        (
            "cpu",
            {
                **{"enable_sleep_mode": False, "enable_chunked_prefill": False},
                "max_num_batched_tokens": 8 * 35,
            },
        ),
    ],
)
def test_vllm_in_the_process_is_started_for_the_device(
    local_config, stand_in, tmp_path, monkeypatch, device, expected
):
    config = local_config(batch_size=8)
    policies = start(config).policies
    monkeypatch.setattr(loading, "pick_device", lambda name: torch.device(device))
    VLLMEngine.from_run(
        EngineRun(
            config=config, policies=policies, max_tokens=35, model=config.model,
            dtype="float32", folder=tmp_path,
        )
    )  # fmt: skip
    found = stand_in.llms[-1].options
    assert {key: found[key] for key in expected} == expected


def test_vllm_in_the_process_is_started_for_what_the_run_needs(local_config, stand_in, fake):
    start(local_config(lora_rank=24, engine_memory=0.25, seed=7))
    [llm] = stand_in.llms
    expected = {
        **{"model": fake.model, "dtype": "float32", "seed": 7, "gpu_memory_utilization": 0.25},
        **{"max_model_len": 35, "enable_lora": True, "max_loras": 2, "max_lora_rank": 32},
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
    }
    assert {key: llm.options[key] for key in expected} == expected


def test_a_row_is_sampled_by_its_own_seed_in_the_process_too(local_config, stand_in, fake):
    trainer = start(local_config())
    policy = trainer.policies["llm_0"]
    trainer.engine.sync(policy)
    draws = uniforms(4)
    trainer.engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    bodies = fake.bodies("/v1/completions")
    assert [body["seed"] for body in bodies] == row_seeds(draws)
    end = policy.backbone.tokenizer.eos_token_id
    assert all(body["ignore_eos"] and body["stop_token_ids"] == [end] for body in bodies)
    trainer.engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws, greedy=True)
    assert fake.bodies("/v1/completions")[-1]["temperature"] == 0.0


def test_vllm_in_the_process_continues_a_response_from_any_cut(local_config, stand_in, fake):
    trainer = start(local_config())
    policy = moved_policy(fake.model, moved=1)
    cuts = assert_rests_are_greedy(trainer.engine, policy)
    assert [b["max_tokens"] for b in fake.bodies("/v1/completions")[4:]] == [3 - c for c in cuts]


def test_vllm_that_fails_in_the_process_is_one_line(local_config, stand_in, fake, monkeypatch):
    trainer = start(local_config())
    policy = trainer.policies["llm_0"]
    trainer.engine.sync(policy)

    def fault(path: str, count: int) -> None:
        raise RuntimeError("CUDA out of memory\nTried to allocate")

    fake.fault = fault
    with pytest.raises(EngineError, match="RuntimeError: CUDA out of memory") as caught:
        trainer.engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=uniforms(4))
    assert "\n" not in str(caught.value)


def test_a_vllm_that_does_not_start_is_one_line(local_config, stand_in):
    def broken(**kwargs):
        raise ValueError("Free memory is less\nthan desired")

    stand_in.LLM = broken
    with pytest.raises(
        EngineError, match=r"to start, got ValueError: Free memory is less than desired\.$"
    ):
        start(local_config())


def test_an_invalid_option_of_vllm_is_said_without_where_it_was(local_config, stand_in):
    class ValidationError(ValueError):
        """As pydantic words it."""

        def errors(self):
            return [{"msg": "Value error, Sleep mode is not supported\non this platform"}]

    def broken(**kwargs):
        raise ValidationError("1 validation error for ModelConfig\n  Value error, Sleep mode …")

    stand_in.LLM = broken
    with pytest.raises(
        EngineError, match="Error: Value error, Sleep mode is not supported on this"
    ):
        start(local_config())


def test_a_server_that_fails_says_to_look_into_its_log_and_to_go_on(url, fake, tmp_path):
    engine = connect(url, fake, tmp_path)
    said = (
        "EngineCore encountered an issue. See stack trace (above) for the root cause. " + 40 * "x"
    )

    def fault(path: str, count: int) -> None:
        raise Refusal(500, said)

    fake.fault = fault
    with pytest.raises(EngineError) as caught:
        engine._servers[0].client.complete([1], model=fake.model)
    assert f"HTTP 500 for /v1/completions ({said})" in str(caught.value)
    assert "log, start it again, and go on with --resume" in str(caught.value)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error")])
def test_a_disk_without_room_for_an_adapter_is_one_line_and_the_run_can_go_on(
    server_config, fake, monkeypatch, error
):
    whole = train(server_config(iterations=2, save_every=1), console=QUIET)
    config = server_config(iterations=2, save_every=1, out=f"{whole.folder}_cut")
    written, save = [], LoraBackbone.save_adapter

    def full(backbone, name, folder):
        written.append(name)
        (folder / "half").touch()
        if len(written) == 3:
            raise error
        save(backbone, name, folder)
        (folder / "half").unlink()

    with monkeypatch.context() as patch:
        patch.setattr(LoraBackbone, "save_adapter", full)
        with pytest.raises(EngineError, match=r"to write an adapter to .* go on with --resume\."):
            train(config, console=QUIET)
    assert not list(config.run_folder.glob("adapters_*"))
    assert fake.present == {}
    parts = train(config, resume=True, console=QUIET)
    assert [timeless(row) for row in parts.metrics] == [timeless(row) for row in whole.metrics]


def test_an_adapter_is_pushed_without_a_tokenizer(url, fake, tmp_path):
    engine = connect(url, fake, tmp_path)
    policy = moved_policy(fake.model)
    engine.sync(policy)
    [folder] = (tmp_path / "adapters").iterdir()
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["adapter_config.json", "adapter_model.safetensors"]


def test_without_vllm_the_error_says_how_to_install_it(capsys, local_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    chosen = local_config()
    names = ("model", "adapter", "lora_rank", "iterations", "batch_size", "minibatch_size")
    argv = ["train", "toy", *flags(chosen, *names, "engine", "out")]
    fails(capsys, argv, "pip install", "vllm>=0.11", "--engine builtin")
    assert not chosen.run_folder.exists()


# --- several servers ------------------------------------------------------------------------------


@pytest.fixture
def three(tiny_folder, monkeypatch):
    """Serve three fakes; yields them and their addresses."""
    monkeypatch.setattr("agents.engines.client.time", SimpleNamespace(sleep=lambda s: None))
    fakes = [FakeVLLM(tiny_folder) for _ in range(3)]
    with ExitStack() as stack:
        yield fakes, [stack.enter_context(serve(fake)) for fake in fakes]


def connect_all(urls: Sequence[str], model: str, tmp_path) -> VLLMServerEngine:
    return VLLMServerEngine(
        [VLLMClient(url, timeout_s=20) for url in urls],
        model=model, folder=tmp_path / "adapters", max_tokens=16, reshaped=False,
    )  # fmt: skip


def lost(path: str, count: int) -> None:
    raise ConnectionResetError


def lost_core(path: str, count: int) -> None:
    raise Refusal(500, "EngineCore encountered an issue")


def test_rows_go_over_several_servers_and_every_adapter_to_each(three, tmp_path):
    fakes, urls = three
    engine, policy = connect_all(urls, fakes[0].model, tmp_path), moved_policy(fakes[0].model)
    engine.sync(policy)
    engine.sync(policy)
    draws = uniforms(4)
    found = engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    [name] = fakes[0].present
    assert [list(fake.present) for fake in fakes] == [[name]] * 3
    assert [len(fake.bodies("/v1/completions")) for fake in fakes] == [2, 1, 1]
    alone = connect_all(urls[:1], fakes[0].model, tmp_path / "alone")
    alone.sync(policy)
    expected = alone.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    assert torch.equal(found.tokens.response_ids, expected.tokens.response_ids)
    assert torch.equal(found.tokens.sampled_log_probs, expected.tokens.sampled_log_probs)
    alone.close()
    engine.close()
    assert [fake.present for fake in fakes] == [{}, {}, {}]
    assert engine.warning() == ""


@pytest.mark.parametrize("fault", [lost, lost_core])
def test_a_server_that_dies_is_left_out_with_a_line_and_its_rows_go_to_the_others(
    three, tmp_path, fault
):
    fakes, urls = three
    engine, policy = connect_all(urls, fakes[0].model, tmp_path), moved_policy(fakes[0].model)
    engine.sync(policy)
    draws = uniforms(4)
    expected = engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    fakes[0].fault = fault
    found = engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    # a row's seed goes with it: servers that answer it alike make no difference
    assert torch.equal(found.tokens.response_ids, expected.tokens.response_ids)
    line = engine.warning()
    assert line.startswith(f"Left out the vLLM server at {urls[0]}, 2 left: Expected ")
    assert "\n" not in line
    assert engine.warning() == ""
    asked = len(fakes[0].requests)
    fakes[1].fault = fault
    engine.sync(policy)  # the second is found dead here
    assert len(fakes[0].requests) == asked
    engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    assert engine.warning().startswith(f"Left out the vLLM server at {urls[1]}, 1 left: ")
    fakes[2].fault = fault
    with pytest.raises(EngineError, match=f"{urls[2]}"):
        engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=draws)
    engine.close()


def test_a_refusal_of_one_server_ends_the_run_and_is_not_asked_of_another(three, tmp_path):
    fakes, urls = three
    engine, policy = connect_all(urls, fakes[0].model, tmp_path), moved_policy(fakes[0].model)
    engine.sync(policy)
    fakes[1].fault = refuse(400, "no", on="/v1/completions")
    with pytest.raises(EngineError, match="HTTP 400"):
        engine.generate(policy, PROMPTS, max_new_tokens=3, uniforms=uniforms(4))
    assert engine.warning() == ""


@pytest.mark.parametrize("wrong", [0, 2])
def test_all_servers_must_be_what_the_run_needs_when_it_starts(three, tmp_path, wrong):
    fakes, urls = three
    fakes[wrong].max_model_len = 8
    with pytest.raises(EngineError, match=f"{urls[wrong]} to have room for 16 tokens, got 8"):
        connect_all(urls, fakes[0].model, tmp_path)
    fakes[wrong].fault = lost
    with pytest.raises(EngineError, match=urls[wrong]):
        connect_all(urls, fakes[0].model, tmp_path)


def test_a_run_goes_on_without_a_server_to_the_same_end_and_says_so(server_config, three, tmp_path):
    fakes, urls = three
    one = train(server_config(iterations=3, out=str(tmp_path / "one")), console=QUIET)
    config = server_config(engine_url=",".join(urls), iterations=3, out=str(tmp_path / "three"))

    def fault(path: str, count: int) -> None:
        if len(fakes[1].bodies("/v1/load_lora_adapter")) > 2:
            raise ConnectionResetError

    fakes[1].fault = fault
    console = Console(record=True, width=400)
    found = train(config, console=console)
    assert [timeless(row) for row in found.metrics] == [timeless(row) for row in one.metrics]
    assert console.export_text().count(f"Left out the vLLM server at {urls[1]}, 2 left") == 1


@pytest.mark.parametrize("url", ["http://a:1,b:2", "http://a:1,", ","])
def test_every_address_begins_with_http(url):
    with pytest.raises(ValueError, match="begins with http:// or https://"):
        TrainConfig(engine="vllm_server", engine_url=url)
