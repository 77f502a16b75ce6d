"""Rows of a model that stand for no token, and tokens that a model has no row for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import cory_env
from agents.cli.main import main
from agents.models.backbone import Backbone
from agents.models.chat import ChatTokenizer
from agents.models.loading import load_base, load_hf_tokenizer
from agents.policies.decoding import decode_recorded
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from cory_env import Example
from tests.agents.fakes import reference_hidden, token_batch
from tests.agents.small_models import STORIES, model_backbone

PROMPTS = ["Once upon a time", "Tim", "The little dog was very", "A"]
FLOAT32 = 2e-5
"""Sums in float32 in another order differ in the last digits."""


def padded_model():
    """The story model with 64 rows behind its 512 tokens, each more probable than any token."""
    base, tokenizer = load_base(str(STORIES), torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base.resize_token_embeddings(576, mean_resizing=False)
    weight = base.get_output_embeddings().weight
    with torch.no_grad():
        # Twice the rows of the likeliest tokens: argmax and most draws fall on one of them.
        weight[512:] = 2 * weight[261:325]
    return base, tokenizer


def holed_model():
    """A vocabulary of six symbols with ids 0, 1, 2, 5, 6 and 9, in a model of twelve rows."""
    ids = {"<end>": 0, "a": 1, "b": 2, "c": 5, "d": 6, "e": 9}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<end>", padding_side="left"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=12, n_positions=64, n_embd=16, n_layer=1, n_head=2)
        return GPT2LMHeadModel(config), tokenizer


MAKE = {"padded": padded_model, "holes": holed_model}
KNOWN = {"padded": range(512), "holes": (0, 1, 2, 5, 6, 9)}
ASKED = {"padded": PROMPTS, "holes": ["ab", "c", "dea", "e"]}
EVERY = pytest.mark.parametrize("kind", MAKE)
SHAPES = pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (4.0, 1.0), (1.0, 0.9), (4.0, 0.999)]
)


def make_backbone(kind: str, **options) -> Backbone:
    return model_backbone("llama", loaded=MAKE[kind](), moved=0.02, **options)


@EVERY
@SHAPES
@pytest.mark.parametrize("name", ["llm_0", None])
def test_only_tokens_are_sampled_and_the_ratio_is_one(kind, temperature, top_p, name):
    backbone = make_backbone(kind)
    policy = LLMPolicy(name=name, backbone=backbone, temperature=temperature, top_p=top_p)
    generator = torch.Generator().manual_seed(0)
    _, tokens = policy.generate(ASKED[kind] * 8, max_new_tokens=6, generator=generator)
    assert set(tokens.response_ids.flatten().tolist()) <= set(KNOWN[kind])
    assert tokens.sampled_log_probs.isfinite().all()
    if name:
        scores = policy.score(tokens, reference_hidden(backbone, tokens))
        torch.testing.assert_close(
            scores.log_probs, tokens.sampled_log_probs, atol=FLOAT32, rtol=FLOAT32
        )


@EVERY
def test_greedy_and_recorded_sampling_take_only_tokens(kind):
    backbone = make_backbone(kind)
    policy = LLMPolicy(name="llm_0", backbone=backbone)
    _, tokens = policy.generate(ASKED[kind], max_new_tokens=6, greedy=True)
    assert set(tokens.response_ids.flatten().tolist()) <= set(KNOWN[kind])
    ids, mask = policy.encode(ASKED[kind], 6)
    uniforms = draw_uniforms(len(ids), 6, torch.Generator().manual_seed(0))
    limits = torch.full((len(ids),), 6)
    drawn = decode_recorded(
        *(backbone, "llm_0", ids, mask, uniforms, policy._pick(False)), limits=limits, record=False
    )
    assert set(drawn.tokens.flatten().tolist()) <= set(KNOWN[kind])


@EVERY
@pytest.mark.parametrize("top_p", [1.0, 0.9999])  # two paths of scoring
def test_probability_entropy_and_kl_are_those_of_a_softmax_over_tokens_alone(kind, top_p):
    backbone, temperature = make_backbone(kind), 2.0
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=temperature, top_p=top_p)
    known = list(KNOWN[kind])
    single = token_batch(backbone, ASKED[kind][:1] * len(known), [[i] for i in known])
    ref_hidden = reference_hidden(backbone, single)
    scores = policy.score(single, ref_hidden)
    loose = 1e-4 if top_p == 1.0 else 2e-2  # the nucleus leaves a ten-thousandth out
    assert float(scores.log_probs.exp().sum()) == pytest.approx(1, abs=loose)

    def over_tokens(name, hidden):
        logits = backbone.head_logits(name, hidden).double().detach()
        return (logits[..., known] / temperature).log_softmax(-1)

    ours = over_tokens("llm_0", scores.hidden[0, 0])
    theirs = over_tokens(None, ref_hidden[0, 0])
    expected = (-(ours.exp() * ours).sum(), (ours.exp() * (ours - theirs)).sum())
    assert float(scores.entropies[0, 0]) == pytest.approx(float(expected[0]), abs=loose)
    assert float(scores.kls[0, 0]) == pytest.approx(float(expected[1]), abs=loose)
    if top_p == 1.0:
        torch.testing.assert_close(
            scores.log_probs[:, 0].double(), ours, atol=FLOAT32, rtol=FLOAT32
        )
        torch.testing.assert_close(
            scores.ref_log_probs[:, 0].double(), theirs, atol=FLOAT32, rtol=FLOAT32
        )


@EVERY
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_gradients_are_finite_and_none_reaches_a_row_without_a_token(kind, top_p):
    base, tokenizer = MAKE[kind]()
    head = base.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # or the embedding's shows
    base.config.tie_word_embeddings = False
    backbone = model_backbone("llama", loaded=(base, tokenizer), adapter="full", moved=0.02)
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=0.7, top_p=top_p)
    _, tokens = policy.generate(ASKED[kind], max_new_tokens=4)
    scores = policy.score(tokens, reference_hidden(backbone, tokens))
    # Large factors: what is multiplied by a probability of 0 must not overflow before.
    (1e3 * scores.log_probs + 1e3 * scores.kls - 1e3 * scores.entropies).sum().backward()
    for parameter in backbone.parameters("llm_0").values():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    grad = backbone.parameters("llm_0")["lm_head.weight"].grad
    assert grad is not None
    assert not grad[backbone.tokenless_ids].any()
    assert grad[list(KNOWN[kind])].any()


def test_act_plays_only_tokens_with_the_probabilities_of_the_batched_path():
    backbone = make_backbone("padded")
    policy = LLMPolicy(name="llm_0", backbone=backbone, temperature=4.0)
    env = cory_env.env("imdb", tokenizer=ChatTokenizer(backbone.tokenizer), max_new_tokens=4)
    env.reset(options={"example": Example("Once upon a time")})
    generator = torch.Generator().manual_seed(0)
    observation, *_ = env.last()
    for _ in range(64):
        token, log_prob = policy.act(observation, generator)
        assert env.action_space("pioneer_0").contains(np.int64(token))
        batch = token_batch(backbone, ["Once upon a time"], [[token]])
        [[expected]] = policy.score(batch, reference_hidden(backbone, batch)).log_probs.tolist()
        assert log_prob == pytest.approx(expected, abs=1e-4)


@EVERY
def test_the_environment_takes_every_token_and_no_id_behind_the_last(kind):
    tokenizer = ChatTokenizer(MAKE[kind]()[1])
    assert tokenizer.vocab_size == max(KNOWN[kind]) + 1


def test_a_vocabulary_without_gaps_is_left_as_it_is():
    backbone = model_backbone("stories260K")
    hidden = torch.zeros(2, int(backbone.config.hidden_size))
    assert not len(backbone.tokenless_ids)
    assert torch.equal(backbone.logits(None, hidden), backbone.head_logits(None, hidden))


SMALL = ["--iterations", "1", "--batch-size", "8", "--minibatch-size", "8", "--max-new-tokens", "8",
         "--evaluation-queries", "4", "--dtype", "float32"]  # fmt: skip


def saved(folder, base, tokenizer) -> str:
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_on_a_padded_vocabulary_ends_well(tmp_path, adapter):
    model = saved(tmp_path / "model", *padded_model())
    out = tmp_path / "run"
    flags = ["--model", model, "--temperature", "4", "--adapter", adapter, "--out", str(out)]
    assert main(["train", "imdb", *flags, *SMALL]) == 0
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert all(np.isfinite(value) for value in row.values() if isinstance(value, float))


# ---- tokens without a row


def test_a_padding_token_without_a_row_is_replaced_by_one_that_has_one(tmp_path):
    base, tokenizer = load_base(str(STORIES), torch.float32)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model = saved(tmp_path / "model", base, tokenizer)
    out = tmp_path / "run"
    assert main(["train", "imdb", "--model", model, "--out", str(out), *SMALL]) == 0
    folder = out / "final" / "llm_0"
    assert load_hf_tokenizer(str(folder)).pad_token == "</s>"
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("part", ["eos_token", "bos_token"])
def test_special_tokens_that_every_text_needs_are_refused_without_a_row(tmp_path, capsys, part):
    base, tokenizer = load_base(str(STORIES), torch.float32)
    tokenizer.add_special_tokens({part: "<|new|>"})
    if part == "bos_token":
        from tokenizers import processors

        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single="<|new|> $A", special_tokens=[("<|new|>", 512)]
        )
    model = saved(tmp_path / "model", base, tokenizer)
    out = tmp_path / "run"
    capsys.readouterr()  # progress bars
    assert main(["train", "imdb", "--model", model, "--out", str(out), *SMALL]) == 2
    start, error = capsys.readouterr().err.splitlines()
    assert "is not the embedded model" in start
    assert "a row for each special token of its tokenizer, got 512 rows and '<|new|>'" in error
    assert not out.exists()


def test_an_added_token_in_a_query_is_refused_without_a_row():
    base, tokenizer = load_base(str(STORIES), torch.float32)
    tokenizer.add_tokens(["<think>"])
    policy = LLMPolicy(name="llm_0", backbone=model_backbone("llama", loaded=(base, tokenizer)))
    with pytest.raises(ValueError, match=r"512 in all, got '.*<think>' with id 512"):
        policy.generate(["a <think> b"], max_new_tokens=2)


def test_saved_models_keep_their_rows(tmp_path):
    backbone = make_backbone("padded", adapter="full")
    backbone.save_pretrained("llm_0", tmp_path)
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path).get_input_embeddings().num_embeddings == 576
    )
