import json
import shutil
import string

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from agents.cli.main import main
from agents.rewards.classifier import ClassifierReward
from cory_env.types import Example

WORDS = ["a", "bad", "film", "good", "is", "my", "not", "the", "this", "was"]
CONTEXT = 12
ROUNDING = 1e-5  # float32 sums of this small model; another text's logit differs by more than 1e-2


def build_config(num_labels: int = 3):
    return DistilBertConfig(
        vocab_size=len(WORDS) + 4,
        dim=16,
        hidden_dim=32,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        num_labels=num_labels,
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
        tokenizer_object=backend,
        **{"pad_token": pad_token, "unk_token": "[UNK]", "cls_token": "[CLS]"},
        **{"sep_token": "[SEP]", "padding_side": "left"},
    )


def save_classifier(folder, tokenizer=None, model=None):
    torch.manual_seed(0)
    model = model or DistilBertForSequenceClassification(build_config())
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
def two(tmp_path_factory):
    """A classifier with two labels, of which the second is meant if none is named."""
    model = DistilBertForSequenceClassification(build_config(2))
    return save_classifier(tmp_path_factory.mktemp("two"), model=model)


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
def test_scores_equal_one_forward_pass_per_text_in_order(two, texts, batch_size):
    examples = [Example(text[:3]) for text in texts]
    scores = ClassifierReward(two, batch_size=batch_size)(examples, [text[3:] for text in texts])
    assert scores.shape == (23,)
    assert scores.dtype == np.float64
    expected = [score_one(two, text) for text in texts]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=ROUNDING)
    assert np.std(expected) > 0.1  # else any order would do


def test_padding_does_not_change_a_score(two):
    reward = ClassifierReward(two)
    padded = reward.logits(["this film", "this film was not a bad film"])[0]
    assert padded == pytest.approx(reward.logits(["this film"])[0], abs=ROUNDING)


@pytest.mark.parametrize(
    ("label", "index"), [(0, 0), (2, 2), ("2", 2), ("LABEL_0", 0), ("label_2", 2)]
)
def test_the_positive_label_picks_the_logit(folder, label, index):
    reward = ClassifierReward(folder, positive_label=label)
    score = reward.logits(["my film"])[0]
    assert score == pytest.approx(score_one(folder, "my film", index), abs=ROUNDING)
    assert reward.description == f"logit of label {index} (LABEL_{index}) of {folder}"


def test_of_three_labels_one_must_be_named(folder):
    with pytest.raises(ValueError, match=r"0 \(LABEL_0\), 1 \(LABEL_1\), 2 \(LABEL_2\), got none"):
        ClassifierReward(folder)


@pytest.mark.parametrize("names", [("0", "1"), ("1", "0")])
def test_a_label_that_is_called_a_number_is_found_by_its_name(tmp_path, names):
    model = DistilBertForSequenceClassification(build_config(2))
    model.config.id2label = dict(enumerate(names))
    save_classifier(tmp_path, model=model)
    for name in names:
        reward = ClassifierReward(tmp_path, positive_label=name)
        expected = score_one(tmp_path, "my film", names.index(name))
        assert reward.logits(["my film"])[0] == pytest.approx(expected, abs=ROUNDING)


def test_the_reward_of_a_model_with_one_output_is_its_logit(tmp_path):
    save_classifier(tmp_path, model=DistilBertForSequenceClassification(build_config(1)))
    score = ClassifierReward(tmp_path).logits(["my film"])[0]
    assert score == pytest.approx(score_one(tmp_path, "my film", 0), abs=ROUNDING)


def test_a_text_longer_than_the_context_loses_its_end(two):
    text = " ".join(WORDS)  # with [CLS] and [SEP] it fills the context
    scores = ClassifierReward(two).logits([f"{text} not good", text])
    np.testing.assert_allclose(scores, score_one(two, text), rtol=0, atol=ROUNDING)


def test_query_and_response_are_joined_untouched(two):
    # Joined, the halves are one known word; a space in between would make two unknown ones.
    score = ClassifierReward(two)([Example("this fi")], ["lm"])[0]
    assert score == pytest.approx(score_one(two, "this film"), abs=ROUNDING)


def test_scoring_twice_gives_the_same_scores(two, texts):
    reward = ClassifierReward(two)  # dropout is off
    np.testing.assert_array_equal(reward.logits(texts), reward.logits(texts))


def test_an_empty_batch_has_no_scores(two):
    assert ClassifierReward(two)([], []).shape == (0,)


def test_another_number_of_responses_than_examples_is_refused(two):
    with pytest.raises(ValueError, match="got 2 examples and 1 responses"):
        ClassifierReward(two)([Example("a"), Example("b")], ["c"])


@pytest.mark.parametrize("label", [-1, 3, "3", "good"])
def test_an_unknown_label_is_refused_with_those_there_are(folder, label):
    with pytest.raises(ValueError, match=rf"--reward-label.*1 \(LABEL_1\), .*got {label!r}"):
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


