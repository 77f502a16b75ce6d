"""On a GPU: what the CPU computes, and what only a GPU does."""

from __future__ import annotations

import json

import pytest
import torch

from agents.maths.distributions import entropy, exact_kl
from agents.models.kernels import score_tokens
from agents.policies.decoding import can_record, decode_recorded, decode_stepwise
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.training.loop import train
from agents.training.trainer import Trainer
from tests.agents.small_models import STORIES, model_backbone

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
PROMPTS = ["Once upon a time", "Tim", "The little dog was very", "A"]
GPU = torch.device("cuda")


def policy_on_gpu(kind, adapter, **changes):
    backbone = model_backbone(kind, adapter=adapter, moved=0.05, device="cuda")
    return LLMPolicy(name="llm_0", backbone=backbone, **{"temperature": 3.0, **changes})


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "stories260K"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
@torch.no_grad()
def test_a_recorded_step_samples_what_single_steps_sample(kind, adapter):
    policy = policy_on_gpu(kind, adapter)
    assert can_record(policy.backbone, 40)
    ids, mask = policy.encode(PROMPTS, 40)
    uniforms = draw_uniforms(len(PROMPTS), 40, torch.Generator().manual_seed(1)).to(GPU)
    for name in ("llm_0", None):
        common = (policy.backbone, name, ids, mask, uniforms, policy._pick(False))
        limits = torch.full((len(ids),), 40, device=GPU)
        slow = decode_stepwise(*common, limits=limits)
        fast = decode_recorded(*common, limits=limits)
        assert fast.kept.tolist() == slow.kept.tolist()
        assert (fast.tokens * fast.kept).tolist() == (slow.tokens * slow.kept).tolist()
        # Other kernels for other lengths: float32 in another order.
        torch.testing.assert_close(
            fast.log_probs * fast.kept, slow.log_probs * slow.kept, atol=1e-3, rtol=1e-3
        )


def test_a_record_reads_the_weights_of_its_batch():
    """Nothing of an earlier update is left in it."""
    policy = policy_on_gpu("llama", "lora")
    uniforms = draw_uniforms(len(PROMPTS), 20, torch.Generator().manual_seed(1))
    before = policy.generate(PROMPTS, max_new_tokens=20, uniforms=uniforms).texts
    start = {key: p.detach().clone() for key, p in policy.parameters().items()}
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.add_(torch.randn_like(parameter))
    other = policy.generate(PROMPTS, max_new_tokens=20, uniforms=uniforms).texts
    with torch.no_grad():
        for key, parameter in policy.parameters().items():
            parameter.copy_(start[key])
    assert before == policy.generate(PROMPTS, max_new_tokens=20, uniforms=uniforms).texts != other


def test_scores_of_tokens_are_those_of_the_whole_distributions():
    torch.manual_seed(0)
    logits = torch.randn(300, 50_257, device=GPU, requires_grad=True)
    ref_logits = torch.randn(300, 50_257, device=GPU)
    ids = torch.randint(0, 50_257, (300,), device=GPU)
    weights = torch.randn(3, 300, device=GPU)
    fast = score_tokens(logits, ref_logits, ids)
    (fast_grad,) = torch.autograd.grad((torch.stack(fast[:3]) * weights).sum(), logits)
    log_probs, ref = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    slow = log_probs.gather(-1, ids[:, None])[:, 0], entropy(log_probs), exact_kl(log_probs, ref)
    (slow_grad,) = torch.autograd.grad((torch.stack(slow) * weights).sum(), logits)
    torch.testing.assert_close(torch.stack(fast[:3]), torch.stack(slow), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast_grad, slow_grad, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("algorithm", ["mappo", "ippo", "ppo", "happo", "grpo"])
def test_two_iterations_are_those_of_the_cpu(toy_config, algorithm, adapter, tmp_path):
    """In float32: the first response is the same, and all that is learnt from it to rounding."""
    changes = {"algorithm": algorithm, "adapter": adapter, "model": str(STORIES)}
    if algorithm in ("ppo", "grpo"):
        changes["observers"] = 0
    rows = []
    for device in ("cpu", "cuda"):
        trainer = Trainer(toy_config(**changes, device=device, out=str(tmp_path / device)))
        rows.append([trainer.iterate(i) for i in range(2)])
    for on_cpu, on_gpu in zip(*rows, strict=True):
        for key, value in on_cpu.items():
            if isinstance(value, float) and "second" not in key:
                assert on_gpu[key] == pytest.approx(value, rel=2e-2, abs=2e-3), key


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_in_bfloat16_is_cut_resumed_and_evaluated(toy_config, adapter):
    changes = {"task": "imdb", "model": "embedded", "adapter": adapter, "device": "cuda"}
    config = toy_config(**changes, dtype="bfloat16", iterations=2, evaluation_queries=8)
    train(config)
    run = train(toy_config(**changes, dtype="bfloat16", evaluation_queries=8), resume=True)
    rows = [json.loads(row) for row in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    # Between the distribution that is sampled from and the one that is scored: bfloat16.
    assert all(row[f"{name}/sampler_gap"] < 0.05 for row in rows for name in ("llm_0", "llm_1"))
    assert json.loads((run.folder / "evaluation.json").read_text())
