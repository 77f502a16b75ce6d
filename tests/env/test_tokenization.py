import copy
import pickle
from typing import ClassVar

import numpy as np
import pytest

import cory_env
from cory_env.testing import check_tokenizer
from cory_env.tokenization import (
    ByteTokenizer,
    FileTokenizer,
    HuggingFaceTokenizer,
    SymbolTokenizer,
    load_tokenizer,
)
from cory_env.types import Tokenizer

TEXTS = ["", " was a joy.", "It's 1999, isn't it?\n", "Amélie — 🎬", "<|endoftext|>", "  x  "]


@pytest.fixture(params=["embedded", "byte"])
def tokenizer(request):
    return load_tokenizer(request.param)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_whole_and_never_holds_the_end_token(tokenizer, text):
    ids = tokenizer.encode(text, begin=False)
    assert tokenizer.eos_token_id not in ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id]) == text


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copy_reads_alike(tokenizer, copied):
    twin = copied(tokenizer)
    assert [twin.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_the_embedded_tokenizer_begins_a_prompt_and_continues_a_response():
    tokenizer = load_tokenizer("embedded")
    assert isinstance(tokenizer, FileTokenizer)
    continued = tokenizer.encode("This film", begin=False)
    assert tokenizer.encode("This film") == [tokenizer.eos_token_id, *continued]


def test_bytes_are_their_own_ids():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé") == [97, 195, 169]
    assert tokenizer.decode([97, 195]) == "a\ufffd"
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (257, 256)


def test_symbols_are_numbered_from_one():
    tokenizer = SymbolTokenizer("ab>")
    assert tokenizer.encode("ba>") == [2, 1, 3]
    assert tokenizer.decode([2, 1, 0, 3]) == "ba>"
    assert tokenizer.vocab_size == 4
    with pytest.raises(ValueError, match=r"out of 'ab>', got 'c' in 'abc'"):
        tokenizer.encode("abc")
    with pytest.raises(ValueError, match="distinct characters, got 'aba'"):
        SymbolTokenizer("aba")


def test_a_tokenizer_without_the_end_token_is_refused():
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    with pytest.raises(ValueError, match="endoftext"):
        FileTokenizer(Backend(WordLevel({"a": 0}, unk_token="a")).to_str())


class FakeTransformersTokenizer:
    """What `transformers` offers, and how it behaves by default."""

    all_special_ids = (0, 1)
    added_tokens_decoder: ClassVar = {}
    unk_token = unk_token_id = None

    def __init__(self, eos_token_id=0):
        self.eos_token_id = eos_token_id

    def get_vocab(self):
        return {"<end>": 0, "<begin>": 1, "<": 3, "a": 6}

    def encode(self, text, *, add_special_tokens=True, split_special_tokens=False):
        ids = ["01ab ".index(letter) for letter in text if letter in "ab "]
        ids = ids if split_special_tokens else [0]
        return [1, *ids] if add_special_tokens else ids

    def decode(self, ids, *, skip_special_tokens=False, clean_up_tokenization_spaces=True):
        if not skip_special_tokens or clean_up_tokenization_spaces:
            return "unlike what was written"
        return "".join("01ab "[i] for i in ids if 1 < i < 5)

    def convert_ids_to_tokens(self, ids):
        return [str(i) for i in ids]


def test_a_transformers_tokenizer_is_adapted():
    tokenizer = load_tokenizer(FakeTransformersTokenizer())
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (7, 0)
    assert tokenizer.encode("<b a") == [1, 3, 4, 2]
    assert tokenizer.encode(" a", begin=False) == [4, 2]
    assert tokenizer.decode((4, 3, 0)) == tokenizer.decode((4, 3, 0), begin=False) == " b"
    with pytest.raises(ValueError, match="eos_token_id None"):
        load_tokenizer(FakeTransformersTokenizer(eos_token_id=None))


def test_a_transformers_tokenizer_may_answer_for_its_end_token_when_asked():
    """As those of transformers 5 do; `isinstance` finds no such attribute from Python 3.12 on."""

    class Asked(FakeTransformersTokenizer):
        def __init__(self):
            pass

        def __getattr__(self, name):
            if name == "eos_token_id":
                return 0
            raise AttributeError(name)

    assert isinstance(load_tokenizer(Asked()), HuggingFaceTokenizer)


def test_an_object_with_the_methods_is_taken_as_it_is(tmp_path):
    symbols = SymbolTokenizer("ab")
    assert load_tokenizer(symbols) is symbols
    embedded = load_tokenizer("embedded")
    path = tmp_path / "tokenizer.json"
    path.write_text(embedded.__reduce__()[1][0], encoding="utf-8")
    for source in (path, str(path)):
        assert load_tokenizer(source).encode("This film") == embedded.encode("This film")


@pytest.mark.parametrize(
    "tokenizer", [load_tokenizer("byte"), load_tokenizer("embedded"), SymbolTokenizer("aé ")]
)
def test_whether_a_prompt_fits_is_what_its_encoding_says(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(rng.choice(list("aé "), size=rng.integers(12)))
        length = len(tokenizer.encode(text))
        assert [tokenizer.fits(text, n) for n in range(30)] == [1 <= length <= n for n in range(30)]


def test_a_tokenizer_that_adds_spaces_counts_them():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    adds = Tokenizer(models.BPE({"<|endoftext|>": 0, "Ġ": 1, "1": 2}, []))
    adds.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]
    )
    adds.decoder = decoders.ByteLevel()
    tokenizer = FileTokenizer(adds.to_str())
    assert len(tokenizer.encode("111")) == 6
    assert not tokenizer.fits("111", 5)
    assert tokenizer.fits("111", 6)


