"""Bad input: an error of a stated type that names agent, value and legal range, and no trace.

After each error the game goes on, to its end and into the next episode, as its undisturbed twin.
"""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import cory_env
from cory_env import Example, Task
from cory_env.registry import REWARDS, TASKS
from cory_env.tokenization import ByteTokenizer
from tests.env.forms import FORMS, FORMS_AND_LEVELS
from tests.env.test_oracle import Spelling

A, B, C, END = 1, 2, 3, 0
TOY, BYTES = cory_env.make_task("toy").tokenizer, ByteTokenizer()


def start(form, level, task="toy", **options):
    """Return a game whose first agents are `llm_0` and `llm_1`; a seat is that of `llm_1`."""
    options = {"swap_every": 1, "seat": "llm_1", **options}
    return FORMS[form](task, action_level=level, **options)


def script_of(form, level, tokenizer=TOY):
    """Return the actions for "c" from the pioneer, if it is to be played, and "cba"."""
    if level == "response":
        turns = [["c"], ["cba"]]
    else:
        turns = [[*tokenizer.encode("c"), tokenizer.eos_token_id], tokenizer.encode("cba")]
    return turns[1] if form == "seat" else turns[0] + turns[1]


def play(game, actions):
    """Play on, and return all that was to be seen."""
    looks = []
    for action in actions:
        game.act(action)
        looks.append(game.look())
    return looks


def assert_undisturbed(game, twin, actions):
    """Play both to the end with these actions, and the next episode with the last of them."""
    assert data_equivalence(game.look(), twin.look(), exact=True)
    assert data_equivalence(play(game, actions), play(twin, actions), exact=True)
    assert game.on_turn is None
    for one in (game, twin):
        one.reset()
    assert data_equivalence(game.look(), twin.look(), exact=True)
    while twin.on_turn is not None:
        assert data_equivalence(play(game, actions[-1:]), play(twin, actions[-1:]), exact=True)


def expect_words(caught, *words):
    for word in words:
        assert str(word) in str(caught.value)


TOKENS = "from 0 to 11"
BAD_ACTIONS = {
    "token": [
        (12, ValueError, (TOKENS, "got 12")),
        (-1, ValueError, (TOKENS, "got -1")),
        (2**70, ValueError, (TOKENS, f"got {2**70}")),
        (np.int64(99), ValueError, (TOKENS, "99")),
        (1.0, TypeError, (TOKENS, "got 1.0")),
        (np.float32(1), TypeError, (TOKENS, "1.0")),
        (float("nan"), TypeError, (TOKENS, "got nan")),
        (None, TypeError, (TOKENS, "got None")),
        ("a", TypeError, (TOKENS, "got 'a'")),
        ([A], TypeError, (TOKENS, "got [1]")),
        (np.array([A, B]), TypeError, (TOKENS, "got array([1, 2])")),
    ],
    "response": [
        (None, TypeError, ("text or a sequence of token ids", "got None")),
        (3, TypeError, ("text or a sequence of token ids", "got 3")),
        (0.5, TypeError, ("text or a sequence of token ids", "got 0.5")),
        (b"a", TypeError, ("text or a sequence of token ids", "got b'a'")),
        ([0.5], TypeError, ("text or a sequence of token ids", "got [0.5]")),
        ([None], TypeError, ("text or a sequence of token ids", "got [None]")),
        ([[A]], TypeError, ("text or a sequence of token ids", "got [[1]]")),
        ([A, 12], ValueError, (TOKENS, "got 12")),
        ([-1], ValueError, (TOKENS, "got -1")),
        ([2**70], ValueError, (TOKENS, f"got {2**70}")),
        ([-1, 2**63], ValueError, (TOKENS, "got -1")),
        (np.array([END, 12]), ValueError, (TOKENS, "got 12")),
        ([A, B, C, A], ValueError, ("at most max_new_tokens=3", "got 4")),
        ("ab?", ValueError, ("'abcdefgh>,='", "'?'")),
        ("a\ud800", ValueError, (r"'\ud800'",)),
    ],
}


@pytest.mark.parametrize(
    ("form", "level", "action", "error", "words"),
    [
        pytest.param(form, level, *row, id=f"{form}-{level}-{row[0]!r}")
        for form, level in FORMS_AND_LEVELS
        for row in BAD_ACTIONS[level]
    ],
)
def test_an_illegal_action_is_named_and_leaves_no_trace(form, level, action, error, words):
    script = script_of(form, level)
    for moves in range(len(script)):
        game, twin = (start(form, level) for _ in range(2))
        for one in (game, twin):
            one.reset(seed=0)
            play(one, script[:moves])
        agent = game.on_turn
        with pytest.raises(error) as caught:
            game.act(action)
        expect_words(caught, agent, *words)
        assert_undisturbed(game, twin, script[moves:])


