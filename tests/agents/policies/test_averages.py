"""What a run leaves is the mean of its snapshots; learning does not know of it."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from torch import Tensor
from transformers import AutoModelForCausalLM

from agents import evaluate, train
from agents.models.backbone import Backbone
from agents.policies.averages import (
    MOST_SNAPSHOTS,
    Averages,
    shown,
    snapshot_iterations,
    team_mean,
)
from agents.policies.llm import LLMPolicy
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.records.rows import read_metrics
from agents.training.trainer import Trainer
from agents.types import TokenBatch
from tests.agents.fakes import token_batch
from tests.agents.small_models import model_backbone, move

QUIET = Console(file=io.StringIO())
TEAM = ("llm_0", "llm_1")
# Sums of float32 in another order, over few layers.
ORDER = {"atol": 1e-4, "rtol": 1e-4}


# ---- when


@pytest.mark.parametrize(
    ("iterations", "share", "expected"),
    [
        (96, 0.25, [75, 78, 81, 84, 87, 90, 93, 96]),
        (45, 0.25, [36, 37, 39, 40, 41, 43, 44, 45]),
        (10, 0.3, [8, 9, 10]),
        (4, 0.5, [3, 4]),
        (3, 1.0, [1, 2, 3]),
        (4, 0.25, []),
        (100, 0.0, []),
    ],
)
def test_snapshots_are_taken_at_these_iterations(iterations, share, expected):
    assert snapshot_iterations(iterations, share) == expected


def test_snapshots_are_few_even_and_end_with_the_run():
    for iterations, share in itertools.product(range(1, 130), (0.1, 0.25, 0.5, 1.0)):
        found = snapshot_iterations(iterations, share)
        window = round(share * iterations)
        assert len(found) == (min(window, MOST_SNAPSHOTS) if window > 1 else 0)
        if found:
            assert found[-1] == iterations
            assert found[0] > iterations - window
            gaps = {later - one for one, later in itertools.pairwise(found)}
            assert max(gaps) - min(gaps) <= 1
            assert min(gaps) >= 1


# ---- what


def policies_of(backbone: Backbone) -> dict[str, LLMPolicy]:
    return {name: LLMPolicy(name=name, backbone=backbone) for name in TEAM}


def walk(backbone: Backbone, steps: int = 3) -> Averages:
    """Let two policies move, and take a snapshot after every step."""
    averages = Averages(policies_of(backbone), 1.0, "here")
    for step in range(1, steps + 1):
        move(backbone, TEAM, 0.02 * step)
        averages.observe(step, steps)
    return averages


def tokens_of(backbone: Backbone) -> TokenBatch:
    return token_batch(backbone, ["Once upon a time", "Tim"], [[5, 6, 300], [7, 2]])


@torch.no_grad()
def logits(backbone: Backbone, name: str = "llm_1") -> Tensor:
    """Return what decides the first tokens, through the fast paths that sampling takes."""
    tokens = tokens_of(backbone)
    positions = (tokens.prompt_mask.long().cumsum(1) - 1).clamp(min=0)
    hidden = backbone.hidden(name, tokens.prompt_ids, tokens.prompt_mask, positions)
    return backbone.logits(name, hidden[:, -1]).float()


def dense(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply every update out."""
    found = {}
    for name, tensor in weights.items():
        if name.endswith("lora_A.weight"):
            found[name] = weights[name.replace("lora_A", "lora_B")] @ tensor
        elif name.endswith("lora_embedding_A"):
            found[name] = weights[name.replace("embedding_A", "embedding_B")] @ tensor
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stories260K", {}),
        ("gpt2", {"targets": ["c_attn", "wte"]}),
        ("llama-tied", {"rank_pattern": {"layers.0": 1, "mlp": 3}}),
        ("llama-tied", {"targets": ["lm_head", "embed_tokens"]}),
    ],
)
def test_the_mean_of_adapters_is_that_of_their_updates(kind, options):
    backbone = model_backbone(kind, names=TEAM, **options)
    points, averages = [], Averages(policies_of(backbone), 1.0)
    for step in (1, 2, 3):
        move(backbone, TEAM, 0.02 * step)
        averages.observe(step, 3)
        points.append(dense({k: t.clone() for k, t in backbone.weights("llm_1").items()}))
    mean = averages.means()["llm_1"]
    found, errors = dense(mean.weights), []
    assert found.keys() == points[0].keys()
    for name, update in found.items():
        wanted = sum(point[name] for point in points) / 3
        errors.append(float((update - wanted).norm() / wanted.norm()))
    assert max(errors) == pytest.approx(mean.error, abs=1e-5)
    assert max(errors) <= 0.01
    assert {len(t) for k, t in mean.weights.items() if "_A" in k} == {mean.rank}


