"""Sampling and scoring: one distribution, whatever the padding, the batch and the path."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel

import cory_env
from agents.models import kernels
from agents.models.copies import FullBackbone
from agents.models.tiny import tiny_model
from agents.policies import llm as policy_module
from agents.policies.llm import LLMPolicy, response_hidden
from agents.policies.sampling import draw, draw_uniforms
from cory_env.tasks.toy import ToyTask
from tests.agents.fakes import every_response, reference_hidden, tiny_backbone, token_batch
from tests.agents.small_models import model_backbone

PROMPTS = ["ab>", "=", "ba,ab=", "aa>"]
# float32 summed in another order (cached or not, padded or not) differs in the last digits
FLOAT32 = 2e-5


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.6)])
def test_the_ratio_is_one_before_the_first_update(adapter, temperature, top_p):
    backbone = tiny_backbone(adapter=adapter, moved=0.1)
    policy = LLMPolicy(name="llm_1", backbone=backbone, temperature=temperature, top_p=top_p)
    _, tokens = policy.generate(
        PROMPTS * 8, max_new_tokens=2, generator=torch.Generator().manual_seed(0)
    )
    scores = policy.score(tokens, reference_hidden(backbone, tokens))
    torch.testing.assert_close(scores.log_probs, tokens.sampled_log_probs, atol=FLOAT32, rtol=0)
    assert tokens.response_mask.sum() < tokens.response_mask.numel(), "no response ended early"


def test_tokens_are_drawn_with_the_probabilities_they_are_scored_with():
    backbone = tiny_backbone(moved=0.5)
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=0.8)
    count = 20_000
    _, tokens = policy.generate(
        ["ab>"] * count, max_new_tokens=2, generator=torch.Generator().manual_seed(1)
    )
    single = every_response(6, 0, 2)
    batch = token_batch(backbone, ["ab>"] * len(single), single)
    expected = policy.score(batch, reference_hidden(backbone, batch)).log_probs.sum(1).exp()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-5)
    rows = zip(tokens.response_ids.tolist(), tokens.response_mask.sum(1).tolist(), strict=True)
    drawn = [tuple(ids[:n]) for ids, n in rows]
    found = torch.tensor([drawn.count(tuple(ids)) for ids in single]) / count
    error = (expected * (1 - expected) / count).sqrt()
    # 31 outcomes within 5 standard errors: a right sampler fails once in 50,000 seeds
    assert ((found - expected).abs() < 5 * error + 1e-4).all()


def test_left_padding_changes_no_score():
    backbone = tiny_backbone(moved=0.3)
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    responses = [[1, 2], [0], [2, 2], [3, 0]]
    padded = token_batch(backbone, PROMPTS, responses)
    together = policy.score(padded, reference_hidden(backbone, padded))
    for row, (prompt, response) in enumerate(zip(PROMPTS, responses, strict=True)):
        alone = token_batch(backbone, [prompt], [response])
        scores = policy.score(alone, reference_hidden(backbone, alone))
        for batched, single in zip(together, scores, strict=True):
            torch.testing.assert_close(
                batched[row, : len(response)], single[0], atol=FLOAT32, rtol=0
            )


def test_scoring_in_chunks_gives_the_same_scores_and_gradients(monkeypatch):
    backbone = tiny_backbone(moved=0.3)
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    tokens = token_batch(backbone, PROMPTS, [[1, 2], [0], [2, 2], [3, 0]])
    hidden = reference_hidden(backbone, tokens)

    def run():
        scores = policy.score(tokens, hidden)
        total = (scores.log_probs * 0.3 + scores.kls + 0.1 * scores.entropies).sum()
        grads = torch.autograd.grad(total, list(backbone.parameters("llm_0").values()))
        return [total.detach(), *grads]

    whole = run()
    monkeypatch.setattr(policy_module, "CHUNK_TOKENS", 3)
    for expected, found in zip(whole, run(), strict=True):
        torch.testing.assert_close(found, expected, atol=FLOAT32, rtol=1e-4)


def most_bytes(function) -> int:
    """Return the most that tensors took at one time while it ran, beyond what was there before.

    PyTorch's own count of what it allocates and frees: the same in every run, unlike the resident
    set, in which it shows how the C library places them.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def wide_policy(**options) -> LLMPolicy:
    """A policy of 8 numbers a token that chooses among 20,000: distributions are all there is."""
    _, tokenizer = tiny_model(ToyTask(length=2, symbols=2), seed=0)
    wide = GPT2Config(vocab_size=20_000, n_positions=32, n_embd=8, n_layer=1, n_head=1)
    base = GPT2LMHeadModel(wide)
    backbone = FullBackbone(
        base, tokenizer, ["llm_0"], dtype=torch.float32, device=torch.device("cpu")
    )
    return LLMPolicy(name="llm_0", backbone=backbone, **options)