PARALLEL_ROWS = [
    ({"llm_0": A}, ValueError, ("['llm_0', 'llm_1']", "got ['llm_0']")),
    ({"llm_0": A, "llm_1": END, "x_0": END}, ValueError, ("['llm_0', 'llm_1']", "x_0")),
    ({}, ValueError, ("['llm_0', 'llm_1']", "got []")),
    (None, TypeError, ("['llm_0', 'llm_1']", "got None")),
    ({"llm_0": A, 1: END}, ValueError, ("['llm_0', 'llm_1']", "1")),
    ({"llm_0": A, "llm_1": 12}, ValueError, ("action of llm_1", "Discrete(12)", "got 12")),
    ({"llm_0": A, "llm_1": None}, ValueError, ("action of llm_1", "Discrete(12)", "got None")),
]


@pytest.mark.parametrize(("actions", "error", "words"), PARALLEL_ROWS)
def test_wrong_parallel_actions_are_named_and_leave_no_trace(actions, error, words):
    game, twin = (start("parallel", "token") for _ in range(2))
    for one in (game, twin):
        one.reset(seed=0)
    with pytest.raises(error) as caught:
        game.env.step(actions)
    expect_words(caught, *words)
    assert_undisturbed(game, twin, script_of("parallel", "token"))


@pytest.mark.parametrize(
    ("responses", "error", "words"),
    [
        (["a"], ValueError, ("2 responses of llm_0", "got 1")),
        (["a"] * 3, ValueError, ("2 responses of llm_0", "got 3")),
        ([], ValueError, ("2 responses of llm_0", "got 0")),
        ("ab", ValueError, ("2 responses of llm_0", "'ab'")),
        (None, TypeError, ("2 responses of llm_0", "got None")),
        (3, TypeError, ("2 responses of llm_0", "got 3")),
        (["a", None], TypeError, ("llm_0 in episode 1", "None")),
        (["a", [99]], ValueError, ("llm_0 in episode 1", TOKENS, "got 99")),
        (["a", "a\ud800"], ValueError, ("llm_0 in episode 1", r"'\ud800'")),
        (["a", "?"], ValueError, ("llm_0 in episode 1", "'?'")),
    ],
)
def test_a_wrong_batch_is_named_and_leaves_no_trace(responses, error, words):
    game, twin = (start("vector", "response") for _ in range(2))
    for one in (game, twin):
        one.reset(seed=0)
    with pytest.raises(error) as caught:
        game.env.step(responses)
    expect_words(caught, *words)
    assert_undisturbed(game, twin, script_of("vector", "response"))


class Spell(Task):
    """Asks for words in bytes; an observer reads the answers before its own."""

    name = "spell"
    reward = "match"
    tokenizer = ByteTokenizer()
    max_new_tokens = 3
    max_prompt_tokens = 12
    examples = tuple(
        Example(word, reference="abc") for word in ("ab", "ba", "abc", "c", "ac", "bb")
    )
    spoilt = False

    def sample(self, rng):
        drawn = super().sample(rng)
        return Example("much too long") if self.spoilt else drawn

    def observer_prompt(self, query, responses):
        return "".join(responses) + "="


ROOM = "1 to max_prompt_tokens=12"
# The second episode, which `llm_1` begins, unless there is a seed.
BAD_RESETS = [
    ({"example": Example("abcdefghijklm")}, ValueError, ("llm_1", ROOM, "got 13")),
    ({"example": Example("")}, ValueError, ("llm_1", ROOM, "got 0")),
    ({"example": Example("a\ud800")}, ValueError, ("query", r"'\ud800'")),
    ({"example": Example(None)}, TypeError, ("query", "None")),
    ({"example": Example(3)}, TypeError, ("query", "3")),
    ({"example": "abc"}, TypeError, ("Example", "'abc'")),
    ({"example": ""}, TypeError, ("Example", "''")),
    ({"example": 0}, TypeError, ("Example", "0")),
    ({"seed": 5, "example": Example("")}, ValueError, ("llm_0", ROOM, "got 0")),
    ({"seed": -1}, gymnasium.error.Error, ("-1",)),
    ({"seed": "0"}, gymnasium.error.Error, ("int", "str")),
]


@pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
@pytest.mark.parametrize(("arguments", "error", "words"), BAD_RESETS)
def test_a_reset_that_fails_is_named_and_leaves_no_trace(form, level, arguments, error, words):
    game, twin = (start(form, level, Spell()) for _ in range(2))
    script = script_of(form, level, BYTES)
    for one in (game, twin):
        one.reset(seed=0)
        play(one, script[:-1])
    with pytest.raises(error) as caught:
        game.reset(**arguments)
    expect_words(caught, *words)
    assert_undisturbed(game, twin, script[-1:])


@pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
def test_a_query_in_unknown_characters_leaves_no_trace(form, level):
    game, twin = (start(form, level) for _ in range(2))
    for one in (game, twin):
        one.reset(seed=0)
    with pytest.raises(ValueError, match=r"'\?' in 'ab\?>'"):
        game.reset(example=Example("ab?", reference="cba"))
    assert_undisturbed(game, twin, script_of(form, level))


class Bare(Spelling):
    """Has no begin token."""

    def encode(self, text, *, add_special_tokens, split_special_tokens):
        return super().encode(text, add_special_tokens=False, split_special_tokens=True)


@pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
def test_a_query_of_which_the_tokenizer_keeps_nothing_is_refused(form, level):
    game = start(form, level, Spell(), tokenizer=Bare())
    with pytest.raises(ValueError, match=r"1 to max_prompt_tokens=12 tokens.* got 0"):
        game.reset(seed=0, example=Example("???"))


@pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
def test_a_drawn_query_that_does_not_fit_leaves_no_trace(form, level):
    """Not even in the random stream."""
    task = Spell()
    game, twin = start(form, level, task), start(form, level, Spell())
    for one in (game, twin):
        one.reset(seed=0)
    task.spoilt = True
    with pytest.raises(ValueError, match="got 13"):
        game.reset()
    task.spoilt = False
    for _ in range(4):
        for one in (game, twin):
            one.reset()
        assert data_equivalence(game.look(), twin.look(), exact=True)


@pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
def test_an_empty_data_set_is_named(form, level):
    task = Spell()
    task.examples = ()
    with pytest.raises(ValueError, match=r"examples.*'spell'|'spell'.*examples"):
        start(form, level, task).reset(seed=0)


@pytest.mark.parametrize("form", ["aec", "parallel", "vector"])
def test_answers_that_make_a_prompt_too_long_leave_no_trace(form):
    game, twin = (
        start(form, "response", Spell(), observers=2, max_prompt_tokens=6) for _ in range(2)
    )
    for one in (game, twin):
        one.reset(seed=0)
        play(one, ["abc"])
    with pytest.raises(ValueError, match="llm_2") as caught:
        game.act("abc")
    expect_words(caught, "1 to max_prompt_tokens=6", "got 7", "'abcabc='")
    assert_undisturbed(game, twin, ["ab", "c"])


class Moody:
    """A reward that lies once, when it is told to."""

    def __init__(self):
        self.lie = None

    def __call__(self, examples, responses):
        lie, self.lie = self.lie, None
        scores = np.array([len(text) / 2 for text in responses])
        return scores if lie is None else lie(scores)


def fail(scores):
    raise KeyError("no such score")


LIES = [
    (lambda scores: np.append(scores, 0), ("got shape", "numbers")),
    (lambda scores: scores[:-1], ("got shape", "numbers")),
    (lambda scores: scores[:, None], ("got shape", "numbers")),
    (lambda scores: 1.0, ("got shape ()", "numbers")),
    (lambda scores: None, ("object",)),
    (lambda scores: scores * 1j, ("complex",)),
    (lambda scores: ["high"] * len(scores), ("<U4",)),
    (lambda scores: scores * np.nan, ("finite", "got nan for Example")),
    (lambda scores: scores - np.inf, ("finite", "got -inf for Example")),
    (fail, ("KeyError('no such score')",)),
]


@pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
@pytest.mark.parametrize(("lie", "words"), LIES)
def test_a_reward_that_lies_is_an_error_and_leaves_no_trace(form, level, lie, words):
    reward, script = Moody(), script_of(form, level)
    game, twin = start(form, level, reward=reward), start(form, level, reward=Moody())
    for one in (game, twin):
        one.reset(seed=0)
        play(one, script[:-1])
    reward.lie = lie
    with pytest.raises(cory_env.RewardError) as caught:
        game.act(script[-1])
    expect_words(caught, *words)
    assert_undisturbed(game, twin, script[-1:])


@pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
def test_a_step_before_reset_is_an_error_and_leaves_no_trace(form, level):
    game, twin = (start(form, level) for _ in range(2))
    script = script_of(form, level)
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        game.act(script[0])
    for one in (game, twin):
        one.reset(seed=0)
    assert_undisturbed(game, twin, script)


@pytest.mark.parametrize(
    ("form", "level", "seat"),
    [(*pair, "llm_1") for pair in FORMS_AND_LEVELS]
    + [("seat", level, "llm_0") for level in ("token", "response")],
)
def test_a_step_after_the_end_is_an_error_and_leaves_no_trace(form, level, seat):
    game, twin = (start(form, level, seat=seat) for _ in range(2))
    script = script_of(form, level)
    for one in (game, twin):
        one.reset(seed=0)
        play(one, script)
    if form == "aec":
        for _ in range(2):
            with pytest.raises(ValueError, match="only valid action is None"):
                game.act(script[0])
            game.act(None)
    error, message = RuntimeError, r"reset\(\)"
    if form == "parallel":
        error, message = ValueError, r"Expected actions of \[\], got \['llm_0', 'llm_1'\]"
    with pytest.raises(error, match=message):
        game.act(script[0])
    for one in (game, twin):
        one.reset()
    assert data_equivalence(game.look(), twin.look(), exact=True)


@pytest.mark.parametrize("level", ["token", "response"])
def test_a_partner_that_plays_an_illegal_action_is_named(level):
    """The seat's own move stands, so the episode cannot go on; the next one can."""
    wrong = {"token": 12, "response": [12]}[level]
    answers = [wrong]

    def partner(observation, info):
        return answers.pop() if answers else {"token": A, "response": "a"}[level]

    game = start("seat", level, seat="llm_0", partner=partner)
    twin = start("seat", level, seat="llm_0", partner=partner)
    game.reset(seed=0)
    with pytest.raises(ValueError, match=f"llm_1.*{TOKENS}, got 12"):
        play(game, [END] if level == "token" else [""])
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        game.act(END)
    for one in (game, twin):
        one.reset(seed=0)
    assert_undisturbed(game, twin, script_of("seat", level))


def test_nothing_is_shown_before_the_first_reset():
    aec, parallel = (start(form, "token", render_mode="ansi").env for form in ("aec", "parallel"))
    raw = cory_env.raw_env("toy")
    for env in (aec, parallel, raw):
        for call in (env.state, env.render):
            with pytest.raises((RuntimeError, AssertionError), match=r"reset\(\)"):
                call()
    for env in (aec, raw):
        with pytest.raises((RuntimeError, AssertionError), match=r"reset\(\)"):
            env.observe(env.possible_agents[0])


ODD_TEXTS = [
    "\x00",
    "a\x00b",
    "\u202eab",
    "\u200f\u05d0",
    "\ufeff",
    "\n\r\t",
    "<|endoftext|>",
    "🎬é",
]


@pytest.mark.parametrize("form", ["aec", "parallel", "vector"])
@pytest.mark.parametrize("tokenizer", ["byte", "embedded"])
@pytest.mark.parametrize("text", ODD_TEXTS)
def test_characters_that_nobody_sees_are_characters(form, tokenizer, text):
    """In a query, in an answer, and in the prompt which quotes both."""
    options = {"tokenizer": tokenizer, "max_new_tokens": 40, "max_prompt_tokens": 99}
    game = start(form, "response", Spell(), **options)
    game.reset(seed=0, example=Example(text, reference="a"))
    game.act(text)
    look = game.look()
    if form == "vector":
        assert [response.text for response in look["responses"]["llm_0"]] == [text, text]
        assert look["prompts"] == [text + "="] * 2
    else:
        infos = look["infos"] if form == "aec" else look["last"][-1]
        assert (infos["llm_0"]["prompt"], infos["llm_0"]["response"]) == (text, text)
        assert infos["llm_1"]["prompt"] == text + "="


@pytest.mark.parametrize("form", FORMS)
def test_a_text_longer_than_the_limit_is_its_beginning(form):
    """It is no error: who writes a text cannot count tokens."""
    game, twin = (start(form, "response") for _ in range(2))
    for one, texts in ((game, ["abcabc", "cbacba"]), (twin, ["abc", "cba"])):
        one.reset(seed=0)
        play(one, texts[-1:] if form == "seat" else texts)
    assert data_equivalence(game.look(), twin.look(), exact=True)


