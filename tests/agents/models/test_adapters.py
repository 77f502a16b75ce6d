"""Kinds of adapters, quantized bases, and activations that are computed twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

from agents.config.train import TrainConfig
from agents.models.loading import load_base
from agents.policies.llm import LLMPolicy
from tests.agents.fakes import reference_hidden, token_batch
from tests.agents.small_models import CONFIGS, STORIES, make_base, model_backbone, move

TEAM = ("llm_0", "llm_1")
PROMPTS, RESPONSES = ["Once upon a time", "Tim"], [[5, 6, 300], [7, 2]]


def joint_gradients(backbone) -> list[torch.Tensor]:
    """Return the gradients of one loss over both policies, and leave them in place."""
    tokens = token_batch(backbone, PROMPTS, RESPONSES)
    hidden = reference_hidden(backbone, tokens)
    total = torch.zeros(())
    for weight, name in enumerate(TEAM, start=1):
        scores = LLMPolicy(name=name, backbone=backbone).score(tokens, hidden)
        total = total + weight * (scores.log_probs + scores.kls).sum()
    total.backward()
    return [
        p.grad for name in TEAM for p in backbone.parameters(name).values() if p.grad is not None
    ]


# ---- DoRA


def test_one_backward_after_two_forwards_reaches_both_dora_adapters_in_full():
    backbone = model_backbone("stories260K", adapter="dora", names=TEAM, moved=0.02)
    keys = [key for key in backbone.parameters("llm_0") if "magnitude" in key]
    assert len(keys) == 5 * 7, "one per linear layer"
    together = joint_gradients(backbone)
    assert len(together) == sum(len(backbone.parameters(name)) for name in TEAM)
    assert all(grad.abs().sum() > 0 for grad in together)
    for name in TEAM:
        for parameter in backbone.parameters(name).values():
            parameter.grad = None
    tokens = token_batch(backbone, PROMPTS, RESPONSES)
    hidden = reference_hidden(backbone, tokens)
    for weight, name in enumerate(TEAM, start=1):
        scores = LLMPolicy(name=name, backbone=backbone).score(tokens, hidden)
        (weight * (scores.log_probs + scores.kls).sum()).backward()
    alone = [p.grad for name in TEAM for p in backbone.parameters(name).values()]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_the_reference_is_the_base_whatever_the_dora_adapters_are(tmp_path):
    backbone = model_backbone("stories260K", adapter="dora", names=TEAM, moved=0.1)
    ids = torch.tensor([[1, 403, 407, 261]])
    expected = make_base("stories260K")[0](input_ids=ids).logits
    with backbone.use_adapter(None) as model:
        assert torch.equal(model(input_ids=ids).logits, expected)
    with backbone.use_adapter("llm_1") as model:
        moved = model(input_ids=ids).logits
    assert (moved - expected).abs().max() > 0.1
    backbone.save_pretrained("llm_1", tmp_path)
    policy = PeftModel.from_pretrained(make_base("stories260K")[0], str(tmp_path)).eval()
    torch.testing.assert_close(policy(input_ids=ids).logits, moved)


# ---- targets and ranks


def ranks(backbone) -> dict[str, int]:
    pairs = backbone.parameters("llm_0").items()
    return {
        key.split("model.model.model.")[1].split(".lora_A")[0]: len(p)
        for key, p in pairs
        if "lora_A" in key
    }


def test_only_the_targets_are_adapted():
    found = ranks(model_backbone("stories260K", targets=["q_proj", "v_proj"]))
    assert set(found) == {f"layers.{i}.self_attn.{m}_proj" for i in range(5) for m in "qv"}


def test_rank_and_alpha_follow_the_first_pattern_that_fits():
    backbone = model_backbone("stories260K", rank_pattern={"layers.1": 2, "mlp": 8})
    found = ranks(backbone)
    assert found["layers.0.self_attn.q_proj"] == 4
    assert found["layers.0.mlp.up_proj"] == 8
    assert {rank for key, rank in found.items() if key.startswith("layers.1.")} == {2}
    layer = backbone.base.model.layers[0]
    # α / r is 2 everywhere: the step size does not depend on the rank
    for module in (
        layer.mlp.up_proj,
        layer.self_attn.q_proj,
        backbone.base.model.layers[1].mlp.up_proj,
    ):
        assert module.scaling["llm_0"] == 2


def test_a_rank_pattern_fits_whole_parts_of_names():
    found = ranks(model_backbone("llama", rank_pattern={"layers.1": 2, "self_attn.q_proj": 3}))
    assert {key for key, rank in found.items() if rank == 3} == {
        f"layers.{i}.self_attn.q_proj" for i in (0, 2)
    }
    with pytest.raises(ValueError, match=r"lora_rank_pattern .*'gate'"):
        model_backbone("llama", rank_pattern={"gate": 2})


@pytest.mark.parametrize(
    ("options", "part"),
    [({"targets": ["q_proj", "c_attn"]}, "lora_targets .*c_attn"),
     ({"rank_pattern": {"layers.9": 4}}, "lora_rank_pattern .*layers.9")],
)  # fmt: skip
def test_what_fits_no_module_is_refused_with_an_example(options, part):
    with pytest.raises(ValueError, match=rf"Expected parts in {part}"):
        model_backbone("stories260K", **options)


# ---- gradient checkpointing


def saved_numbers(backbone) -> int:
    """Return how many numbers a forward pass keeps for the backward pass."""
    tokens = token_batch(backbone, PROMPTS, RESPONSES)
    hidden = reference_hidden(backbone, tokens)
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        LLMPolicy(name="llm_0", backbone=backbone).score(tokens, hidden)
    return total


@pytest.mark.parametrize("adapter", ["lora", "dora", "full"])
@pytest.mark.parametrize("kind", ["stories260K", "gpt2", "gemma2", "opt"])
def test_checkpointing_keeps_less_and_changes_no_gradient(kind, adapter):
    # the dropout of GPT-2 and OPT stays off, and each policy is recomputed under its own adapter
    plain, less = (
        model_backbone(
            kind, adapter=adapter, names=TEAM, moved=0.02, gradient_checkpointing=checkpointing
        )
        for checkpointing in (False, True)
    )
    for found, expected in zip(joint_gradients(less), joint_gradients(plain), strict=True):
        torch.testing.assert_close(found, expected)
    assert saved_numbers(less) < 0.7 * saved_numbers(plain)


def test_checkpointing_leaves_generation_as_it_is():
    found = []
    for checkpointing in (False, True):
        backbone = model_backbone("stories260K", moved=0.02, gradient_checkpointing=checkpointing)
        policy = LLMPolicy(name="llm_0", backbone=backbone)
        generator = torch.Generator().manual_seed(0)
        found.append(policy.generate(PROMPTS, max_new_tokens=9, generator=generator).tokens)
    assert torch.equal(found[0].response_ids, found[1].response_ids)
    assert torch.equal(found[0].sampled_log_probs, found[1].sampled_log_probs)


# ---- quantized bases

QUANTIZED = pytest.mark.parametrize("quantization", ["8bit", "4bit"])


@pytest.fixture(scope="module")
def even(tmp_path_factory) -> str:
    """Return a model whose layers have sizes that 4-bit kernels of processors multiply."""
    folder = tmp_path_factory.mktemp("even")
    sizes = {**CONFIGS["llama"].to_dict(), "hidden_size": 64, "intermediate_size": 128}
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**{**sizes, "head_dim": 16}))
    base.save_pretrained(folder)
    make_base("stories260K")[1].save_pretrained(folder)
    return str(folder)


def quantized(folder: str, quantization: Any, **options):
    pytest.importorskip("bitsandbytes")
    loaded = load_base(folder, torch.float32, quantization=quantization)
    return model_backbone("", loaded=loaded, **options)


@pytest.mark.parametrize(
    ("quantization", "adapter"), [("8bit", "lora"), ("4bit", "lora"), ("4bit", "dora")]
)
def test_an_adapter_on_a_quantized_base_learns_and_the_reference_stays(
    even, quantization, adapter, tmp_path
):
    backbone = quantized(
        even, quantization, adapter=adapter, names=TEAM, gradient_checkpointing=True
    )
    kinds = {p.dtype for p in backbone.base.model.layers.parameters()}
    assert kinds & {torch.int8, torch.uint8}
    move(backbone, TEAM, 0.02)
    tokens = token_batch(backbone, PROMPTS, RESPONSES)
    hidden = reference_hidden(backbone, tokens)
    assert all(grad.abs().sum() > 0 for grad in joint_gradients(backbone))
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    before = policy.score(tokens, hidden).log_probs
    torch.optim.Adam(backbone.parameters("llm_0").values(), 1e-2).step()
    assert not torch.equal(policy.score(tokens, hidden).log_probs, before)
    assert torch.equal(reference_hidden(backbone, tokens), hidden)
    backbone.save_pretrained("llm_0", tmp_path)
    named = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == even


@QUANTIZED
@torch.no_grad()
def test_a_quantized_base_is_close_to_the_whole_one(even, quantization):
    whole = model_backbone("", loaded=load_base(even, torch.float32))
    ids = torch.tensor([[1, 403, 407, 261, 378]])
    with quantized(even, quantization).use_adapter(None) as model:
        found = model(input_ids=ids).logits
    expected = whole.base(input_ids=ids).logits
    # 127 steps to either side of 0 cost a per cent, NF4's 8 some ten times as much
    difference = float((found - expected).std() / expected.std())
    assert 0 < difference < {"8bit": 0.05, "4bit": 0.5}[quantization]


def test_full_fine_tuning_of_a_quantized_base_is_refused(even):
    with pytest.raises(ValueError, match="Expected adapter lora or dora on a quantized base"):
        quantized(even, "4bit", adapter="full")


def test_quantization_without_bitsandbytes_says_what_to_install(monkeypatch):
    monkeypatch.setattr("agents.models.loading.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"found none: pip install .*quantization"):
        load_base(str(STORIES), torch.float32, quantization="4bit")


# ---- configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization": "4bit", "adapter": "full"}, "quantization, got full and 4bit: pass --ad"),
        (
            {"lora_targets": "mlp", "adapter": "full"},
            "lora_targets, got full and mlp: pass --adapt",
        ),
        (
            {"lora_rank_pattern": "mlp=2", "adapter": "full"},
            "lora_rank_pattern, got full and mlp=2",
        ),
        ({"quantization": "8bit", "model": "tiny"}, "quantization none with the model tiny.*8bit"),
        ({"quantization": "8bit", "adapter": "dora"}, "4bit with adapter dora, got 8bit: pass"),
        ({"lora_targets": "q_proj,"}, "lora_targets to be .*got 'q_proj,': try --lora-targets"),
        ({"lora_targets": ""}, "lora_targets to be"),
        ({"lora_rank_pattern": "mlp:2"}, "NAME=RANK .*got 'mlp:2': try --lora-rank-pattern"),
        ({"lora_rank_pattern": "mlp=0"}, "ranks of at least 1 .*got 'mlp=0'"),
        ({"quantization": "2bit"}, "value of quantization .none, 8bit, 4bit"),
        ({"adapter": "qlora"}, "value of adapter .lora, dora, full"),
    ],
)
def test_settings_of_adapters_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=rf"Expected .*{message}"):
        TrainConfig(**changes)


def test_flags_of_adapters_are_read_as_lists():
    config = TrainConfig(lora_targets="q_proj, v_proj", lora_rank_pattern="layers.0=4, mlp = 8")
    assert config.targets == ["q_proj", "v_proj"]
    assert config.rank_pattern == {"layers.0": 4, "mlp": 8}
    assert TrainConfig().targets == ["all-linear"]
    assert TrainConfig().rank_pattern == {}
