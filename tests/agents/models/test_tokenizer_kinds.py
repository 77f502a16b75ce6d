"""Every kind of tokenizer: what is written is read, both ways, and no text is a special token."""

from __future__ import annotations

import itertools
import unicodedata
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import cory_env
from agents.models.chat import ChatTokenizer, prompt_ids
from agents.models.loading import load_hf_tokenizer
from agents.models.make import make_backbone
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.rollouts.collect import collect
from cory_env.options import make_rules
from cory_env.rendering import transcript
from cory_env.testing import check_tokenizer, replay
from cory_env.tokenization import FileTokenizer, HuggingFaceTokenizer
from tests.agents.policies.test_llm import reference_hidden
from tests.agents.small_models import STORIES
from tests.agents.tokenizer_kinds import KINDS, SAY_ALL, SPECIAL, make_tokenizer

PROMPTS = ("The dog was", "one, two: ", "12 + 30 =", "é", "It's the end.\n")
ODD = (" ", "  ", "\n", "\t", "é", "e\u0301", "€", "🎬", "\x00", "</s>", "<|user|>", *SPECIAL)
words = st.lists(st.text("abdeghintwzBT19", min_size=1, max_size=5), min_size=1, max_size=5)
texts = st.lists(words.map(" ".join) | st.sampled_from(ODD) | st.text(max_size=3)).map("".join)
quick = settings(
    max_examples=10, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def codec(kind, **options) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(make_tokenizer(kind, **options))


def written(kind, text):
    """Return the text as the kind's normalizer leaves it."""
    if kind == "qwen":
        return unicodedata.normalize("NFC", text)
    return text if "gpt2" in kind or kind == "llama3" else text.replace("▁", " ")


def expect_added(before, joint, text):
    """Find a text behind a prompt's; one of no text is none, and broken bytes may break its own."""
    assert joint == before + text or not before or not joint.startswith(before)


def library_text(kind, ids):
    backend = codec(kind).backend
    return backend.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("kind", SAY_ALL)
@quick
@given(texts)
def test_a_response_of_any_text_comes_back_and_holds_no_special_token(kind, text):
    tokenizer = codec(kind, begins=True, ends=True)
    ids = tokenizer.encode(text, begin=False)
    assert tokenizer.decode(ids, begin=False) == written(kind, text)
    assert tokenizer.special.isdisjoint(ids)


@every_kind
@quick
@given(words.map(" ".join), st.booleans())
def test_words_come_back_whether_they_begin_one_or_continue_one(kind, text, begins_word):
    tokenizer = codec(kind)
    text = " " * begins_word + text
    expected = text.lower() if kind == "bert-uncased" else text
    assert tokenizer.decode(tokenizer.encode(text, begin=False), begin=False) == expected


@every_kind
@quick
@given(words.map(" ".join), words.map(" ".join))
def test_query_and_response_are_read_as_they_are_alone(kind, query, response):
    tokenizer = codec(kind, begins=True)
    apart = [*tokenizer.encode(query), *tokenizer.encode(" " + response, begin=False)]
    assert tokenizer.encode(f"{query} {response}") == apart


@every_kind
@quick
@given(st.sampled_from(PROMPTS), st.data())
def test_the_text_of_any_ids_is_what_they_add_to_a_prompt(kind, prompt, data):
    tokenizer = codec(kind, begins=True)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    read = tokenizer.encode(prompt)
    expect_added(library_text(kind, read), library_text(kind, [*read, *ids]),
                 tokenizer.decode(ids, begin=False))  # fmt: skip
    assert tokenizer.decode([], begin=False) == ""


@every_kind
@quick
@given(texts, st.booleans(), st.booleans())
def test_a_prompt_begins_as_the_template_says_and_never_ends(kind, text, begins, ends):
    tokenizer = codec(kind, begins=begins, ends=ends)
    ids = tokenizer.encode(text)
    first = tokenizer.backend.convert_tokens_to_ids(["<s>"])[:begins]
    assert ids[:begins] == first
    unknown = {tokenizer.backend.unk_token_id}
    assert (tokenizer.special - unknown).isdisjoint(ids[begins:])
    assert tokenizer.fits(text, len(ids)) == (len(ids) > 0)
    assert not tokenizer.fits(text, len(ids) - 1)
    assert prompt_ids(tokenizer.backend, [text, "Hi"])[0] == ids


@every_kind
@quick
@given(words.map(" ".join))
def test_a_prompt_of_words_comes_back(kind, text):
    tokenizer = codec(kind, begins=True, ends=True)
    expected = text.lower() if kind == "bert-uncased" else text
    shown = tokenizer.decode(tokenizer.encode(text))
    assert shown == (" " + text if kind == "gpt2-prefix-space" else expected)


@every_kind
@quick
@given(texts)
def test_a_message_in_a_chat_template_holds_no_special_token(kind, text):
    chat = ChatTokenizer(make_chat(kind))
    honest, ids = chat.encode("Hi"), chat.encode(text)
    control = chat.special - {chat.backend.unk_token_id}
    assert [i for i in ids if i in control] == [i for i in honest if i in control]


@cache
def make_chat(kind):
    return make_tokenizer(kind, begins=True, ends=True, chats=True)


@every_kind
@quick
@given(texts)
def test_a_file_is_read_as_the_library_object_is(kind, text):
    tokenizer = codec(kind, begins=True, ends=True)
    file = from_file(kind)
    for begin in (True, False):
        ids = tokenizer.encode(text, begin=begin)
        assert file.encode(text, begin=begin) == ids
        assert file.decode(ids, begin=begin) == tokenizer.decode(ids, begin=begin)
    assert file.fits(text, 9) == tokenizer.fits(text, 9)


@cache
def from_file(kind):
    return FileTokenizer(codec(kind, begins=True, ends=True).backend.backend_tokenizer.to_str())


@every_kind
@quick
@given(texts)
def test_what_is_shown_of_a_growing_response_only_grows(kind, text):
    rules = rules_of(kind)
    ids = rules.tokenizer.encode(text.replace("\ufffd", ""), begin=False)
    shown = [rules.text_so_far(ids[:n]) for n in range(len(ids) + 1)]
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(shown))
    if ids:
        seen = transcript(rules, rules.start(cory_env.Example("ab>")), played=ids[:1])
        assert f"answers so far: {shown[1]!r}" in seen


