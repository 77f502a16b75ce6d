"""Every fast form against the slow one that it stands for."""

from __future__ import annotations

import math

import pytest
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.nn import functional
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agents.maths.distributions import entropy, exact_kl, sampling_log_probs
from agents.models import kernels, low_rank
from agents.models.adapters import lora_config
from agents.models.kernels import GrowingLayer, attention, score_tokens, speed_up
from agents.models.make import make_backbone
from agents.policies.llm import LLMPolicy
from tests.agents.fakes import reference_hidden, token_batch
from tests.agents.small_models import make_base, model_backbone

GENERATOR = torch.Generator()


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=GENERATOR.manual_seed(seed))


# ---- scores of tokens


def slow_scores(logits, ref_logits, ids, temperature):
    log_probs = sampling_log_probs(logits, temperature=temperature)
    ref_log_probs = sampling_log_probs(ref_logits, temperature=temperature)
    return (
        log_probs.gather(-1, ids[:, None])[:, 0],
        entropy(log_probs),
        exact_kl(log_probs, ref_log_probs),
        ref_log_probs.gather(-1, ids[:, None])[:, 0],
    )


def test_scores_of_two_tokens_are_the_numbers_worked_out_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0]])  # π = 3/4, 1/4
    scores = score_tokens(logits, torch.zeros(1, 2), torch.tensor([1]))  # π_ref = 1/2, 1/2
    assert [round(float(part), 5) for part in scores] == [-1.38629, 0.56234, 0.13081, -0.69315]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("block", [1, 40, 2**19])  # one row, two rows, all rows at a time
def test_scores_and_their_gradients_are_those_of_the_whole_matrix(temperature, block, monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK", {"cpu": block})
    ids = torch.tensor([3, 0, 18, 7, 7])
    ref_logits = normal(5, 19, scale=2, seed=1)
    weights = normal(3, 5, seed=2)
    found, expected = [], []
    for score, results in ((score_tokens, found), (slow_scores, expected)):
        logits = normal(5, 19, scale=2).requires_grad_()
        parts = score(logits, ref_logits, ids, temperature)
        sum((w * part).sum() for w, part in zip(weights, parts[:3], strict=True)).backward()
        results += [*parts, logits.grad]
    for one, other in zip(found, expected, strict=True):
        # Differences of float32 sums of about 20, whose last place is 2e-6; gradients double it.
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


def test_tokens_that_a_model_rules_out_count_nothing():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    ref_logits = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    scores = score_tokens(logits, logits.detach().clone(), torch.tensor([0]))
    assert [round(float(part), 5) for part in scores[:3]] == [-0.69315, 0.69315, 0.0]
    sum(scores[:3]).backward()
    assert torch.isfinite(logits.grad).all()
    assert float(score_tokens(logits, ref_logits, torch.tensor([0])).kls) > 1e30, "infinite"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_policy_scores_alike_by_the_sweep_and_by_the_whole_matrix(temperature):
    backbone = model_backbone("stories260K", adapter="lora", names=("llm_0",), moved=0.05)
    tokens = token_batch(backbone, ["Once upon a time", "Tim"], [[5, 6, 300], [7, 2]])
    hidden = reference_hidden(backbone, tokens)
    swept = LLMPolicy(name="llm_0", backbone=backbone, temperature=temperature)
    # A nucleus that holds everything takes the slow path.
    whole = LLMPolicy(name="llm_0", backbone=backbone, temperature=temperature, top_p=1.0 - 2**-24)
    for one, other in zip(swept.score(tokens, hidden), whole.score(tokens, hidden), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)  # a nucleus drops 6e-8


# ---- attention


def attend(function, query, key, value, mask, grad):
    parts = [part.detach().clone().requires_grad_() for part in (query, key, value)]
    module = torch.nn.Module()
    module.num_key_value_groups = query.shape[1] // key.shape[1]
    module.is_causal = True
    out, _ = function(module, *parts, mask, scaling=0.3)
    out.backward(grad)
    return [out, *(part.grad for part in parts)]


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [True, False])
def test_products_attend_as_the_fused_kernel_does(heads, masked, monkeypatch):
    """To float32 rounding: only the rounding of bfloat16 is allowed to differ."""
    shape = (3, 4, 7, 8)
    query, key, value = (
        normal(*shape),
        normal(3, heads, 7, 8, seed=1),
        normal(3, heads, 7, 8, seed=2),
    )
    grad = normal(3, 7, 4, 8, seed=3)
    mask = torch.ones(7, 7, dtype=torch.bool).tril().expand(3, 1, 7, 7).clone()
    mask[1, ..., :2] = False  # two tokens of padding
    mask[1, :, :2, :2] = torch.eye(2, dtype=torch.bool)
    given = mask if masked else None
    expected = attend(sdpa_attention_forward, query, key, value, given, grad)
    monkeypatch.setattr(kernels, "_SLOW_DTYPE", torch.float32)
    monkeypatch.setattr(kernels, "sdpa_attention_forward", None)  # must not be asked
    found = attend(attention, query, key, value, given, grad)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_in_bfloat16_products_are_no_further_from_float32_than_the_fused_kernel():
    wide = [normal(4, 4, 33, 16, seed=seed) for seed in range(3)]
    grad = normal(4, 33, 4, 16, seed=4)
    exact = attend(sdpa_attention_forward, *wide, None, grad)
    narrow = [part.bfloat16() for part in wide]
    errors = [
        [
            float((part.float() - true).square().mean().sqrt())
            for part, true in zip(
                attend(function, *narrow, None, grad.bfloat16()), exact, strict=True
            )
        ]
        for function in (attention, sdpa_attention_forward)
    ]
    # Scores are rounded to bfloat16 once more than in the kernel: twice its error, not ten times.
    assert all(ours < 2.5 * theirs for ours, theirs in zip(*errors, strict=True)), errors


