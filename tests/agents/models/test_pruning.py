"""Ranks that rise with depth, and adapters that are pruned on the way."""

from __future__ import annotations

import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from agents.config.train import TrainConfig
from agents.distributed.world import World
from agents.models.pruning import DECAY, PRUNES, Pruner
from agents.policies.llm import LLMPolicy
from agents.records.folder import RunFolder
from agents.records.rows import read_metrics
from agents.training.loop import train
from agents.training.trainer import Trainer
from tests.agents.fakes import reference_hidden, token_batch
from tests.agents.small_models import make_base, model_backbone
from tests.agents.training.test_trainer import QUIET, assert_resuming_is_exact

PROMPTS, RESPONSES = ["Once upon a time", "Tim"], [[5, 6, 300], [7, 2]]
WEIGHTS = "adapter_model.safetensors"
PRUNE = {"adapter": "lora", "lora_prune": 0.5, "lora_prune_every": 3, "lora_rank": 4}


def read(backbone, name: str = "llm_0") -> None:
    """Score two padded responses under a policy's adapter, with a gradient."""
    tokens = token_batch(backbone, PROMPTS, RESPONSES)
    scores = LLMPolicy(name=name, backbone=backbone).score(
        tokens, reference_hidden(backbone, tokens)
    )
    scores.log_probs.sum().backward()


def inputs_alone(backbone, key: str) -> torch.Tensor:
    """Return what a layer reads of the same two texts, row by row, without padding: (n, D)."""
    tokens, found = token_batch(backbone, PROMPTS, RESPONSES), []
    layer = backbone.base.get_submodule(key)
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0]))
    for row in range(len(PROMPTS)):
        prompt = tokens.prompt_ids[row][tokens.prompt_mask[row]]
        # Nothing reads behind the longest response's last but one.
        ids = torch.cat([prompt, torch.tensor(RESPONSES[row][:2])])[None]
        with torch.no_grad(), backbone.use_adapter("llm_0") as model:
            model(input_ids=ids)
    handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["stories260K", "gpt2"])
def test_the_norms_are_of_what_layers_read_without_padding(kind, checkpointing):
    backbone = model_backbone(
        kind, names=("llm_0", "llm_1"), moved=0.1, gradient_checkpointing=checkpointing
    )
    pruner = Pruner(backbone, "llm_0", 0.5, 99)
    read(backbone, "llm_1")  # is somebody else's
    read(backbone)
    pruner.settle(World(), stepped=True)
    for key in pruner.norms:
        expected = inputs_alone(backbone, key).square().mean(0).sqrt()
        torch.testing.assert_close(pruner.norms[key], expected, rtol=1e-4, atol=1e-5)


def test_the_norms_run():
    backbone = model_backbone("stories260K", moved=0.1)
    pruner = Pruner(backbone, "llm_0", 0.0, 1)
    key = next(iter(pruner._down))
    width = pruner._down[key].shape[1]
    for square, tokens in ((4.0, 1.0), (18.0, 2.0)):
        # Two parts of a minibatch; roots of the means: 2, then 3.
        part = torch.full((width + 1,), square / 2)
        part[-1] = tokens / 2
        pruner._read[key] = [part, part]
        pruner.settle(World(), stepped=True)
    torch.testing.assert_close(pruner.norms[key], torch.full((width,), 0.9 * 2 + 0.1 * 3))
    assert DECAY == 0.9
    pruner._read[key] = [torch.full((width + 1,), torch.nan)]
    pruner.settle(World(), stepped=False)
    assert pruner.steps == 2, "a step that was left out teaches nothing"
    assert not pruner._read


@torch.no_grad()
def test_the_lowest_products_of_weight_and_norm_go_row_by_row():
    backbone = model_backbone("stories260K")
    pruner = Pruner(backbone, "llm_0", 0.5, 1)
    key = next(iter(pruner._down))
    down = pruner._down[key]
    down.copy_(torch.ones_like(down))
    norms = torch.arange(down.shape[1], dtype=torch.float32)
    down[1] *= -1 / (1 + norms.flip(0))
    down[2, :2], down[2, 2:] = 1e6, 1e-6
    pruner.norms = {k: torch.ones(d.shape[1]) for k, d in pruner._down.items()} | {key: norms}
    pruner.prune(0.5)
    pruner.apply()
    half = down.shape[1] // 2
    kept = down != 0
    assert kept[0].tolist() == [False] * half + [True] * half
    # |A| norm is j / (64 - j): grows with j, too
    assert kept[1].tolist() == [False] * half + [True] * half
    # Input 0 never says anything, 1 has a weight that makes up for its norm.
    assert kept[2].tolist() == [False, True] + [False] * (half - 1) + [True] * (half - 1)
    assert pruner.pruned == 0.5
    before = {k: m.clone() for k, m in pruner.masks.items()}
    pruner.prune(0.75)
    assert pruner.pruned == 0.75
    assert all((before[k] >= m).all() for k, m in pruner.masks.items()), "pruned for good"