def test_memory_for_scores_does_not_grow_with_the_batch(monkeypatch):
    policy = wide_policy()
    monkeypatch.setattr(policy_module, "CHUNK_TOKENS", 32)
    chunk = 32 * 20_000 * 4

    def peak(batch: int) -> int:
        tokens = token_batch(policy.backbone, ["ab>"] * batch, [[1, 2, 1, 2]] * batch)
        hidden = reference_hidden(policy.backbone, tokens)

        def learn() -> None:
            policy.score(tokens, hidden).kls.sum().backward()

        learn()  # gradients are there from now on
        return most_bytes(learn)

    small, large = peak(16), peak(64)
    assert small > 2 * chunk, "logits of a chunk, theirs and the reference's, were not counted"
    # 192 tokens more: their logits would be 6 chunks, once or more; their hidden states are 8 wide.
    assert large - small < chunk / 4


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampling_takes_the_logits_of_a_token_and_little_more(top_p):
    policy = wide_policy(top_p=top_p)

    def peak(batch: int) -> int:
        return most_bytes(lambda: policy.generate(["ab>"] * batch, max_new_tokens=3))

    more = 128 * 20_000 * 4
    # 6 times as much where the distributions of all rows are made at once, in float64 as well.
    assert more <= peak(256) - peak(128) < 1.2 * more


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.8}])
@pytest.mark.parametrize("greedy", [False, True])
def test_sampling_in_blocks_gives_the_same_tokens_and_log_probs(monkeypatch, options, greedy):
    policy = LLMPolicy(name="llm_0", backbone=tiny_backbone(moved=0.5), **options)
    uniforms = draw_uniforms(32, 2, torch.Generator().manual_seed(0))

    def sample():
        sampled = {"uniforms": uniforms, "greedy": greedy}
        return policy.generate(PROMPTS * 8, max_new_tokens=2, **sampled).tokens

    whole = sample()
    monkeypatch.setattr(kernels, "_BLOCK", {"cpu": 20})  # three rows of six, and two at the end
    blocks = sample()
    assert torch.equal(blocks.response_ids, whole.response_ids)
    assert torch.equal(blocks.sampled_log_probs, whole.sampled_log_probs)


def test_masked_places_are_zero_and_kl_to_itself_is_zero():
    backbone = tiny_backbone()
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    tokens = token_batch(backbone, ["ab>", "="], [[0], [1, 2]])
    scores = policy.score(tokens, reference_hidden(backbone, tokens))
    assert all(float(values.detach()[0, 1]) == 0 for values in scores[:4])
    torch.testing.assert_close(scores.kls, torch.zeros(2, 2), atol=1e-6, rtol=0)
    assert (scores.entropies[tokens.response_mask] > 0).all()


def test_act_plays_the_aec_environment_with_the_log_probs_of_the_batched_path():
    backbone = tiny_backbone(moved=0.4)
    task = ToyTask(length=2, symbols=2)
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=0.9)
    env = cory_env.env(task=task, tokenizer=backbone.tokenizer)
    env.reset(seed=3)
    generator = torch.Generator().manual_seed(0)
    played: dict[str, list[tuple[int, float]]] = {agent: [] for agent in env.agents}
    prompts = {}
    for agent in env.agent_iter():
        observation, _, termination, truncation, info = env.last()
        if termination or truncation:
            env.step(None)
            continue
        prompts[agent] = info["prompt"]
        token, log_prob = policy.act(observation, generator)
        played[agent].append((token, log_prob))
        env.step(token)
    for agent, turns in played.items():
        tokens = token_batch(backbone, [prompts[agent]], [[token for token, _ in turns]])
        scores = policy.score(tokens, reference_hidden(backbone, tokens))
        expected = torch.tensor([[log_prob for _, log_prob in turns]])
        torch.testing.assert_close(scores.log_probs.detach(), expected, atol=FLOAT32, rtol=0)


def test_greedy_takes_the_most_probable_token():
    backbone = tiny_backbone(moved=0.5)
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    _, tokens = policy.generate(["ab>"], max_new_tokens=1, greedy=True)
    every = token_batch(backbone, ["ab>"] * 6, [[i] for i in range(6)])
    scores = policy.score(every, reference_hidden(backbone, every))
    assert int(tokens.response_ids[0, 0]) == int(scores.log_probs[:, 0].argmax())