def word_tokenizer(template="$A"):
    """Return a file whose vocabulary holds the end token as a word like any other."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({"?": 0, "<|endoftext|>": 1, "a": 2, "b": 3}, "?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<|endoftext|>"])
    words.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<|endoftext|>", 1)]
    )
    return FileTokenizer(words.to_str())


@pytest.mark.parametrize("text", ["a <|endoftext|> b", "<|endoftext|>", "a <|endoftext|>" * 3])
def test_a_text_that_spells_a_word_of_control_is_encoded_in_parts(text):
    tokenizer = word_tokenizer()
    for begin in (True, False):
        assert 1 not in tokenizer.encode(text, begin=begin)
    env = cory_env.env("imdb", tokenizer=tokenizer, action_level="response", max_new_tokens=8)
    env.reset(options={"example": cory_env.Example("a b")})
    env.step(text)
    said = env.state()[env.unwrapped.rules.max_prompt_tokens :][:8].tolist()
    assert said[0] in (0, 2)
    assert 1 not in said[: said.index(-1) - 1], "the end token stands at the end"


def test_a_prompt_does_not_end_though_the_template_ends_texts():
    tokenizer = word_tokenizer("<|endoftext|> $A <|endoftext|>")
    assert tokenizer.encode("a b") == [1, 2, 3]
    assert tokenizer.encode("a b", begin=False) == [2, 3]
    assert [tokenizer.fits("a b", n) for n in (2, 3)] == [False, True]


def test_a_character_of_which_only_the_end_token_can_speak_is_refused():
    from tokenizers import Tokenizer, models

    one = FileTokenizer(Tokenizer(models.WordLevel({"<|endoftext|>": 0}, "<|endoftext|>")).to_str())
    with pytest.raises(ValueError, match="without special tokens, got the character 'x'"):
        one.encode("x")


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (lambda self, ids, begin=True: bytes(ids).decode(errors="replace").lstrip(), "behind"),
        (lambda self, ids, begin=True: bytes(ids).decode(errors="replace") + "s", "response"),
    ],
)
def test_check_tokenizer_finds_the_flaw(flaw, message):
    check_tokenizer(ByteTokenizer())
    check_tokenizer(SymbolTokenizer("ab"))
    check_tokenizer(load_tokenizer("embedded"))
    with pytest.raises(AssertionError, match=message):
        check_tokenizer(type("Flawed", (ByteTokenizer,), {"decode": flaw})())


def test_a_growing_response_shows_whole_characters():
    rules = cory_env.env("imdb", tokenizer="byte").unwrapped.rules
    ids = list("a\né🎬".encode())
    shown = [rules.text_so_far(ids[:n]) for n in range(len(ids) + 1)]
    assert shown == ["", "a", "a\n", "a\n", "a\né", "a\né", "a\né", "a\né", "a\né🎬"]
    assert rules.text_so_far([0xC3] * 9) == "\ufffd" * 9
