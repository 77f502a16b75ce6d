"""The yardstick of the training benchmark learns what it claims to learn."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from agents.config.train import TrainConfig
from agents.training.loop import train
from agents.training.trainer import Trainer
from benchmarks import oracle, shapes, training
from benchmarks.launches import Launches, python_calls
from benchmarks.plain import PlainConfig, PlainPolicy
from benchmarks.shapes import SHAPES, work, write_model
from cory_env import registry


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A written model of the smallest shape, with the task known for this test alone."""
    for table in (registry.TASKS, registry.REWARDS):
        monkeypatch.delitem(table, shapes.TASK, raising=False)
        monkeypatch.setitem(table, shapes.TASK, None)  # so that it is taken back
        del table[shapes.TASK]
    shapes.register()
    write_model(SHAPES["short"], tmp_path / "model")
    return tmp_path / "model"


def test_the_plain_trainer_takes_the_losses_that_the_learner_takes(model, tmp_path):
    """PPO as the paper has it: detached KL, a value head on the policy's trunk, clipped values."""
    plain = PlainConfig(epochs=3, learning_rate=1e-3)
    trainer = Trainer(
        TrainConfig(
            task=shapes.TASK, task_options="shape=short", model=str(model), algorithm="ippo",
            adapter="full", dtype="float32", device="cpu", batch_size=8, minibatch_size=8,
            epochs=plain.epochs, kl="detached", kl_coef=plain.kl_coef, credit="shared",
            value_clip=plain.value_clip, value_coef=plain.value_coef, critic_body="policy",
            learning_rate=plain.learning_rate, critic_learning_rate=plain.learning_rate,
            max_grad_norm=1e9, normalization="token", out=str(tmp_path / "run"),
        )
    )  # fmt: skip
    rollout = trainer.collect(trainer.assign(0))
    turn = next(
        turn for turn in rollout.turns if bool(turn.tokens.response_mask.all())
    )  # no response has ended early
    critic = trainer.parts.critics[turn.policy]
    seat = rollout.turns.index(turn)
    backbone = trainer.policies[turn.policy].backbone
    policy = PlainPolicy(
        backbone.models[turn.policy],  # the very model: the learner's losses come first
        lambda hidden: critic(hidden, torch.full((len(hidden),), seat)),
        list(critic.parameters()),
        plain,
    )
    start = {key: p.detach().clone() for key, p in backbone.parameters(turn.policy).items()}
    head = {key: p.detach().clone() for key, p in critic.named_parameters()}

    losses = []
    loss = trainer.algorithm.loss

    def noted(*arguments):
        output = loss(*arguments)
        losses.append(float(output.loss))
        return output

    trainer.algorithm.loss = noted
    trainer.learner.learn(
        turn.policy, [trainer.prepare(rollout)[seat]], trainer.generators[turn.policy]
    )

    with torch.no_grad():
        for key, parameter in backbone.parameters(turn.policy).items():
            parameter.copy_(start[key])
        for key, parameter in critic.named_parameters():
            parameter.copy_(head[key])
    rewards = turn.rewards_now + turn.rewards_later
    expected = policy.update(turn.tokens.prompt_ids, turn.tokens.response_ids, rewards)
    assert len(expected) == 3
    assert len(set(expected)) == 3, "the epochs move it"
    # Adam divides by gradients' own size: float32 rounding grows from epoch to epoch.
    assert losses == pytest.approx(expected, abs=2e-4)


def test_work_counts_two_operations_for_each_weight_and_token():
    shape = SHAPES["short"]
    # Body: 12 · 2 layers · 32²; head: 32 · 300. Prompts of 5 and 25 tokens, 10 new ones, B = 8.
    forward = 2 * 24_576 * 8 * (14 + 34) + 2 * 9_600 * 8 * 20
    assert work(shape, full=True).generation == forward
    assert work(shape, full=True).scoring == 2 * forward
    assert work(shape, full=True).update == 2 * (3 * forward + 2 * 9_600 * 8 * 20)
    assert work(shape, full=False).update == 2 * (2 * forward + 2 * 9_600 * 8 * 20)