def test_what_only_the_kernel_knows_goes_to_the_kernel(monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "sdpa_attention_forward", lambda *_, **k: asked.append(k))
    query = normal(1, 2, 3, 4).bfloat16().requires_grad_()
    attention(torch.nn.Module(), query, query, query, None, position_bias=torch.zeros(1))
    attention(torch.nn.Module(), query, query, query, None, dropout=0.1)
    with torch.no_grad():
        attention(torch.nn.Module(), query, query, query, None)
    attention(torch.nn.Module(), query.float(), query, query, None)
    assert len(asked) == 4


# ---- the cache


@pytest.mark.parametrize("value_width", [4, 6])
def test_a_cache_with_room_holds_what_one_that_is_copied_holds(value_width):
    ours, theirs = GrowingLayer(), DynamicLayer()
    moves = set()
    for step, tokens in enumerate([5, *[1] * 40, 7, *[1] * 90]):
        new = [normal(2, 3, tokens, width, seed=10 * step + width) for width in (4, value_width)]
        for found, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        moves.add(ours.keys.data_ptr())
    assert 2 <= len(moves) <= 4, "it moves seldom"


def test_a_backbone_takes_the_cache_with_room_where_the_model_reads_all_keys():
    for kind, sliding in (("llama", False), ("gemma3", True)):
        layers = model_backbone(kind).new_cache().layers
        assert any(isinstance(layer, GrowingLayer) for layer in layers)
        assert any(isinstance(layer, DynamicSlidingWindowLayer) for layer in layers) is sliding


# ---- whole models


def test_gelu_in_one_pass_is_that_of_seven():
    x = torch.linspace(-6, 6, 1001)
    fast = functional.gelu(x, approximate="tanh")
    for slow_form in (NewGELUActivation(), FastGELUActivation()):
        torch.testing.assert_close(fast, slow_form(x), atol=2e-6, rtol=1e-6)
    base, _ = make_base("gpt2")
    speed_up(base, torch.device("cpu"))
    (activation, *_) = [m for m in base.modules() if isinstance(m, NewGELUActivation)]
    torch.testing.assert_close(activation(x), fast, atol=0, rtol=0)