def test_the_weights_of_an_adapter_have_its_scaling():
    backbone = model_backbone("stories260K", names=TEAM, moved=0.1)
    own, weights = backbone.parameters("llm_0"), backbone.weights("llm_0")
    name = next(key for key in own if key.endswith("lora_B.weight"))
    torch.testing.assert_close(weights[name], 2 * own[name].detach())  # α is 2 r


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_whole_models_one_running_mean_is_kept(dtype):
    backbone = model_backbone("stories260K", names=TEAM, adapter="full", dtype=dtype)
    points, averages = [], Averages(policies_of(backbone), 1.0)
    for step in range(1, 5):
        move(backbone, TEAM, 0.02)
        averages.observe(step, 4)
        points.append({k: p.detach().clone() for k, p in backbone.parameters("llm_0").items()})
    mean = averages.means()["llm_0"]
    assert (mean.rank, mean.error) == (0, 0)
    assert len(averages.tensors()) == 2 * len(points[0])
    for key, tensor in mean.weights.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, sum(point[key] for point in points) / 4)


def test_dora_has_the_mean_of_its_magnitudes():
    backbone = model_backbone("stories260K", names=TEAM, adapter="dora")
    points, averages = [], Averages(policies_of(backbone), 1.0)
    for step in (1, 2):
        move(backbone, TEAM, 0.02)
        averages.observe(step, 2)
        points.append({k: t.clone() for k, t in backbone.weights("llm_0").items()})
    name = next(key for key in points[0] if "magnitude" in key)
    found = averages.means()["llm_0"].weights[name]
    torch.testing.assert_close(found, (points[0][name] + points[1][name]) / 2)
    assert not torch.equal(points[0][name], points[1][name])


def test_one_snapshot_is_no_mean():
    averages = Averages(policies_of(model_backbone("stories260K", names=TEAM)), 0.5)
    for step in (1, 2, 3):
        averages.observe(step, 4)
    assert averages.taken == [3]
    assert averages.means() == {}


def test_no_more_snapshots_are_taken_where_the_plan_moves():
    averages = Averages(policies_of(model_backbone("stories260K", names=TEAM)), 1.0)
    for step in range(1, 20):
        averages.observe(step, step)
    assert averages.taken == list(range(2, 10))


# ---- for a while


@pytest.mark.parametrize(
    ("adapter", "dtype"),
    [
        *(("lora", torch.float32), ("lora", torch.bfloat16), ("dora", torch.float32)),
        *(("full", torch.float32), ("full", torch.bfloat16)),
    ],
)
def test_policies_are_their_means_for_a_while_and_themselves_again(adapter, dtype):
    backbone = model_backbone("stories260K", names=TEAM, adapter=adapter, dtype=dtype)
    averages = walk(backbone)
    policies, means = policies_of(backbone), averages.means()
    weights = {key: p.detach().clone() for key, p in backbone.parameters("llm_1").items()}
    before, reference = logits(backbone), logits(backbone, None)
    with shown(policies, means):
        during = logits(backbone)
        assert torch.equal(logits(backbone, None), reference)
    assert not torch.allclose(before, during, atol=1e-3)
    assert torch.equal(logits(backbone), before)
    assert all(torch.equal(p, weights[key]) for key, p in backbone.parameters("llm_1").items())
    with shown(policies, means):
        assert torch.equal(logits(backbone), during)
    with pytest.raises(KeyError, match="stop"), shown(policies, means):
        raise KeyError("stop")
    assert torch.equal(logits(backbone), before)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_mean_that_is_lent_is_that_of_the_weights(adapter):
    backbone = model_backbone("stories260K", names=TEAM, adapter=adapter)
    policies = policies_of(backbone)
    move(backbone, TEAM, 0.05)
    points = [{k: t.clone() for k, t in backbone.weights(name).items()} for name in TEAM]
    mean = backbone.mean(points)
    with shown(policies, {"llm_0": mean}):
        found = logits(backbone, "llm_0")
    whole = model_backbone("stories260K", names=TEAM, adapter="full")
    for key, parameter in whole.parameters("llm_0").items():
        if adapter == "full":
            wanted = (points[0][key] + points[1][key]) / 2
        else:
            name = f"base_model.model.{key.removesuffix('.weight')}.lora_A.weight"
            update = sum(dense(point).get(name, torch.zeros(())) for point in points) / 2
            wanted = parameter.detach() + update
        with torch.no_grad():
            parameter.copy_(wanted)
    assert mean.error < 1e-5, "the sum of both ranks loses nothing"
    torch.testing.assert_close(found, logits(whole, "llm_0"), **ORDER)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_team_is_the_mean_of_what_its_policies_are(adapter):
    backbone = model_backbone("stories260K", names=TEAM, adapter=adapter)
    policies, means = policies_of(backbone), walk(backbone).means()
    with shown(policies, means):
        found = team_mean(policies)
    if adapter == "full":
        wanted = {k: (t + means["llm_1"].weights[k]) / 2 for k, t in means["llm_0"].weights.items()}
        for key, tensor in found.weights.items():
            torch.testing.assert_close(tensor, wanted[key])
    else:
        ours, theirs, both = (dense(m.weights) for m in (*means.values(), found))
        for key, update in both.items():
            wanted = (ours[key] + theirs[key]) / 2
            assert (update - wanted).norm() <= 0.0101 * wanted.norm()
    assert team_mean({"llm_0": policies["llm_0"]}) is None
    other = model_backbone("stories260K", names=TEAM, adapter=adapter)
    assert team_mean({"llm_0": policies["llm_0"], "llm_1": policies_of(other)["llm_1"]}) is None