def rests(policy, tokens, uniforms, cuts):
    """What a policy says behind the first tokens of responses, with what is left of their
    randomness: the rests, their log-probs, and what they should be."""
    length = uniforms.shape[1]
    responses = [
        r[m].tolist() for r, m in zip(tokens.response_ids, tokens.response_mask, strict=True)
    ]
    rows = [row for row, cut in enumerate(cuts) if cut < len(responses[row])]
    shifted = torch.stack([uniforms[row].roll(-cuts[row]) for row in rows])
    _, found = policy.generate(
        [PROMPTS[row % 4] for row in rows],
        max_new_tokens=length,
        uniforms=shifted,
        prefixes=[responses[row][: cuts[row]] for row in rows],
    )
    said = [r[m].tolist() for r, m in zip(found.response_ids, found.response_mask, strict=True)]
    sampled = [p[m] for p, m in zip(found.sampled_log_probs, found.response_mask, strict=True)]
    before = [tokens.sampled_log_probs[row, cuts[row] : len(responses[row])] for row in rows]
    return said, [responses[row][cuts[row] :] for row in rows], sampled, before


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3", "bloom"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_response_that_is_continued_from_any_cut_is_the_response(kind, mixed):
    """Alone, and beside others that are cut elsewhere and so are padded by other widths."""
    backbone, length = model_backbone(kind, moved=0.05), 6
    backbone.stop_ids = torch.arange(0, 512, 16)
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=1.5)
    uniforms = draw_uniforms(8, length, torch.Generator().manual_seed(2))
    _, tokens = policy.generate(PROMPTS * 2, max_new_tokens=length, uniforms=uniforms)
    assert len(tokens.response_mask.sum(1).unique()) > 1, "all responses are as long"
    for cut in range(length):
        cuts = [(cut + row) % length for row in range(8)] if mixed else [cut] * 8
        found, expected, log_probs, before = rests(policy, tokens, uniforms, cuts)
        assert found == expected
        for one, other in zip(log_probs, before, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)  # float32, other sums


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        ([[1, 1], []], "fewer than max_new_tokens=2 tokens.*got 2"),
        ([[0], []], "none of which ends a response, got 1"),
        ([[1]], "a prefix for each of 2 prompts, got 1"),
        ([[99], []], "tokens that the model has a row for"),
    ],
)
def test_a_prefix_behind_which_nothing_can_come_is_refused(prefixes, message):
    policy = LLMPolicy(name="llm_0", backbone=tiny_backbone())
    with pytest.raises(ValueError, match=message):
        policy.generate(["ab>", "a"], max_new_tokens=2, prefixes=prefixes)


def test_a_text_for_which_there_is_only_the_end_token_is_refused():
    policy = LLMPolicy(name="llm_0", backbone=tiny_backbone())
    with pytest.raises(ValueError, match="without special tokens, got the character '<'"):
        policy.encode(["a<end>b>"], max_new_tokens=2)


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths():
    backbone = tiny_backbone()
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    room = backbone.context - 2
    policy.encode(["a" * room], max_new_tokens=2)
    with pytest.raises(
        ValueError, match=rf"context of {room + 2} tokens, got a prompt of {room + 1} "
    ):
        policy.encode(["a" * (room + 1)], max_new_tokens=2)


def test_an_empty_prompt_is_refused():
    policy = LLMPolicy(name="llm_0", backbone=tiny_backbone())
    with pytest.raises(ValueError, match="at least one token"):
        policy.encode(["ab>", ""], max_new_tokens=2)


def test_response_hidden_lines_up_with_the_response():
    backbone = tiny_backbone()
    tokens = token_batch(backbone, PROMPTS, [[1, 2], [0], [2, 2], [3, 0]])
    assert response_hidden(backbone, None, tokens).shape == (4, 2, 64)


def test_absolute_positions_do_not_count_the_padding():
    # Rotary positions are blind to a shift; those of GPT-2 are not.
    _, tokenizer = tiny_model(ToyTask(length=2, symbols=2), seed=0)
    torch.manual_seed(0)
    base = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=6, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5
        )
    )
    backbone = FullBackbone(
        base, tokenizer, ["llm_0"], dtype=torch.float32, device=torch.device("cpu")
    )
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    generator = torch.Generator().manual_seed(0)
    _, tokens = policy.generate(PROMPTS, max_new_tokens=4, generator=generator)
    scores = policy.score(tokens, reference_hidden(backbone, tokens))
    torch.testing.assert_close(scores.log_probs, tokens.sampled_log_probs, atol=FLOAT32, rtol=0)
    for row, prompt in enumerate(PROMPTS):
        response = tokens.response_ids[row][tokens.response_mask[row]].tolist()
        alone = token_batch(backbone, [prompt], [response])
        single = policy.score(alone, reference_hidden(backbone, alone)).log_probs
        torch.testing.assert_close(
            scores.log_probs[row, : len(response)], single[0], atol=FLOAT32, rtol=0
        )


def test_the_rarest_tokens_of_a_large_vocabulary_keep_their_share():
    probs = torch.full((1, 100_001), 1e-9)
    probs[0, 0] = 1 - 1e-4
    # Half of the tail. In float32 the sums near 1 are 6e-8 apart, so most of its tokens are lost.
    token = draw(probs.log(), torch.tensor([1 - 0.5e-4], dtype=torch.float64))
    assert abs(int(token) - 50_000) < 5  # log-probs have seven digits


def test_a_token_of_probability_zero_is_never_drawn_even_at_the_very_end():
    log_probs = torch.tensor([[-torch.inf, 0.3, -torch.inf]]).log_softmax(-1)
    for u in (0.0, 0.5, 1 - 2**-53, 1.0):
        assert int(draw(log_probs, torch.tensor([u], dtype=torch.float64))) == 1
