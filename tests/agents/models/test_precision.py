"""Weights that are learnt in float32 and used in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from agents.models.precision import MasterWeights
from agents.policies.llm import LLMPolicy
from agents.training.trainer import Trainer
from tests.agents.fakes import reference_hidden, token_batch
from tests.agents.small_models import model_backbone
from tests.agents.training.test_trainer import assert_resuming_is_exact
from tests.learning import FAST, assert_learns


def one_weight(value: float) -> tuple[nn.Linear, MasterWeights, nn.Parameter]:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    masters = MasterWeights(layer, torch.bfloat16)
    return layer, masters, masters.parameters["weight"]


def test_steps_too_small_for_bfloat16_add_up():
    layer, masters, weight = one_weight(1.0)
    assert layer.weight.dtype == torch.bfloat16
    for _ in range(8):  # the last place of bfloat16 at 1 is 2⁻⁷
        with torch.no_grad():
            weight += 2**-10
        masters.refresh()
    assert float(layer.weight) == 1 + 2**-7
    assert float(torch.tensor(1.0).bfloat16() + 2**-10) == 1.0


def test_gradients_of_several_passes_add_up_in_float32():
    layer, _, weight = one_weight(1.0)
    for scale in (1.0, 2**-9):
        layer(torch.full((1, 1), scale, dtype=torch.bfloat16)).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad) == 1 + 2**-9
    assert layer.weight.grad is None, "nothing is held twice"


def test_a_model_shows_its_float32_weights_only_while_it_is_saved():
    layer, masters, weight = one_weight(1 + 2**-9)
    with masters.shown():
        assert layer.weight.dtype == torch.float32
        assert float(layer.weight) == 1 + 2**-9
    assert layer.weight.dtype == torch.bfloat16
    assert float(layer.weight) == 1.0
    assert float(weight) == 1 + 2**-9


@pytest.mark.parametrize("kind", ["stories260K", "llama-tied"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_rotary_frequencies_are_not_rounded(kind, adapter):
    backbone = model_backbone(kind, adapter=adapter, dtype=torch.bfloat16)
    exact = model_backbone(kind, adapter=adapter)
    found, expected = (
        {key: buffer for key, buffer in b.base.named_buffers() if "inv_freq" in key}
        for b in (backbone, exact)
    )
    assert found
    for key, buffer in expected.items():
        torch.testing.assert_close(found[key], buffer, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["stories260K", "gpt2"])  # tied embeddings, too
def test_a_step_reaches_the_working_copy_and_the_saved_model_is_the_master(kind, tmp_path):
    backbone = model_backbone(kind, adapter="full", dtype=torch.bfloat16)
    tokens = token_batch(backbone, ["Once upon a time", "Tim"], [[5, 6, 300], [7, 2]])
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    hidden = reference_hidden(backbone, tokens)
    before = policy.score(tokens, hidden)
    (before.log_probs.sum() + before.kls.sum()).backward()
    parameters = backbone.parameters("llm_0")
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in parameters.values())
    torch.optim.Adam(parameters.values(), 1e-2).step()
    after = policy.score(tokens, hidden)
    assert not torch.allclose(before.log_probs, after.log_probs)
    assert float(after.kls.sum()) > float(before.kls.sum()) + 0.01, "the reference stays"

    backbone.save_pretrained("llm_0", tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    found = dict(loaded.named_parameters())
    assert loaded.dtype == torch.float32
    assert found.keys() == parameters.keys()
    for key, parameter in parameters.items():
        torch.testing.assert_close(found[key], parameter, atol=0, rtol=0)
    assert next(iter(backbone.models["llm_0"].parameters())).dtype == torch.bfloat16


def test_in_bfloat16_full_fine_tuning_goes_on_to_the_bit_after_a_stop(toy_config, tmp_path):
    assert_resuming_is_exact(toy_config, tmp_path, dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_learns_what_float32_learns(toy_config, dtype):
    config = toy_config(
        **{**FAST, "dtype": dtype, "observers": 0, "algorithm": "ppo", "kl_coef": 0.03},
        **{"swap": "never", "task_options": "length=2,symbols=3"},
    )
    # One of two letters known, the other guessed: 2/3.
    assert_learns(config, 0.8)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_the_trainer_has_learnt_is_what_is_sampled_next(toy_config, adapter):
    """Adam in one pass leaves no trace that a copy in bfloat16 would notice by itself."""
    trainer = Trainer(toy_config(adapter=adapter, dtype="bfloat16", swap="never"))
    policy = trainer.policies["llm_0"]
    tokens = policy.generate(["ab>"] * 4, max_new_tokens=2).tokens
    hidden = reference_hidden(policy.backbone, tokens)

    def sampled() -> torch.Tensor:
        with torch.no_grad():
            return policy.score(tokens, hidden).log_probs

    for iteration in range(3):
        before = sampled()
        trainer.iterate(iteration)
        assert not torch.equal(sampled(), before)
        torch.testing.assert_close(
            sampled(), policy.score(tokens, hidden).log_probs, atol=0.02, rtol=0
        )  # to bfloat16 rounding, with and without gradient
