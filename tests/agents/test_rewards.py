import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from agents.rewards import ClassifierReward
from cory_env.types import Example

WORDS = ["a", "bad", "film", "good", "is", "my", "not", "the", "this", "was"]
CONTEXT = 12
ROUNDING = 1e-5  # float32 sums of this small model; another text's logit differs by more than 1e-2


def build_config():
    return DistilBertConfig(
        vocab_size=len(WORDS) + 4,
        dim=16,
        hidden_dim=32,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        num_labels=3,
    )


def build_tokenizer(pad_token: str | None = "[PAD]"):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    vocabulary = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # No model_max_length: like many a tokenizer on the hub, it knows nothing of the context.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad_token, unk_token="[UNK]", padding_side="left"
    )


def save_classifier(folder, tokenizer=None):
    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(build_config())
    with torch.no_grad():
        # The default initialisation (std 0.02) would leave all texts with almost the same logit.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    (tokenizer or build_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=n)) for n in rng.integers(0, 10, size=23)]


def score_one(folder, text, label=1):
    """One unpadded forward pass, with ids looked up by hand."""
    model = DistilBertForSequenceClassification.from_pretrained(folder).eval()
    words = [WORDS.index(word) + 4 for word in text.split()][: CONTEXT - 2]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([[2, *words, 3]])).logits[0, label])


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_equal_one_forward_pass_per_text_in_order(folder, texts, batch_size):
    examples = [Example(text[:3]) for text in texts]
    scores = ClassifierReward(folder, batch_size=batch_size)(examples, [text[3:] for text in texts])
    assert scores.shape == (23,)
    assert scores.dtype == np.float64
    expected = [score_one(folder, text) for text in texts]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=ROUNDING)
    assert np.std(expected) > 0.1  # else any order would do


def test_padding_does_not_change_a_score(folder):
    reward = ClassifierReward(folder)
    padded = reward.logits(["this film", "this film was not a bad film"])[0]
    assert padded == pytest.approx(reward.logits(["this film"])[0], abs=ROUNDING)


@pytest.mark.parametrize("label", [0, 2])
def test_the_positive_label_picks_the_logit(folder, label):
    score = ClassifierReward(folder, positive_label=label).logits(["my film"])[0]
    assert score == pytest.approx(score_one(folder, "my film", label), abs=ROUNDING)


def test_a_text_longer_than_the_context_loses_its_end(folder):
    text = " ".join(WORDS)  # with [CLS] and [SEP] it fills the context
    scores = ClassifierReward(folder).logits([f"{text} not good", text])
    np.testing.assert_allclose(scores, score_one(folder, text), rtol=0, atol=ROUNDING)


def test_query_and_response_are_joined_untouched(folder):
    # Joined, the halves are one known word; a space in between would make two unknown ones.
    score = ClassifierReward(folder)([Example("this fi")], ["lm"])[0]
    assert score == pytest.approx(score_one(folder, "this film"), abs=ROUNDING)


def test_scoring_twice_gives_the_same_scores(folder, texts):
    reward = ClassifierReward(folder)  # dropout is off
    np.testing.assert_array_equal(reward.logits(texts), reward.logits(texts))


def test_an_empty_batch_has_no_scores(folder):
    assert ClassifierReward(folder)([], []).shape == (0,)


def test_another_number_of_responses_than_examples_is_refused(folder):
    with pytest.raises(ValueError, match="got 2 examples and 1 responses"):
        ClassifierReward(folder)([Example("a"), Example("b")], ["c"])


@pytest.mark.parametrize("label", [-1, 3])
def test_an_unknown_label_is_refused(folder, label):
    with pytest.raises(ValueError, match=rf"Expected positive_label in \[0, 2\].*got {label}"):
        ClassifierReward(folder, positive_label=label)


def test_a_batch_size_of_zero_is_refused(folder):
    with pytest.raises(ValueError, match="Expected batch_size >= 1, got 0"):
        ClassifierReward(folder, batch_size=0)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a sequence classifier.*got '.*nowhere'"):
        ClassifierReward(tmp_path / "nowhere")


def test_a_model_that_is_no_classifier_is_refused(tmp_path):
    DistilBertForMaskedLM(build_config()).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"sequence classifier.*DistilBertForMaskedLM"):
        ClassifierReward(tmp_path)


def test_a_classifier_without_its_head_is_refused(tmp_path):
    model = DistilBertForSequenceClassification(build_config())
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}
    model.save_pretrained(tmp_path, state_dict=weights)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the weights.*classifier\.weight"):
        ClassifierReward(tmp_path)


def test_a_tokenizer_without_a_padding_token_is_refused(tmp_path):
    save_classifier(tmp_path, build_tokenizer(pad_token=None))
    with pytest.raises(ValueError, match="Expected a padding token"):
        ClassifierReward(tmp_path)


def test_code_that_a_model_brings_along_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "custom.py").write_text(f"open({str(ran)!r}, 'w')\nclass CustomConfig: ...\n")
    auto_map = {"AutoConfig": "custom.CustomConfig"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    with pytest.raises(ValueError, match="Expected a sequence classifier"):
        ClassifierReward(tmp_path)
    assert not ran.exists()
