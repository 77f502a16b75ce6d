"""Adapters: each policy's weights are its own, the reference never moves."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from agents.models.loading import load_base, pick_dtype
from agents.models.make import make_backbone
from agents.models.tiny import tiny_model
from agents.policies.llm import LLMPolicy
from cory_env.tasks.toy import ToyTask
from tests.agents.fakes import reference_hidden, tiny_backbone, token_batch

BOTH = pytest.mark.parametrize("adapter", ["lora", "full"])


def log_probs(backbone, name, *, grad=False):
    tokens = token_batch(backbone, ["ab>", "="], [[1, 2], [0]])
    with torch.set_grad_enabled(grad):
        return (
            LLMPolicy(name=name, backbone=backbone)
            .score(tokens, reference_hidden(backbone, tokens))
            .log_probs
        )


@BOTH
def test_policies_begin_as_the_reference(adapter):
    backbone = tiny_backbone(adapter=adapter)
    for name in ("llm_0", "llm_1"):
        torch.testing.assert_close(log_probs(backbone, name), log_probs(backbone, None))


@BOTH
def test_one_backward_after_two_forwards_reaches_both_policies(adapter):
    backbone = tiny_backbone(adapter=adapter, moved=0.1)
    total = (
        log_probs(backbone, "llm_0", grad=True).sum()
        + log_probs(backbone, "llm_1", grad=True).sum()
    )
    total.backward()
    for name in ("llm_0", "llm_1"):
        grads = [p.grad for p in backbone.parameters(name).values() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in grads) > 0, f"{name} has no gradient"


@BOTH
def test_a_step_of_one_policy_moves_neither_the_other_nor_the_reference(adapter):
    backbone = tiny_backbone(adapter=adapter, moved=0.1)
    before = {name: log_probs(backbone, name) for name in ("llm_0", "llm_1", None)}
    optimizer = torch.optim.SGD(backbone.parameters("llm_0").values(), lr=0.1)
    log_probs(backbone, "llm_0", grad=True).sum().backward()
    optimizer.step()
    assert not torch.equal(log_probs(backbone, "llm_0"), before["llm_0"])
    assert torch.equal(log_probs(backbone, "llm_1"), before["llm_1"])
    assert torch.equal(log_probs(backbone, None), before[None])


def test_gradients_survive_a_look_at_the_reference():
    backbone = tiny_backbone(adapter="lora")
    log_probs(backbone, None)
    assert all(
        p.requires_grad for name in ("llm_0", "llm_1") for p in backbone.parameters(name).values()
    )


def test_lora_trains_adapters_only_and_they_differ():
    backbone = tiny_backbone(adapter="lora")
    names = [backbone.parameters(name) for name in ("llm_0", "llm_1")]
    assert names[0].keys() == names[1].keys()
    assert all("lora_" in key for key in names[0])
    first = next(key for key in names[0] if "lora_A" in key)
    assert not torch.equal(names[0][first], names[1][first])


def test_adapters_on_a_bfloat16_base_are_float32():
    base, tokenizer = tiny_model(ToyTask(), seed=0)
    backbone = make_backbone(
        base,
        tokenizer,
        ("llm_0", "llm_1"),
        adapter="lora",
        rank=2,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        seed=0,
    )
    assert base.dtype == torch.bfloat16
    for name in ("llm_0", "llm_1"):
        assert {p.dtype for p in backbone.parameters(name).values()} == {torch.float32}


def test_saved_adapter_loads_with_peft_alone(tmp_path):
    backbone = tiny_backbone(adapter="lora", moved=0.3)
    backbone.save_pretrained("llm_1", tmp_path / "llm_1")
    base = tiny_backbone().models[None]  # type: ignore[attr-defined]  # the same seed, so the same base
    policy = PeftModel.from_pretrained(base, str(tmp_path / "llm_1"))
    tokens = token_batch(backbone, ["ab>"], [[1, 2]])
    ids = torch.cat([tokens.prompt_ids, tokens.response_ids], dim=1)
    with torch.no_grad():
        found = policy(input_ids=ids).logits
        with backbone.use_adapter("llm_1") as model:
            expected = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected)


def test_saved_full_model_loads_with_transformers_alone(tmp_path):
    backbone = tiny_backbone(adapter="full", moved=0.3)
    backbone.save_pretrained("llm_0", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad(), backbone.use_adapter("llm_0") as expected:
        torch.testing.assert_close(model(input_ids=ids).logits, expected(input_ids=ids).logits)


def test_a_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="Expected a causal language model") as error:
        load_base(str(tmp_path / "nothing"), torch.float32)
    assert "\n" not in str(error.value)


def test_auto_dtype_is_bfloat16_only_where_the_processor_multiplies_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert pick_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert pick_dtype("auto", cpu) == torch.bfloat16
    assert pick_dtype("float32", cpu) == torch.float32


@pytest.mark.parametrize("adapter", ["lora", "dora"])  # layers of ours, and of peft
def test_adapters_are_switched_as_peft_does_without_a_walk_over_modules(adapter, monkeypatch):
    backbone = tiny_backbone(adapter=adapter, moved=0.3)
    ids = torch.tensor([[1, 2, 3]])

    @torch.no_grad()
    def states(name):
        with backbone.use_adapter(name) as model:
            return model.base_model(input_ids=ids).last_hidden_state

    found = [states(name) for name in (None, "llm_0", "llm_1")]
    with torch.no_grad(), backbone.model.disable_adapter():
        expected = [backbone.base.base_model(input_ids=ids).last_hidden_state]
    for name in ("llm_0", "llm_1"):
        backbone.model.set_adapter(name)
        with torch.no_grad():
            expected.append(backbone.base.base_model(input_ids=ids).last_hidden_state)
    backbone.model.set_adapter("llm_0")
    assert not torch.allclose(expected[0], expected[1])
    assert not torch.allclose(expected[1], expected[2])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)

    monkeypatch.setattr(torch.nn.Module, "named_modules", None)  # must not be asked
    with backbone.use_adapter("llm_1"):
        with suppress(KeyError), backbone.use_adapter(None):
            assert torch.equal(states("llm_1"), found[2])
            assert torch.equal(states(None), found[0])
            raise KeyError
        assert torch.equal(backbone.base.base_model(input_ids=ids).last_hidden_state, found[2])
