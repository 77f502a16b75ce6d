"""Any causal language model: what transformers computes of it is what policies learn from."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Mamba2Config, RecurrentGemmaConfig

from agents.models.backbone import check_pieces, token_positions
from agents.policies.llm import LLMPolicy
from tests.agents.fakes import reference_hidden, token_batch
from tests.agents.small_models import CONFIGS, KINDS, STORIES, STORY, make_base, model_backbone

PROMPTS = ["Once upon a time", "Tim", "The little dog was very", "A"]
# The same float32 numbers summed in another order: relative to logits of up to some 100.
ORDER = {"atol": 2e-4, "rtol": 2e-4}
EVERY = pytest.mark.parametrize("kind", KINDS)
BOTH = pytest.mark.parametrize("adapter", ["lora", "full"])


def example():
    ids = torch.tensor([[1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    return ids, mask


@EVERY
@BOTH
@torch.no_grad()
def test_logits_from_hidden_states_are_those_of_the_whole_model(kind, adapter):
    backbone = model_backbone(kind, adapter=adapter, moved=0.05)
    ids, mask = example()
    for name in ("llm_0", None):
        hidden = backbone.hidden(name, ids, mask, token_positions(mask))
        with backbone.use_adapter(name) as model:
            expected = model(input_ids=ids).logits
        torch.testing.assert_close(backbone.logits(name, hidden), expected, **ORDER)
        torch.testing.assert_close(backbone.logits(name, hidden[0, 3]), expected[0, 3], **ORDER)


@torch.no_grad()
def test_gemmas_soft_cap_and_the_scales_of_granite_and_cohere_show_in_the_tests_above():
    for kind in ("gemma2", "granite", "cohere"):
        backbone = model_backbone(kind)
        ids, mask = example()
        hidden = backbone.hidden(None, ids, mask, token_positions(mask))
        raw = backbone.base.get_output_embeddings()(hidden)
        assert (raw - backbone.logits(None, hidden)).abs().max() > 1, kind


@EVERY
def test_padding_cache_and_batch_change_no_log_prob(kind):
    backbone = model_backbone(kind, moved=0.05)
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=3.0)
    generator = torch.Generator().manual_seed(0)
    _, tokens = policy.generate(PROMPTS, max_new_tokens=12, generator=generator)
    scores = policy.score(tokens, reference_hidden(backbone, tokens)).log_probs
    torch.testing.assert_close(scores, tokens.sampled_log_probs, **ORDER)
    assert int(tokens.response_mask.sum(1).max()) > 6, "no response is longer than the windows"
    for row, prompt in enumerate(PROMPTS):
        response = tokens.response_ids[row][tokens.response_mask[row]].tolist()
        alone = token_batch(backbone, [prompt], [response])
        single = policy.score(alone, reference_hidden(backbone, alone)).log_probs
        torch.testing.assert_close(scores[row, : len(response)], single[0], **ORDER)


@EVERY
def test_greedy_texts_are_those_of_transformers(kind):
    backbone = model_backbone(kind)
    policy = LLMPolicy(name="reference", learns=False, backbone=backbone)
    _, tokens = policy.generate(PROMPTS, max_new_tokens=12, greedy=True)
    expected = backbone.base.generate(
        input_ids=tokens.prompt_ids,
        attention_mask=tokens.prompt_mask.long(),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=backbone.stop_ids.tolist(),
        pad_token_id=backbone.tokenizer.pad_token_id,
    )[:, tokens.prompt_ids.shape[1] :]
    assert tokens.response_ids.tolist() == expected.tolist()


@EVERY
@BOTH
def test_a_step_moves_the_policy_and_not_the_reference(kind, adapter):
    backbone = model_backbone(kind, adapter=adapter)
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    tokens = token_batch(backbone, PROMPTS, [[5, 6], [7], [8, 9], [10, 2]])
    hidden = reference_hidden(backbone, tokens)
    optimizer = torch.optim.SGD(backbone.parameters("llm_0").values(), lr=1e-2)
    before = policy.score(tokens, hidden).log_probs
    before.sum().backward()
    optimizer.step()
    after = policy.score(tokens, hidden).log_probs
    assert not torch.equal(after, before)
    assert torch.equal(reference_hidden(backbone, tokens), hidden)


@EVERY
@BOTH
@torch.no_grad()
def test_saved_policies_load_with_transformers_and_peft_alone(kind, adapter, tmp_path):
    backbone = model_backbone(kind, adapter=adapter, moved=0.05)
    backbone.save_pretrained("llm_0", tmp_path)
    if adapter == "lora":
        model = PeftModel.from_pretrained(make_base(kind)[0], str(tmp_path)).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids, mask = example()
    hidden = backbone.hidden("llm_0", ids, mask, token_positions(mask))
    found = model(input_ids=ids).logits
    torch.testing.assert_close(backbone.logits("llm_0", hidden), found, **ORDER)


@EVERY
@BOTH
@torch.no_grad()
def test_bfloat16_is_finite_and_close(kind, adapter):
    ids, mask = example()
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        backbone = model_backbone(kind, adapter=adapter, dtype=dtype)
        hidden = backbone.hidden("llm_0", ids, mask, token_positions(mask))
        found.append(backbone.logits("llm_0", hidden).float())
        assert found[-1].isfinite().all()
        assert {p.dtype for p in backbone.parameters("llm_0").values()} == {torch.float32}
    # eight bits of mantissa, a few dozen roundings one after the other; but one of them may send a
    # token to another expert
    assert kind == "mixtral" or (found[1] - found[0]).abs().max() < 0.1 * found[0].abs().max()
    assert not torch.equal(*found), "nothing was computed in bfloat16"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_context_is_the_number_of_positions_or_else_the_tokenizers_limit(kind):
    backbone = model_backbone(kind)
    backbone.tokenizer.model_max_length = 77
    assert backbone.context == {"gpt2": 1024, "llama": 2048, "bloom": 77}[kind]


def test_a_sliding_window_is_no_limit_of_the_context():
    assert model_backbone("mistral").context > CONFIGS["mistral"].sliding_window


_RECURRENT = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        # padding goes through the recurrence like any other token
        (Mamba2Config(**_RECURRENT, num_heads=8, head_dim=8, n_groups=1), "they differ by"),
        # its cache is another
        (
            RecurrentGemmaConfig(
                **_RECURRENT, num_attention_heads=4, intermediate_size=48, lru_width=32
            ),
            "runs with padding, positions and a cache",
        ),
    ],
)
def test_a_model_that_cannot_be_run_in_pieces_is_refused_in_one_line(config, reason):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match=rf"Expected a causal .*{type(base).__name__}") as error:
        model_backbone("", adapter="full", loaded=(base, make_base("stories260K")[1]))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_the_check_sees_a_head_that_does_more(monkeypatch):
    backbone = model_backbone("llama")
    check_pieces(backbone, 1e-3)
    monkeypatch.setattr(
        type(backbone),
        "head_logits",
        lambda self, name, h: self.base.get_output_embeddings()(h * 1.01),
    )
    with pytest.raises(
        ValueError, match="follow from its last hidden states, got LlamaForCausalLM"
    ):
        check_pieces(backbone, 1e-3)


# ---- the story model


def test_the_story_model_writes_stories():
    policy = LLMPolicy(name="reference", learns=False, backbone=model_backbone("stories260K"))
    [text], _ = policy.generate(["Once upon a time"], max_new_tokens=60, greedy=True)
    # what llama2.c writes at temperature 0
    assert text.startswith(
        ", there was a little girl named Lily. She loved to play outside in the park. One day, she "
        "saw a big, red ball."
    )
    ids = torch.tensor([policy.backbone.tokenizer(STORY)["input_ids"]])
    with torch.no_grad():
        loss = float(policy.backbone.base(input_ids=ids, labels=ids).loss)
    assert loss < 0.75, "nats per token; an untrained model needs 6.2"


@pytest.mark.parametrize("text", [STORY, "naïve “é” 😀 x", " two  spaces ", "line\nbreak", "<s>"])
def test_the_story_tokenizer_gives_texts_back(text):
    tokenizer = make_base("stories260K")[1]
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert ids[0] == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_end_token_of_the_generation_settings_ends_a_response():
    backbone = model_backbone("stories260K")
    assert backbone.tokenizer.eos_token_id == 2
    # a story ends where the next one begins
    assert backbone.stop_ids.tolist() == [1, 2]


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token_on_the_left():
    assert "pad_token" not in (STORIES / "tokenizer_config.json").read_text()
    tokenizer = make_base("stories260K")[1]
    rows = tokenizer(["Once upon a time", "A"], padding=True)["input_ids"]
    assert [len(row) for row in rows] == [5, 5]
    assert rows[1][:3] == [2, 2, 1]