@cache
def rules_of(kind):
    return make_rules("toy", tokenizer=codec(kind))


@every_kind
def test_it_passes_the_check_for_plug_ins(kind):
    for options in ({"begins": True}, {"ends": True}, {"pads": False}):
        check_tokenizer(codec(kind, **options))
    check_tokenizer(ChatTokenizer(make_chat(kind)))


@every_kind
@pytest.mark.parametrize(
    "options", [{"begins": True, "ends": True}, {"pads": False, "chats": True}]
)
def test_what_a_policy_writes_is_what_everybody_reads(kind, options):
    policies = {"pioneer_0": policy_of(kind, **options)}
    policies["observer_0"] = policies["pioneer_0"]
    backbone = policies["pioneer_0"].backbone
    judged = []

    def reward(examples, responses):
        judged.append(list(responses))
        return torch.zeros(len(responses)).numpy()

    game = {"reward": reward, "max_new_tokens": 10, "max_prompt_tokens": 400,
            "tokenizer": ChatTokenizer(backbone.tokenizer)}  # fmt: skip
    games = cory_env.vector_env(len(PROMPTS), "imdb", **game)
    draws = {role: draw_uniforms(len(PROMPTS), 10, torch.Generator().manual_seed(i))
             for i, role in enumerate(policies)}  # fmt: skip
    examples = [cory_env.Example(prompt) for prompt in PROMPTS]
    rollout = collect(games, policies, draws, examples=examples)
    pioneer, observer = rollout.turns
    for turn in rollout.turns:
        policy, tokens = policies[turn.role], turn.tokens
        for b, text in enumerate(turn.responses):
            read = tokens.prompt_ids[b][tokens.prompt_mask[b]].tolist()
            said = tokens.response_ids[b][tokens.response_mask[b]].tolist()
            expect_added(shown(backbone, read), shown(backbone, read + said), text)
        again = policy.generate(turn.prompts, max_new_tokens=10, uniforms=draws[turn.role])
        assert again.texts == turn.responses
        scores = policy.score(tokens, reference_hidden(backbone, tokens))
        # The ratio before the first update: float32 sums in another order, nothing more.
        assert torch.allclose(scores.log_probs, tokens.sampled_log_probs, atol=1e-4)
    [texts] = judged
    pairs = zip(pioneer.responses, observer.responses, strict=True)
    assert texts == [text for pair in pairs for text in pair]
    for query, text, prompt in zip(PROMPTS, pioneer.responses, observer.prompts, strict=True):
        assert query + text in prompt
    replay(games, cory_env.env("imdb", **game))


def shown(backbone, ids):
    return backbone.tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def policy_of(kind, **options) -> LLMPolicy:
    """Return an untrained policy whose vocabulary is padded by rows without a token."""
    tokenizer = make_tokenizer(kind, **options)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 7, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=512, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = LlamaForCausalLM(config).eval()
    backbone = make_backbone(base, tokenizer, ("llm_0",), adapter="lora", rank=2,
                             dtype=torch.float32, device=torch.device("cpu"), seed=0)  # fmt: skip
    return LLMPolicy(name="llm_0", backbone=backbone)


def test_the_words_of_a_sentence_piece_response_stay_apart():
    tokenizer = load_hf_tokenizer(str(STORIES))
    ids = tokenizer("The dog was big and happy", add_special_tokens=False)["input_ids"]
    place = tokenizer.convert_ids_to_tokens(ids).index("▁big")
    games = cory_env.vector_env(1, "imdb", tokenizer=tokenizer)
    games.reset(examples=[cory_env.Example("The dog was")])
    [prompt] = games.step([ids[place:]])
    assert '"The dog was big and happy"' in prompt
    assert games.states[0].responses[0].text == " big and happy"
    level = cory_env.env("imdb", action_level="response", tokenizer=tokenizer)
    level.reset(options={"example": cory_env.Example("The dog was big")})
    level.step("ger than that")
    assert level.infos["pioneer_0"]["response"] == "ger than that"
    assert '"The dog was bigger than that"' in level.infos["observer_0"]["prompt"]


def test_a_fullwidth_end_token_that_a_normalizer_makes_one_stays_text():
    tokenizer = codec("xglm")
    assert tokenizer.eos_token_id in tokenizer.backend.encode(
        "＜|endoftext|＞", add_special_tokens=False, split_special_tokens=True
    ), "the library alone would read it"
    ids = tokenizer.encode("a ＜|endoftext|＞ b")
    assert tokenizer.special.isdisjoint(ids)
    assert tokenizer.decode(ids) == "a <|endoftext|> b"