def slow(backbone):
    """Undo what was made faster: peft's own forward pass, and the kernel of PyTorch."""
    for module in backbone.model.modules():
        if isinstance(module, LoraLinear):
            assert isinstance(module, low_rank.LowRankLayer), "the fast form is in use"
            module.__class__ = LoraLinear
        if isinstance(module, NewGELUActivation):
            del module.forward
    assert backbone.base.config._attn_implementation == "products", "the fast form is in use"
    backbone.base.set_attn_implementation("sdpa")


def scores_and_gradients(backbone, name="llm_0"):
    tokens = token_batch(backbone, ["Once upon a time", "Tim"], [[5, 6, 300, 9], [7, 2]])
    scores = LLMPolicy(name=name, backbone=backbone).score(
        tokens, reference_hidden(backbone, tokens)
    )
    parameters = backbone.parameters(name)
    for parameter in parameters.values():
        parameter.grad = None
    (scores.log_probs.sum() + scores.kls.sum()).backward()
    return [*scores, *(parameter.grad for parameter in parameters.values())]


@pytest.mark.parametrize("kind", ["stories260K", "gpt2", "qwen2"])  # biases, transposed weights
def test_a_model_with_adapters_computes_and_learns_the_same_as_with_pefts_own_layers(kind):
    backbone = model_backbone(kind, adapter="lora", names=("llm_0", "llm_1"), moved=0.02)
    found = scores_and_gradients(backbone)
    slow(backbone)
    expected = scores_and_gradients(backbone)
    for one, other in zip(found, expected, strict=True):
        # float32, with sums in another order, through three to five layers.
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, atol=2e-5 * max(scale, 1), rtol=1e-4)


@pytest.mark.parametrize("kind", ["stories260K", "gpt2"])
def test_in_bfloat16_the_fast_model_is_as_close_to_float32_as_the_slow_one(kind):
    exact = scores_and_gradients(
        model_backbone(kind, adapter="lora", names=("llm_0", "llm_1"), moved=0.02)
    )
    backbone = model_backbone(
        kind, adapter="lora", names=("llm_0", "llm_1"), moved=0.02, dtype=torch.bfloat16
    )
    fast_ones = scores_and_gradients(backbone)
    slow(backbone)
    slow_ones = scores_and_gradients(backbone)

    def error(parts):
        pairs = zip(parts, exact, strict=True)
        return sum(float(((a.float() - b) ** 2).mean() / (b**2).mean()) for a, b in pairs)

    # peft computes the update itself in float32; the base it is added to is bfloat16 in both.
    assert error(fast_ones) < 2 * error(slow_ones)


def test_without_gradient_an_adapter_is_read_anew_once_it_has_moved():
    backbone = model_backbone("stories260K", adapter="lora", names=("llm_0", "llm_1"), moved=0.05)
    tokens = token_batch(backbone, ["Once upon a time"], [[5, 6, 300]])
    hidden = reference_hidden(backbone, tokens)

    def log_probs(name, grad):
        with torch.set_grad_enabled(grad):
            score = LLMPolicy(name=name, backbone=backbone).score(tokens, hidden)
        return score.log_probs.detach()

    before = {name: log_probs(name, False) for name in ("llm_0", "llm_1")}
    assert not torch.allclose(before["llm_0"], before["llm_1"]), "each has its own"
    with torch.no_grad():
        for parameter in backbone.parameters("llm_0").values():
            parameter += 0.1
    assert not torch.allclose(log_probs("llm_0", False), before["llm_0"])
    torch.testing.assert_close(log_probs("llm_0", False), log_probs("llm_0", True))
    torch.testing.assert_close(log_probs("llm_1", False), before["llm_1"], atol=0, rtol=0)


def test_dora_is_left_to_peft():
    base, tokenizer = make_base("llama")
    backbone = make_backbone(
        base, tokenizer, ["llm_0"], adapter="dora", rank=4, dtype=torch.float32,
        device=torch.device("cpu"), seed=0,
    )  # fmt: skip
    assert lora_config(base, 4, dora=True).use_dora
    layers = [m for m in backbone.model.modules() if isinstance(m, LoraLinear)]
    assert layers
    assert not any("forward" in vars(layer) for layer in layers)