def test_a_configuration_without_a_padding_token_is_refused(tmp_path):
    save_classifier(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    with pytest.raises(ValueError, match="Expected a padding token"):
        ClassifierReward(tmp_path, positive_label=1)


@pytest.mark.parametrize("pad_token", ["the", None])
def test_padding_is_what_the_model_takes_for_it(tmp_path, texts, pad_token):
    """Classifiers on causal bodies read the last place that is none."""
    config = LlamaConfig(
        **{"vocab_size": len(WORDS) + 4, "hidden_size": 16, "intermediate_size": 32},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0, "num_labels": 1},
    )
    model = LlamaForSequenceClassification(config).eval()
    save_classifier(tmp_path, build_tokenizer(pad_token), model)
    together = ClassifierReward(tmp_path).logits(texts)
    alone = [ClassifierReward(tmp_path).logits([text])[0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=0, atol=ROUNDING)


# ---- special tokens in texts


@pytest.mark.parametrize("token", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
def test_a_special_token_that_a_text_spells_out_stays_text(tmp_path, token):
    """Or policies could write the control tokens of their judge."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.printable.strip()]
    names += ["##" + c for c in string.printable.strip()]
    backend = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    )
    config = BertConfig(
        **{"vocab_size": len(names), "hidden_size": 16, "num_hidden_layers": 1, "num_labels": 1},
        **{"num_attention_heads": 2, "intermediate_size": 16, "initializer_range": 0.5},
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    score = ClassifierReward(tmp_path)([Example("ab ")], [f"c {token} {token}"])[0]
    spelt = [2]
    for word in ["ab", "c", *[p for _ in range(2) for p in ("[", token[1:-1], "]")]]:
        spelt += [names.index(word[0]), *(names.index("##" + c) for c in word[1:])]
    with torch.no_grad():
        expected = float(model(input_ids=torch.tensor([[*spelt, 3]])).logits[0, 0])
    assert score == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("text", ["my [PAD] film", "[SEP] good", "the film [UNK]", "[CLS]"])
def test_a_special_token_that_is_a_word_of_the_vocabulary_stays_text(two, text):
    reward, seen = ClassifierReward(two), []
    reward._model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    reward.logits([text])
    begin, *words, end = seen[0]
    assert (begin, end) == (2, 3)
    assert not {0, 2, 3} & set(words), "a control token has come of a text"
    known = [WORDS.index(word) + 4 for word in text.split() if word in WORDS]
    assert [i for i in words if i > 3] == known


# ---- how much a classifier reads


ROBERTA = {
    **{"vocab_size": len(WORDS) + 4, "hidden_size": 16, "num_hidden_layers": 1, "num_labels": 1},
    **{"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": CONTEXT + 2},
}


@pytest.mark.parametrize(
    ("model", "context"),
    [
        # RoBERTa's positions begin behind that of its padding, which are lost.
        (RobertaForSequenceClassification(RobertaConfig(**ROBERTA, pad_token_id=1)), CONTEXT),
        (RobertaForSequenceClassification(RobertaConfig(**ROBERTA, pad_token_id=0)), CONTEXT + 1),
        (BertForSequenceClassification(BertConfig(**ROBERTA)), CONTEXT + 2),
    ],
    ids=["roberta", "roberta-pad-0", "bert"],
)
def test_a_text_is_cut_where_the_positions_of_the_model_end(tmp_path, model, context):
    save_classifier(tmp_path, model=model.eval())
    words = WORDS * 3
    longest = ClassifierReward(tmp_path).logits([" ".join(words[: context - 2])])
    longer = ClassifierReward(tmp_path).logits([" ".join(words)])
    np.testing.assert_allclose(longer, longest, rtol=0, atol=ROUNDING)
    shorter = ClassifierReward(tmp_path).logits([" ".join(words[: context - 3])])
    assert abs(longer[0] - shorter[0]) > 100 * ROUNDING, "the last word is not read"


def test_a_context_that_the_model_does_not_have_is_found_before_the_run(two, monkeypatch):
    monkeypatch.setattr("agents.rewards.classifier._context", lambda *_: CONTEXT + 1)
    with pytest.raises(ValueError, match=rf"reads {CONTEXT + 1} tokens.*Set model_max_length"):
        ClassifierReward(two)


# ---- as a user names it


def test_the_label_of_a_classifier_is_a_flag_shown_and_recorded(folder, tmp_path, capsys):
    argv = ["train", "imdb", "--iterations", "1", "--batch-size", "4", "--minibatch-size", "4"]
    argv += ["--max-new-tokens", "4", "--evaluation-queries", "0", "--dtype", "float32"]
    argv += ["--out", str(tmp_path / "run"), "--reward"]
    assert main([*argv, str(folder)]) == 2
    assert "got none" in capsys.readouterr().err
    assert main([*argv, str(folder), "--reward-label", "LABEL_2"]) == 0
    assert "logit of label 2 (LABEL_2) of" in " ".join(capsys.readouterr().out.split())
    [entry] = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert entry["reward"] == f"logit of label 2 (LABEL_2) of {folder}"
    shutil.rmtree(tmp_path / "run")
    assert main([*argv, "sentiment", "--reward-label", "1"]) == 2
    assert "which has no labels: leave out --reward-label" in capsys.readouterr().err


def test_code_that_a_model_brings_along_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "custom.py").write_text(f"open({str(ran)!r}, 'w')\nclass CustomConfig: ...\n")
    auto_map = {"AutoConfig": "custom.CustomConfig"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    with pytest.raises(ValueError, match="Expected a sequence classifier"):
        ClassifierReward(tmp_path)
    assert not ran.exists()