def test_adam_cannot_revive_what_is_pruned_and_b_is_left_alone():
    backbone = model_backbone("stories260K", moved=0.1)
    parameters = backbone.parameters("llm_0")
    pruner = Pruner(backbone, "llm_0", 0.5, 2)
    optimizer = torch.optim.Adam(parameters.values(), 1e-2, fused=True)
    shares = []
    for _ in range(2 * PRUNES + 2):
        read(backbone)
        optimizer.step()
        optimizer.zero_grad()
        pruner.settle(World(), stepped=True)
        shares.append(pruner.pruned)
        for key, parameter in parameters.items():
            zeros = float((parameter == 0).float().mean())
            expected = shares[-1] if "lora_A" in key else 0.0
            assert zeros == pytest.approx(expected, abs=0.02), key
    widths = [2 * step // 2 // 2 / 8 for step in range(1, 2 * PRUNES + 3)]
    assert shares == pytest.approx([min(0.5, share) for share in widths], abs=0.01)


def test_resuming_is_exact_between_two_prunes(tmp_path, toy_config):
    parts, _ = assert_resuming_is_exact(toy_config, tmp_path, **PRUNE)
    rows = read_metrics(parts.run_folder / "metrics.jsonl")
    shares = [row["llm_0/pruned"] for row in rows]
    assert shares == pytest.approx([0, 0.125, 0.25, 0.25], abs=0.02)


def test_a_policy_that_goes_back_to_its_beginning_stays_pruned(toy_config):
    imitates = {"algorithm": "expert_iteration", "restart": "beginning", "accept": "top:0.25"}
    more = {"finished": False, "learn_every": 1, "group_size": 2}
    trainer = Trainer(toy_config(**PRUNE, **imitates, **more))
    for iteration in range(2):
        trainer.iterate(iteration)
    trainer.learner._restart("llm_0")
    parameters = trainer.policies["llm_0"].parameters()
    downs = [p for key, p in parameters.items() if "lora_A" in key]
    zeros = sum(int((p == 0).sum()) for p in downs) / sum(p.numel() for p in downs)
    assert zeros == trainer.learner.pruners["llm_0"].pruned > 0


def test_peft_alone_loads_a_pruned_adapter_with_equal_logits(tmp_path):
    backbone = model_backbone("stories260K", moved=0.1)
    pruner = Pruner(backbone, "llm_0", 0.5, 1)
    read(backbone)
    pruner.settle(World(), stepped=True)
    pruner.prune(0.5)
    pruner.apply()
    ids = torch.tensor([[1, 403, 407, 261]])
    with torch.no_grad(), backbone.use_adapter("llm_0") as model:
        expected = model(input_ids=ids).logits
    backbone.save_pretrained("llm_0", tmp_path)
    loaded = PeftModel.from_pretrained(make_base("stories260K")[0], str(tmp_path)).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
    downs = [p for key, p in loaded.named_parameters() if "lora_A" in key]
    assert sum(int((p == 0).sum()) for p in downs) / sum(p.numel() for p in downs) == 0.5


def ranks(backbone) -> dict[int, set[int]]:
    """Return the ranks in each layer."""
    found: dict[int, set[int]] = {}
    for key, parameter in backbone.parameters("llm_0").items():
        if "lora_A" in key:
            layer = re.search(r"\.(?:layers|h)\.(\d+)\.", key)
            found.setdefault(int(layer[1]), set()).add(len(parameter))
    return found


@pytest.mark.parametrize("kind", ["stories260K", "gpt2", "llama"])
def test_ranks_lie_on_a_line_from_the_first_layer_to_the_last(kind):
    found = ranks(model_backbone(kind, ramp=(2, 6)))
    count = len(found)
    assert found == {i: {round(2 + 4 * i / (count - 1))} for i in range(count)}
    found = ranks(model_backbone(kind, ramp=(6, 2)))
    assert [found[0], found[count - 1]] == [{6}, {2}]


def test_a_ramp_of_the_embedded_model_has_as_many_parameters_as_one_rank(toy_config):
    config = toy_config(model="embedded", adapter="lora", lora_ramp="4:12")
    assert (config.ramp, config.largest_rank) == ((4, 12), 16)
    assert toy_config(adapter="lora", lora_ramp="4:32").largest_rank == 32
    assert toy_config(adapter="lora", lora_rank_pattern="mlp=24").largest_rank == 24
    # 4, 6.67, 9.33 and 12
    assert sum((4, 7, 9, 12)) == 4 * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "lora", "lora_ramp": "4"}, "two ranks of at least 1 .* got '4'"),
        ({"adapter": "lora", "lora_ramp": "0:4"}, "two ranks of at least 1 .* got '0:4'"),
        ({"adapter": "full", "lora_ramp": "4:8"}, "adapter lora or dora with lora_ramp"),
        (
            {"adapter": "lora", "lora_ramp": "4:8", "lora_rank_pattern": "mlp=2"},
            "lora_ramp or lora_rank_pattern, got 4:8 and mlp=2",
        ),
        ({"adapter": "lora", "lora_prune": 1.0}, "below 1, got 1"),
        ({"adapter": "lora", "lora_prune": -0.1}, "lora_prune to be at least 0"),
        ({"adapter": "full", "lora_prune": 0.5}, "adapter lora with lora_prune, got full"),
        ({"adapter": "dora", "lora_prune": 0.5}, "adapter lora with lora_prune, got dora"),
        ({"adapter": "lora", "lora_prune_every": 0}, "lora_prune_every to be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(task="toy", **changes)


def test_a_run_leaves_what_it_has_pruned(toy_config):
    config = toy_config(**{**PRUNE, "lora_prune_every": 2})
    run = train(config, console=QUIET)
    assert run.metrics[-1]["llm_1/pruned"] == pytest.approx(0.5, abs=0.01)
    for name in config.policy_names:
        tensors = load_file(RunFolder(config.run_folder).policy_path(name) / WEIGHTS)
        downs = [t for key, t in tensors.items() if "lora_A" in key]
        zeros = sum(int((t == 0).sum()) for t in downs) / sum(t.numel() for t in downs)
        assert zeros == pytest.approx(0.5, abs=0.01)