# ---- in a run


def state_of(config) -> tuple[dict, dict]:
    """Return tensors and the rest of the last checkpoint, without what its run has cost."""
    tensors, meta = load_checkpoint(RunFolder(config.run_folder).checkpoints()[-1])
    return tensors, {key: value for key, value in meta.items() if key != "ledger"}


def learnt(config) -> tuple[list[dict], dict[str, Tensor]]:
    """Return all rows without times, and all tensors of the state but the snapshots."""
    rows = read_metrics(config.run_folder / "metrics.jsonl")
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in rows]
    tensors = state_of(config)[0]
    return rows, {k: t for k, t in tensors.items() if not k.startswith("average/")}


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_learning_does_not_know_of_it_and_the_last_iterate_is_kept(tmp_path, toy_config, adapter):
    options = {"adapter": adapter, "evaluation_queries": 8}
    plain = toy_config(out=str(tmp_path / "plain"), **options)
    averaged = toy_config(out=str(tmp_path / "averaged"), average=0.75, **options)
    runs = [train(config, console=QUIET) for config in (plain, averaged)]
    (rows, tensors), (other_rows, other_tensors) = learnt(plain), learnt(averaged)
    assert rows == other_rows
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensor, other_tensors[key]) for key, tensor in tensors.items())
    folder = averaged.run_folder / "final"
    assert {path.name for path in folder.iterdir()} == {"llm_0", "llm_1", "last", "critic"}
    for name in TEAM:
        ours, last = (
            next(path.glob("*.safetensors")).read_bytes()
            for path in (plain.run_folder / "final" / name, folder / "last" / name)
        )
        assert ours == last
    before, after = ({row["name"]: row for row in run.evaluation["rows"]} for run in runs)
    assert {"llm_0 last", "llm_1 last"} == after.keys() - before.keys()
    for name in TEAM:
        assert after[f"{name} last"] == {**before[name], "name": f"{name} last"}
        assert after[name]["kl"] != before[name]["kl"]
        assert after["team"]["kl"] != before["team"]["kl"]
        assert ("rank" in after[name]) == (adapter == "lora")