def test_the_counted_weights_are_those_of_the_matrices():
    for name in ("short", "embedded"):
        config = SHAPES[name].config
        kind = type(config).__name__
        model = (
            shapes.GPT2LMHeadModel(config)
            if kind == "GPT2Config"
            else shapes.LlamaForCausalLM(config)
        )
        matrices = sum(
            p.numel() for key, p in model.named_parameters() if p.dim() == 2 and "embed" not in key
            and "wte" not in key and "wpe" not in key
        )  # fmt: skip
        body, head = shapes._weights(config)
        assert body == matrices
        assert head == model.get_output_embeddings().weight.numel()


def test_views_and_allocations_launch_nothing():
    a = torch.ones(2, 3)
    with Launches() as launches:
        rows = torch.empty(3, 2).copy_(a.T).view(-1, 2)
        (a @ rows).sum()
    assert launches.counts == {"copy_": 1, "mm": 1, "sum": 1}


def test_what_is_called_of_python_is_counted():
    def inner():
        return len([])

    assert python_calls(lambda: [inner(), inner()]) == 3


@pytest.mark.parametrize("candidate", ["plain", "lora", "full", "rloo-lora"])
def test_every_candidate_prints_what_it_took(candidate, model):
    command = [sys.executable, "-m", "benchmarks.candidates", candidate, "short", "--launches"]
    done = subprocess.run(
        [*command, "--model", str(model), "--iterations", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    (row,) = printed["rows"]
    assert row["seconds"] >= row["generation"] + row["scoring"] + row["update"] > 0
    assert printed["peak_mb"] > 0
    launched = printed["launched"]
    assert min(launched[key] for key in ("generation", "scoring", "update", "python_calls")) > 100
    assert 0 < launched["outside"] < 1


def grown_mb(candidate, tmp_path):
    """What an iteration takes beyond the model and the libraries."""
    folder = tmp_path / "wide"
    if not folder.exists():
        write_model(SHAPES["wide"], folder)
    command = [sys.executable, "-m", "benchmarks.candidates", candidate, "wide"]
    command += ["--model", str(folder), "--iterations", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    return printed["peak_mb"] - printed["before_mb"]


def test_distributions_take_a_part_of_the_plain_trainers_memory(tmp_path):
    """Three tensors of 64 x 34 x 20,000 float32 are 522 MB; ours hold the 10 response tokens."""
    plain, ours = (grown_mb(name, tmp_path) for name in ("plain", "full"))
    assert plain > 500
    # The resident set; what our tensors take, tests/agents/policies/test_llm.py counts to the byte.
    assert ours < plain / 2.5


def test_pairs_are_scored_exactly_under_the_curve(toy_config, tmp_path, monkeypatch):
    for eta in (0.05, 0.5):
        folder = tmp_path / "runs" / "mappo" / f"kl_coef={eta:g}" / "0"
        train(
            toy_config(
                task_options="length=2,symbols=3", kl_coef=eta, iterations=6, save_every=6,
                learning_rate=1e-2, evaluation_queries=8, out=str(folder),
            )
        )  # fmt: skip
    out = tmp_path / "scored"
    monkeypatch.setattr(sys, "argv", ["oracle", str(tmp_path), "--out", str(out)])
    oracle.main()
    rows = json.loads((out / "oracle.json").read_text())
    assert [(row["eta"], row["pioneer"]) for row in rows] == [
        (0.05, "llm_0"), (0.05, "llm_1"), (0.5, "llm_0"), (0.5, "llm_1")
    ]  # fmt: skip
    for row in rows:
        assert row["combined"] == pytest.approx(row["reward"] - row["eta"] * row["kl"])
        assert row["combined"] < row["optimum"] <= row["bound"] + 1e-9
        assert 0 < row["share"] < 1
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_growth_is_drawn(tmp_path):
    run = {"rows": [{"seconds": 1.0}], "peak_mb": 100.0}
    grown = {name: {1: run, 2: run} for name in ("batch", "agents", "new_tokens")}
    training.draw_growth(grown, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