BAD_SWITCHES = [
    ({"task": 3}, TypeError, ("task", "got 3")),
    ({"task": "imbd"}, ValueError, ("imdb, lesson, toy", "got 'imbd': did you mean imdb?")),
    ({"split": "dev"}, ValueError, ("train, test", "got 'dev'")),
    ({"observers": -1}, ValueError, ("observers", "at least 0", "got -1")),
    ({"observers": 1.5}, ValueError, ("observers", "got 1.5")),
    ({"observers": True}, ValueError, ("observers", "got True")),
    ({"observers": "2"}, ValueError, ("observers", "got '2'")),
    (
        {"reward_sharing": "colective"},
        ValueError,
        ("collective, mean", "'colective': did you mean collective?"),
    ),
    ({"reward_sharing": float("inf")}, ValueError, ("reward_sharing", "finite", "got inf")),
    ({"reward_sharing": None}, ValueError, ("reward_sharing", "got None")),
    ({"swap_every": 0}, ValueError, ("swap_every", "at least 1", "got 0")),
    ({"max_new_tokens": 0}, ValueError, ("max_new_tokens", "at least 1", "got 0")),
    ({"max_prompt_tokens": 0}, ValueError, ("max_prompt_tokens", "at least 1", "got 0")),
    ({"observer": 2}, TypeError, ("an argument of the environment", "did you mean observers?")),
    ({"reward": "best"}, ValueError, ("match", "got 'best'")),
    ({"reward": 3}, TypeError, ("reward", "got 3")),
    ({"tokenizer": "gpt5.json"}, ValueError, ("tokenizer.json", "got 'gpt5.json'")),
    ({"tokenizer": 3}, TypeError, ("Tokenizer", "got 3")),
    ({"observer": 2}, TypeError, ("observer",)),
]
AEC_SWITCHES = [
    ({"action_level": "word"}, ValueError, ("token, response", "got 'word'")),
    ({"action_levl": "token"}, TypeError, ("of the environment", "did you mean action_level?")),
    ({"render_mode": "rgb_array"}, ValueError, ("human, ansi", "or None", "got 'rgb_array'")),
]
SEAT_SWITCHES = [
    ({"seat": "observer_1"}, ValueError, ("pioneer_0, observer_0", "got 'observer_1'")),
    ({"seat": None}, ValueError, ("pioneer_0, observer_0", "got None")),
    ({"partner": 3}, TypeError, ("partner", "got 3")),
]
MAKERS = {
    "aec": cory_env.env,
    "raw": cory_env.raw_env,
    "parallel": cory_env.parallel_env,
    "vector": cory_env.vector_env,
    "seat": cory_env.gym_env,
}


@pytest.mark.parametrize(
    ("form", "switches", "error", "words"),
    [
        pytest.param(form, *row, id=f"{form}-{row[0]}")
        for form in MAKERS
        for row in [
            *BAD_SWITCHES,
            *(AEC_SWITCHES if form != "vector" else []),
            *(SEAT_SWITCHES if form == "seat" else []),
        ]
    ],
)
def test_a_wrong_switch_is_named(form, switches, error, words):
    size = {"num_envs": 2} if form == "vector" else {}
    with pytest.raises(error) as caught:
        MAKERS[form](**{"task": "toy", **size, **switches})
    expect_words(caught, *words)


@pytest.mark.parametrize("num_envs", [0, -1, 1.5, "2", True, None])
def test_a_wrong_number_of_games_is_named(num_envs):
    with pytest.raises(ValueError, match=r"num_envs.*at least 1") as caught:
        cory_env.vector_env(num_envs, "toy")
    expect_words(caught, f"got {num_envs!r}")


def test_vector_examples_are_counted():
    game, twin = (start("vector", "response") for _ in range(2))
    for one in (game, twin):
        one.reset(seed=0)
    for wrong in ([], [Example("abc")], [Example("abc")] * 3):
        with pytest.raises(ValueError, match=f"Expected 2 examples, got {len(wrong)}"):
            game.env.reset(examples=wrong)
    assert_undisturbed(game, twin, script_of("vector", "response"))


@pytest.mark.parametrize(
    ("register", "registry", "kind"),
    [(cory_env.register_task, TASKS, "task"), (cory_env.register_reward, REWARDS, "reward")],
)
def test_a_name_is_registered_once(register, registry, kind):
    before = dict(registry)
    name = next(iter(before))
    with pytest.raises(ValueError, match=f"new {kind} name, got '{name}'"):
        register(name)(lambda **options: None)
    assert registry == before