@pytest.mark.parametrize("adapter", ["lora", "dora", "full"])
def test_a_run_leaves_its_mean_which_loads_alone(toy_config, adapter, capsys):
    config = toy_config(adapter=adapter, average=0.75)
    console = Console(file=(text := io.StringIO()), width=400)
    train(config, console=console)
    assert "llm_1 is the mean of 3 snapshots, of iterations 2 to 4" in text.getvalue()
    assert ("relative error of 0." in text.getvalue()) == (adapter != "full")
    trainer = Trainer(config)
    trainer.load_state(*state_of(config))
    backbone = trainer.policies["llm_1"].backbone
    ids, final = torch.arange(5)[None], config.run_folder / "final"
    if adapter == "full":
        found, last = (
            AutoModelForCausalLM.from_pretrained(p) for p in (final / "llm_1", final / "last/llm_1")
        )
    else:
        found, last = (
            PeftModel.from_pretrained(Trainer(config).policies["llm_1"].backbone.base, p).eval()
            for p in (final / "llm_1", final / "last" / "llm_1")
        )
    with torch.no_grad():
        with backbone.use_adapter("llm_1") as model:
            torch.testing.assert_close(last(ids).logits, model(ids).logits)
        means = trainer.averages.means()
        with shown(trainer.policies, means), backbone.use_adapter("llm_1") as model:
            torch.testing.assert_close(found(ids).logits, model(ids).logits)
    assert not torch.allclose(found(ids).logits, last(ids).logits, atol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_cut_in_its_window_ends_with_the_same_snapshots(
    tmp_path, toy_config, adapter, monkeypatch
):
    options = {"adapter": adapter, "average": 1.0, "save_every": 1}
    whole, cut = (toy_config(out=str(tmp_path / name), **options) for name in ("whole", "cut"))
    train(whole, console=QUIET)
    original = Trainer.iterate

    def broken(self, iteration):
        if iteration == 2:
            raise KeyboardInterrupt
        return original(self, iteration)

    monkeypatch.setattr(Trainer, "iterate", broken)
    with pytest.raises(KeyboardInterrupt):
        train(cut, console=QUIET)
    monkeypatch.setattr(Trainer, "iterate", original)
    assert state_of(cut)[1]["averages"]["taken"] == [1, 2]
    train(cut, resume=True, console=QUIET)
    (tensors, meta), (others, other_meta) = state_of(cut), state_of(whole)
    assert meta == other_meta
    assert meta["averages"]["taken"] == [1, 2, 3, 4]
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())
    files = [
        {p.relative_to(c.run_folder): p.read_bytes() for p in c.run_folder.glob("final/**/*.safe*")}
        for c in (cut, whole)
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 5  # two averages, two last iterates, and a critic


def test_a_run_that_is_prolonged_averages_over_its_new_window(tmp_path, toy_config):
    whole = toy_config(out=str(tmp_path / "whole"), iterations=4, average=0.5, adapter="lora")
    parts = whole.replace(out=str(tmp_path / "parts"))
    train(whole, console=QUIET)
    train(parts.replace(iterations=2, average=1.0), console=QUIET)
    assert state_of(parts)[1]["averages"]["taken"] == [1, 2]
    train(parts, resume=True, console=QUIET)
    (tensors, meta), (others, other_meta) = state_of(parts), state_of(whole)
    assert meta == other_meta
    assert meta["averages"]["taken"] == [3, 4]
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_snapshots_of_another_window_are_dropped(adapter):
    backbone = model_backbone("stories260K", names=TEAM, adapter=adapter)
    before = walk(backbone, steps=2)
    for share, ends, taken in ((1.0, "here", [1, 2]), (1.0, "there", []), (0.5, "here", [])):
        after = Averages(policies_of(backbone), share, ends)
        after.load(before.tensors(), before.state())
        assert after.taken == taken
        assert after.tensors().keys() == (before.tensors().keys() if taken else set())
        assert all(torch.equal(t, before.tensors()[key]) for key, t in after.tensors().items())


def test_a_frozen_policy_is_left_as_it_is(toy_config):
    config = toy_config(adapter="lora", average=1.0, freeze="llm_1", swap="never")
    final = train(config, console=QUIET).folder / "final"
    assert {path.name for path in final.iterdir()} == {"llm_0", "llm_1", "last", "critic"}
    assert [path.name for path in (final / "last").iterdir()] == ["llm_0"]


def test_an_evaluation_afterwards_has_the_figures_of_the_run(toy_config):
    run = train(toy_config(adapter="lora", average=1.0, evaluation_queries=16), console=QUIET)
    again = evaluate(run.folder, num_queries=16)
    assert [row["name"] for row in again["rows"]] == [row["name"] for row in run.evaluation["rows"]]
    for row, before in zip(again["rows"], run.evaluation["rows"], strict=True):
        assert {key: row[key] for key in before} == before


def test_the_card_says_of_what_a_policy_is_the_mean(toy_config):
    config = toy_config(adapter="lora", average=0.5, evaluation_queries=8)
    final: Path = train(config, console=QUIET).folder / "final"
    mean, last = (
        (final / path / "README.md").read_text(encoding="utf-8") for path in ("llm_0", "last/llm_0")
    )
    assert "the mean of snapshots from the last 50% of the iterations. By its rank of" in mean
    assert "weights after the last iteration; their average is the one to use" in last
    assert 'from_pretrained("final/last/llm_0")' in last
    assert "| llm_0 last |" in mean
    assert "| team |" in mean
