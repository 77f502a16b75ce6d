"""Two layers that share a tensor: what is done to one of them does not happen to the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from agents import load_policy
from agents.cli.main import main
from agents.models.loading import load_base
from agents.publishing.merge import merge
from agents.records.checkpoint import load_checkpoint, save_checkpoint
from agents.records.folder import RunFolder
from agents.terminal.hush import hushed
from tests.agents.small_models import CONFIGS, STORIES, make_base, model_backbone, move

IDS = torch.tensor([[1, 403, 407, 261, 378, 432]])
# Sums of float32 in another order; the policies below lie 0.1 and more from their base.
ORDER = {"atol": 1e-4, "rtol": 1e-4}
TIED = [
    *(("stories260K", t) for t in ("lm_head", "embed_tokens", "embed_tokens,lm_head,q_proj")),
    *(("gpt2", t) for t in ("lm_head", "wte,lm_head", "c_attn,lm_head", "all-linear")),
    *(("gemma2", "embed_tokens,lm_head"), ("opt", "lm_head"), ("bloom", "word_embeddings")),
]


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits.float()


@pytest.fixture
def make_adapter(tmp_path):
    """Return a function that saves base and adapter in folders, and tells what peft makes of it."""

    def make(kind: str, targets: str, adapter: str) -> tuple[Path, torch.Tensor]:
        base, tokenizer = make_base(kind)
        assert base.config.tie_word_embeddings
        base.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        folder = tmp_path / "llm_0"
        backbone = model_backbone(
            "",
            loaded=load_base(str(tmp_path / "base"), torch.float32),
            adapter=adapter,
            targets=targets.split(","),
            moved=0.05,
        )
        backbone.save_pretrained("llm_0", folder)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        plain = logits(base)
        with hushed():
            wanted = logits(PeftModel.from_pretrained(base, str(folder)))
        assert (wanted - plain).abs().max() > 0.1
        return folder, wanted

    return make


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize(("kind", "targets"), TIED)
def test_merged_and_loaded_policies_have_the_logits_of_the_adapter(
    make_adapter, kind, targets, adapter, tmp_path, recwarn
):
    folder, wanted = make_adapter(kind, targets, adapter)
    recwarn.clear()
    merge(folder, tmp_path / "merged")
    policy = load_policy(folder, dtype="float32")
    again = load_policy(tmp_path / "merged", dtype="float32")
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), wanted, **ORDER
    )
    for loaded, name in ((policy, "llm_0"), (again, "merged")):
        with loaded.backbone.use_adapter(name) as model:
            torch.testing.assert_close(logits(model), wanted, **ORDER)
    # What the model card recommends. (transformers' own loading leaves DoRA's magnitudes out.)
    with hushed():
        torch.testing.assert_close(
            logits(AutoPeftModelForCausalLM.from_pretrained(folder)), wanted, **ORDER
        )


def test_an_adapter_on_the_head_leaves_the_embedding_alone(make_adapter, tmp_path):
    folder, _ = make_adapter("stories260K", "lm_head", "lora")
    merged = AutoModelForCausalLM.from_pretrained(merge(folder, tmp_path / "merged"))
    base = make_base("stories260K")[0]
    assert torch.equal(merged.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert not torch.equal(
        merged.get_output_embeddings().weight, base.get_output_embeddings().weight
    )
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is (
        False
    )


def test_a_merged_model_whose_tied_layers_are_not_adapted_stays_tied(make_adapter, tmp_path):
    folder, _ = make_adapter("stories260K", "q_proj", "lora")
    merged = AutoModelForCausalLM.from_pretrained(merge(folder, tmp_path / "merged"))
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight


def test_the_head_of_a_tied_model_is_trained_merged_and_played(tmp_path, monkeypatch, capsys):
    """As a user does it, from another folder than the checkout."""
    monkeypatch.chdir(tmp_path)
    argv = [
        *("train", "imdb", "--model", str(STORIES), "--iterations", "3", "--batch-size", "8"),
        *("--minibatch-size", "8", "--max-new-tokens", "8", "--evaluation-queries", "0"),
        *("--dtype", "float32", "--observers", "0", "--algorithm", "reinforce++"),
        *("--learning-rate", "0.05", "--lora-targets", "lm_head", "--out", "run"),
    ]
    assert main(argv) == 0
    assert main(["merge", "run/final/llm_0", "merged"]) == 0
    assert "Warning" not in capsys.readouterr().err
    base = make_base("stories260K")[0]
    plain = logits(base)
    with hushed():
        wanted = logits(PeftModel.from_pretrained(base, "run/final/llm_0"))
    assert (wanted - plain).abs().max() > 1
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained("merged")), wanted, **ORDER
    )


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@torch.no_grad()
def test_an_adapted_head_of_a_quantized_tied_base_is_merged_into_the_head(quantization, tmp_path):
    pytest.importorskip("bitsandbytes")
    # Sizes that 4-bit kernels of processors multiply.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    with hushed():
        whole = LlamaForCausalLM(LlamaConfig(**{**CONFIGS["llama-tied"].to_dict(), **sizes}))
        whole.save_pretrained(tmp_path / "base")
        make_base("stories260K")[1].save_pretrained(tmp_path / "base")
        loaded = load_base(str(tmp_path / "base"), torch.float32, quantization=quantization)
        embedding, head = loaded[0].get_input_embeddings(), loaded[0].get_output_embeddings()
        assert torch.equal(embedding.weight, head.weight), "quantization has parted them"
        backbone = model_backbone("", loaded=loaded, targets=["lm_head"], moved=0.1)
        backbone.save_pretrained("llm_0", tmp_path / "llm_0")
        merge(tmp_path / "llm_0", tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        plain = logits(whole)
        wanted = logits(PeftModel.from_pretrained(whole, str(tmp_path / "llm_0")))
    assert (wanted - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(merged), wanted, **ORDER)


# ---- full fine-tuning


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_tensor_is_one_parameter_of_every_copy(dtype, tmp_path):
    names = ("llm_0", "llm_1")
    backbone = model_backbone("stories260K", adapter="full", names=names, dtype=dtype)
    base = make_base("stories260K")[0]
    for name in names:
        parameters = backbone.parameters(name)
        assert sum(p.numel() for p in parameters.values()) == base.num_parameters()
        optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
        with backbone.use_adapter(name) as model:
            assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
            model(input_ids=IDS).logits.float().logsumexp(-1).sum().backward()
        # Embedding and head both send their gradients to it.
        key = next(key for key in parameters if "embed_tokens" in key)
        gradient = parameters[key].grad
        assert gradient is not None
        expected = make_base("stories260K")[0].requires_grad_(True)
        expected(input_ids=IDS).logits.logsumexp(-1).sum().backward()
        scale = float(expected.get_input_embeddings().weight.grad.abs().max())
        tolerance = 1e-4 if dtype == torch.float32 else 0.1  # eight bits, over all layers
        assert float((gradient - expected.get_input_embeddings().weight.grad).abs().max()) < (
            tolerance * scale
        )
        optimizer.step()
        with backbone.use_adapter(name) as model:
            assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
            after = logits(model)
        backbone.save_pretrained(name, tmp_path / name)
        found = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        assert found.get_input_embeddings().weight is found.get_output_embeddings().weight
        assert torch.equal(found.get_input_embeddings().weight, parameters[key])
        if dtype == torch.float32:
            torch.testing.assert_close(logits(found), after, **ORDER)
    with backbone.use_adapter(None) as model:
        assert torch.equal(model.get_input_embeddings().weight.float(), reference_weight(dtype))


def reference_weight(dtype: torch.dtype) -> torch.Tensor:
    return make_base("stories260K")[0].get_input_embeddings().weight.to(dtype).float()


def test_a_checkpoint_holds_a_tied_tensor_once(tmp_path):
    backbone = model_backbone("stories260K", adapter="full")
    move(backbone, ("llm_0",), 0.1)
    tensors = dict(backbone.parameters("llm_0"))
    save_checkpoint(RunFolder(tmp_path), 1, tensors, {}, keep=1)
    found, _ = load_checkpoint(RunFolder(tmp_path).checkpoint_path(1))
    assert found.keys() == tensors.keys()
    assert not any("lm_head" in key for key in found)
