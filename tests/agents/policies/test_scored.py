"""Scores of given texts: brute force, one text at a time without padding, and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from agents.models.files import EMBEDDED_MODEL
from agents.models.make import make_backbone
from agents.models.tiny import keyboard_model
from agents.policies import scored
from agents.policies.llm import LLMPolicy
from agents.policies.load import load_policy
from agents.policies.scored import spans

PROMPTS = ["Row 1, column 2. Go", "The fil", "Go"]
CANDIDATES = [" left", "m", "m star", " left and right, then up"]


@pytest.fixture(scope="module")
def embedded() -> LLMPolicy:
    return load_policy(EMBEDDED_MODEL, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def letters() -> LLMPolicy:
    return letter_policy()


def letter_policy(*, temperature: float = 1.0, label: str = "") -> LLMPolicy:
    base, tokenizer = keyboard_model(seed=0)
    backbone = make_backbone(
        base, tokenizer, ["llm_0"], adapter="full", rank=4, dtype=torch.float32,
        device=torch.device("cpu"), seed=0,
    )  # fmt: skip
    return LLMPolicy(name="llm_0", backbone=backbone, temperature=temperature, label=label)


def one_by_one(policy: LLMPolicy, prompt: str, candidate: str, how: str) -> torch.Tensor:
    """Score a candidate by the model as a whole, and by the tokens' own places in the text."""
    tokenizer = policy.backbone.tokenizer
    joint = tokenizer(policy.label + prompt + candidate, return_offsets_mapping=True)
    ids, ends = joint["input_ids"], [end for _, end in joint["offset_mapping"]]
    with policy.backbone.use_adapter(policy.adapter) as model:
        logits = model(input_ids=torch.tensor([ids])).logits[0] / policy.temperature
    log_probs = logits.log_softmax(-1)
    inside = [n for n, end in enumerate(ends) if end > len(policy.label + prompt)]
    total = sum(log_probs[n - 1, ids[n]] for n in inside)
    return total / {"sum": 1, "token": len(inside), "word": len(candidate.split())}[how]


@pytest.mark.parametrize("how", ["sum", "token", "word"])
@pytest.mark.parametrize("which", ["embedded", "letters", "warm", "labelled"])
def test_scores_equal_those_of_one_text_at_a_time(which, how, request):
    policy = {
        "embedded": lambda: request.getfixturevalue("embedded"),
        "letters": lambda: request.getfixturevalue("letters"),
        "warm": lambda: letter_policy(temperature=2.0),
        "labelled": lambda: letter_policy(label="Right. "),
    }[which]()
    found = policy.score_texts(PROMPTS, CANDIDATES, normalise=how)
    assert found.dtype == torch.float32
    expected = [[one_by_one(policy, p, c, how) for c in CANDIDATES] for p in PROMPTS]
    torch.testing.assert_close(
        found, torch.stack([torch.stack(row) for row in expected]), atol=1e-5, rtol=1e-5
    )


def test_a_score_does_not_depend_on_what_else_is_scored(embedded):
    together = embedded.score_texts(PROMPTS, CANDIDATES)
    for row, prompt in enumerate(PROMPTS):
        for column, candidate in enumerate(CANDIDATES):
            alone = embedded.score_texts([prompt], [candidate])[0, 0]
            torch.testing.assert_close(alone, together[row, column], atol=1e-5, rtol=1e-5)


def test_a_candidate_begins_with_the_token_that_it_shares_with_the_prompt(embedded):
    tokenizer = embedded.backbone.tokenizer
    (merged, behind, apart) = spans(embedded, "", "The fil", ["m", " left", "m star"])
    film = tokenizer.encode(" film", add_special_tokens=False)
    assert len(film) == 1
    assert list(merged.ids[merged.start :]) == film  # " fil" and "m" apart would be other tokens
    assert merged.start == len(tokenizer.encode("The"))
    assert behind.start > merged.start
    assert apart.start == merged.start


def test_without_offsets_a_candidate_begins_where_the_tokens_are_others(embedded, monkeypatch):
    kind = type(embedded.backbone.tokenizer)
    with_offsets = spans(embedded, "", "The fil", CANDIDATES)
    monkeypatch.setattr(kind, "is_fast", property(lambda self: False))
    assert spans(embedded, "", "The fil", CANDIDATES) == with_offsets


def test_what_is_read_by_several_is_read_once(embedded, monkeypatch):
    read = []
    hidden = type(embedded.backbone).hidden

    def counted(self, name, ids, *rest):
        read.append(tuple(ids.shape))
        return hidden(self, name, ids, *rest)

    monkeypatch.setattr(type(embedded.backbone), "hidden", counted)
    prompts = ["Row 1. Go", "Row 2. Go"] * 50
    scores = embedded.score_texts(prompts, [" left", " right", " up", " down"])
    assert sum(rows for rows, _ in read) == 2
    assert torch.equal(scores[0], scores[98])


def test_gradients_are_those_of_one_text_at_a_time(monkeypatch):
    monkeypatch.setattr(scored, "CHUNK_TOKENS", 5)  # several chunks, which are recomputed
    policy, weights = letter_policy(), torch.tensor([[1.0, -2, 3, 0.5]] * 3)
    weights *= torch.tensor([[1.0], [-1], [2]])
    sums = [
        (policy.score_texts(PROMPTS, CANDIDATES) * weights).sum(),
        sum(
            one_by_one(policy, p, c, "sum") * weights[row, column]
            for row, p in enumerate(PROMPTS)
            for column, c in enumerate(CANDIDATES)
        ),
    ]
    parameters = list(policy.parameters().values())
    found, expected = (torch.autograd.grad(total, parameters) for total in sums)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert any(float(one.abs().max()) > 0.1 for one in found)


def test_sums_prefer_short_texts_and_shares_do_not(letters):
    # An untrained model says each of its 97 characters about as often: a text of 2 characters and
    # one word against one of 12 characters and six words.
    candidates = [" a", " a b c d e f"]
    probs = {
        how: letters.score_texts(["Go"], candidates, normalise=how).softmax(-1)[0].tolist()
        for how in ("sum", "token", "word")
    }
    assert probs["sum"][0] > 0.99
    for how in ("token", "word"):
        assert 1 / 3 < probs[how][0] / probs[how][1] < 3
    short = float(letters.score_texts(["Go"], [" a"]))
    assert short == pytest.approx(-2 * math.log(97), abs=1.0)


@pytest.mark.parametrize(
    ("prompts", "candidates", "line"),
    [
        ([], ["a"], "at least one prompt and one candidate, got 0 and 1"),
        (["a"], [], "at least one prompt and one candidate, got 1 and 0"),
        (["a"], ["b", ""], "a prompt and a candidate of at least one token each"),
        ([""], ["a"], "a prompt and a candidate of at least one token each"),
        (["a" * 1020], ["bcdef"], "context of 1024 tokens, got 1025 tokens"),
    ],
)
def test_what_cannot_be_scored_is_refused(letters, prompts, candidates, line):
    with pytest.raises(ValueError, match=line):
        letters.score_texts(prompts, candidates)
