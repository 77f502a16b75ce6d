"""Two ways to sample the same tokens: with a growing cache, and by a step over fixed tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agents.models.backbone import takes_wide_mask
from agents.policies.decoding import can_record, decode_recorded, decode_stepwise
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from tests.agents.small_models import KINDS, model_backbone

PROMPTS = ["Once upon a time", "Tim", "The little dog was very", "A"]
FULL_ATTENTION = [k for k in KINDS if k not in ("gemma2", "gemma3", "mistral", "bloom")]


def both_ways(policy, steps, *, greedy=False, limits=None):
    """What the two ways sample; log-probs without those of tokens that are not kept."""
    ids, mask = policy.encode(PROMPTS, steps)
    uniforms = draw_uniforms(len(PROMPTS), steps, torch.Generator().manual_seed(1))
    common = (policy.backbone, policy.adapter, ids, mask, uniforms, policy._pick(greedy))
    limits = torch.tensor(limits or [steps] * len(PROMPTS))
    with torch.no_grad():
        results = (
            decode_stepwise(*common, limits=limits),
            decode_recorded(*common, limits=limits, record=False),
        )
    return [
        (r.tokens.masked_fill(~r.kept, 0), r.log_probs.masked_fill(~r.kept, 0), r.kept)
        for r in results
    ]


def assert_alike(results):
    (tokens, log_probs, kept), (other_tokens, other_log_probs, other_kept) = results
    assert tokens.tolist() == other_tokens.tolist()
    assert kept.tolist() == other_kept.tolist()
    # A sum over a longer row of keys, the rest of them at weight 0: float32 rounding.
    torch.testing.assert_close(other_log_probs, log_probs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", FULL_ATTENTION)
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_step_over_fixed_tensors_samples_the_same(kind, adapter):
    backbone = model_backbone(kind, adapter=adapter, moved=0.05)
    for name in ("llm_0", None):
        assert_alike(both_ways(LLMPolicy(name=name, backbone=backbone, temperature=3.0), 24))


@pytest.mark.parametrize("steps", [1, 2, 3, 16, 17, 40])
@pytest.mark.parametrize("likely", [False, True])
def test_responses_that_end_early_end_both_ways(steps, likely):
    """At every place, and with steps left over after all have ended."""
    backbone = model_backbone("llama")
    backbone.stop_ids = torch.arange(0, 512, 3 if likely else 50)
    results = both_ways(LLMPolicy(name="llm_0", backbone=backbone, temperature=5.0), steps)
    assert_alike(results)
    if likely and steps >= 16:
        lengths = results[0][2].sum(1)
        assert len(lengths.unique()) > 1
        assert lengths.max() < 16


@pytest.mark.parametrize("limits", [[1, 5, 3, 12], [2, 2, 1, 1]])
def test_each_response_keeps_to_its_own_limit_both_ways(limits):
    backbone = model_backbone("llama")
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=5.0)
    (free, _, kept), _ = both_ways(policy, 12)
    found = both_ways(policy, 12, limits=limits)
    assert_alike(found)
    tokens, _, cut = found[0]
    assert cut.sum(1).tolist() == torch.minimum(kept.sum(1), torch.tensor(limits)).tolist()
    assert tokens.shape[1] == max(cut.sum(1))
    assert torch.equal(tokens[cut], free[:, : tokens.shape[1]][cut])


def test_the_greedy_token_and_the_nucleus_are_taken_both_ways():
    policy = LLMPolicy(name="llm_0", backbone=model_backbone("gpt2", moved=0.05))
    assert_alike(both_ways(policy, 12, greedy=True))
    assert_alike(both_ways(replace(policy, top_p=0.8, temperature=2.0), 12))


@pytest.mark.parametrize("kind", KINDS)
def test_models_with_windows_or_distances_from_the_mask_are_found_out(kind):
    assert takes_wide_mask(model_backbone(kind), 1e-3) == (kind in FULL_ATTENTION)


def test_nothing_is_recorded_without_a_gpu():
    assert not can_record(model_backbone("llama"), 100)


def test_too_little_randomness_is_refused():
    policy = LLMPolicy(name="llm_0", backbone=model_backbone("llama"))
    for few in (draw_uniforms(4, 5), draw_uniforms(3, 6)):
        with pytest.raises(
            ValueError, match=r"uniforms for 4 prompts and 6 tokens, got \(\d, \d\)"
        ):
            policy.generate(PROMPTS, max_new_tokens=6, uniforms=few)
