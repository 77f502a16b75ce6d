"""Every form against the brute-force game of `oracle.py`, in games that Hypothesis makes up.

Any switch and any sequence of legal and illegal actions; after each of them all that is to be seen
is compared, and after an illegal one nothing may have changed.
"""

import copy
from importlib.resources import files
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cory_env
from cory_env.tokenization import load_tokenizer
from tests.env.forms import AEC_ONLY, Aec, Parallel
from tests.env.oracle import watch

SWITCHES = {
    "observers": [0, 1, 2, 4],
    "rounds": [1, 2, 3],
    "reward_sharing": ["collective", "mean", "individual", "last", 0.5, -1],
    "knowledge_transfer": [True, False],
    "swap_every": [None, 1, 2],
    "max_new_tokens": [1, 2, 4],
    "max_prompt_tokens": [14, 60],
    "action_level": ["token", "response"],
    "one_hot": [False, True],
    "tokenizer": ["byte", "embedded", "spelling"],
}
EACH_SWITCH = [(name, value) for name, values in SWITCHES.items() for value in values]
STEP = ("observations", "rewards", "terminations", "truncations", "infos")
RESET = ("observations", "infos")
ROOM = 200
"""Prompt tokens with which no prompt is too long."""
MAX_MOVES = 32
"""Where every answer makes the next prompt too long, an episode would not end."""


def hypothesis(max_examples):
    """Return settings under which a test is the same on every machine, however slow."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class Quote(cory_env.Task):
    """Answers are quoted in full, so that prompts may grow too long."""

    name = "quote"
    reward = "match"
    examples = tuple(map(cory_env.Example, ("a", "ba", "aé€🎬", " ", "b\x00a", "\u202eab")))

    def observer_prompt(self, query, responses):
        return "".join([query, *responses])


class Spelling:
    """A tokenizer of the transformers kind, with a begin token; it drops what it does not know."""

    symbols = ("<begin>", "<end>", "a", "b", " ")
    eos_token_id = 1
    all_special_ids = (0, 1)
    added_tokens_decoder: ClassVar = {}
    unk_token = unk_token_id = None

    def get_vocab(self):
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, text, *, add_special_tokens, split_special_tokens):
        ids = [self.symbols.index(letter) for letter in text if letter in self.symbols]
        return [0, *ids] if add_special_tokens else ids

    def decode(self, ids, *, skip_special_tokens, clean_up_tokenization_spaces):
        return "".join(self.symbols[i] for i in ids if i > 1)

    def convert_ids_to_tokens(self, ids):
        return [self.symbols[i] for i in ids]


TOKENIZERS = {
    "byte": load_tokenizer("byte"),
    "embedded": load_tokenizer("embedded"),
    "spelling": load_tokenizer(Spelling()),
}


def odd_reward(examples, responses):
    """Score with numbers of either sign that hang on every character."""
    texts = [example.query + "/" + text for example, text in zip(examples, responses, strict=True)]
    return np.array([sum(map(ord, text)) % 997 / 7 - 50 for text in texts])


@st.composite
def make_games(draw, **fixed):
    """Draw all switches of a game that are not fixed, its task and reward."""
    switches = {name: draw(st.sampled_from(values)) for name, values in SWITCHES.items()} | fixed
    if "tokenizer" not in fixed and draw(st.booleans()):
        task = cory_env.make_task(
            "toy", length=draw(st.integers(1, 3)), symbols=draw(st.integers(2, 4))
        )
        own = {"tokenizer": task.tokenizer, "reward": cory_env.make_reward("match")}
    else:
        task, source = Quote(), switches["tokenizer"]
        tokenizer = TOKENIZERS[source] if isinstance(source, str) else source
        own = {"tokenizer": tokenizer, "reward": odd_reward}
    return SimpleNamespace(**{**switches, **own, "task": task})


def make_examples():
    """Draw what is asked, also what cannot be."""
    queries = st.text("ab", max_size=3) | st.text("ab é€🎬\x00\u202e\ud800", max_size=20)
    return st.builds(cory_env.Example, queries, reference=st.just("ab"))


def make_actions(game, *, legal=False):
    """Draw actions, also illegal ones unless legal ones are asked for."""
    V, T, end = game.tokenizer.vocab_size, game.max_new_tokens, game.tokenizer.eos_token_id
    tokens = st.integers(0, V - 1) | st.just(end)
    ids = st.lists(tokens, max_size=T)
    far = st.sampled_from([-1, V, 2**63, 2**70])
    wild = far | st.sampled_from([0.5, 1.0, np.nan, None, "\ud800", [1], [[1]], [None]])
    if game.action_level == "token":
        numbers = st.sampled_from([int, np.int64, np.uint16])
        actions = tokens | st.builds(lambda number, token: number(token), numbers, tokens)
        return actions if legal else actions | wild
    actions = ids | st.builds(np.array, ids, dtype=st.sampled_from([np.int64, np.int32, np.uint16]))
    texts = st.text("ab", max_size=T + 1) | st.text("ab é🎬\x00\u202e,", max_size=T + 2)
    odd = st.lists(tokens, max_size=T + 2) | st.lists(tokens | far) | st.lists(tokens | wild)
    return actions if legal else st.one_of(actions, texts, odd.map(tuple), wild)


def ask_oracle(game, example, episode, actions):
    """Return what `watch` shows, or the type of its error."""
    try:
        return watch(game, example, episode, actions)
    except TypeError:
        return TypeError
    except ValueError:
        return ValueError


def pack(game, ids, length, padding):
    """Return ids as the environment shows them."""
    if not game.one_hot:
        return np.array([*ids, *[padding] * (length - len(ids))], np.int64)
    rows = np.zeros((length, game.tokenizer.vocab_size), np.float32)
    for place, token in enumerate(ids):
        rows[place, token] = 1
    return rows


def expect(game, view):
    """Return what the oracle sees, named and packed as in the environment."""
    L, T, end = game.max_prompt_tokens, game.max_new_tokens, game.tokenizer.eos_token_id
    observations = {}
    for turn, agent in enumerate(view.order):
        ids = view.prompts[turn] + view.responses[view.latest[turn]]
        seen = {"observation": pack(game, ids, L + T, end)}
        seen["attention_mask"] = np.array([i < len(ids) for i in range(L + T)], np.int8)
        if game.action_level == "token":
            tokens = range(game.tokenizer.vocab_size)
            legal = [agent == view.on_turn or token == end for token in tokens]
            seen["action_mask"] = np.array(legal, np.int8)
        if game.swap_every is not None:
            seen["role"] = np.int64(turn)
        observations[agent] = seen
    said = [pack(game, response, T, -1) for response in view.responses]
    return {
        "agent": view.on_turn,
        "agents": sorted(view.order, key=lambda name: (name != "pioneer_0", name)),
        "state": np.concatenate([pack(game, view.opening, L, -1), *said]),
        "observations": observations,
        "rewards": dict(zip(view.order, view.rewards, strict=True)),
        "terminations": dict.fromkeys(view.order, view.on_turn is None),
        "truncations": dict.fromkeys(view.order, False),
        "infos": dict(zip(view.order, map(dict, view.infos), strict=True)),
    }


def assert_same(expected, got, path=""):
    """Compare types, shapes and values; floats but for their last bits: sums may go either way."""
    if isinstance(expected, dict):
        assert expected.keys() == got.keys(), path
        for key, value in expected.items():
            assert_same(value, got[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(got), path
        for i, pair in enumerate(zip(expected, got, strict=True)):
            assert_same(*pair, f"{path}/{i}")
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), path
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=path)
    elif isinstance(expected, float):
        assert type(got) is float, path
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-12), path
    else:
        assert (type(got), got) == (type(expected), expected), path


def check_aec(form, game, view):
    expected, look = expect(game, view), form.look()
    looker = expected["agent"] or expected["agents"][0]
    last = tuple(expected[key][looker] for key in STEP)
    assert_same({**expected, "last": last}, look)
    for agent, observation in look["observations"].items():
        assert form.env.observation_space(agent).contains(observation)
    assert form.env.state_space.contains(look["state"])


def check_parallel(form, game, view):
    expected, look = expect(game, view), form.look()
    for info in expected["infos"].values():
        info["active_agent"] = expected["agent"]
    last = tuple(expected[key] for key in (STEP if len(look["last"]) == 5 else RESET))
    agents = expected["agents"] if expected["agent"] else []
    assert_same({"agents": agents, "last": last, "state": expected["state"]}, look)


def end_aec(form):
    """Let all agents leave, and find that nobody can act after that."""
    for agent in form.env.possible_agents:
        assert form.env.agent_selection == agent
        form.act(None)
    assert form.env.agents == []
    with pytest.raises(RuntimeError, match="after the end"):
        form.act(None)


def end_parallel(form):
    """Step once more, where PettingZoo's turn-based converter returns four dictionaries."""
    assert form.env.step({}) == ({}, {}, {}, {}, {})


def play(form, game, data, check, end):
    """Play a few episodes, some of which are broken off, some of which cannot begin."""
    rng, episode = None, 0
    resets = st.tuples(st.none() | st.integers(0, 3), st.none() | make_examples())
    for seed, asked in [(0, None), *data.draw(st.lists(resets, max_size=2))]:
        draws, number = copy.deepcopy(rng), episode
        if seed is not None:
            draws, number = np.random.default_rng(seed), 0
        example, actions = asked or game.task.sample(draws), []
        view = ask_oracle(game, example, number, actions)
        if isinstance(view, type):
            before = form.look()
            with pytest.raises(view):
                form.reset(seed, asked)
            assert data_equivalence(form.look(), before, exact=True)
            continue
        form.reset(seed, asked)
        rng, episode = draws, number + 1
        check(form, game, view)
        for _ in range(MAX_MOVES):
            if form.on_turn is None:
                end(form)
                break
            action = data.draw(make_actions(game))
            after = ask_oracle(game, example, number, [*actions, action])
            if isinstance(after, type):
                with pytest.raises(after):
                    form.act(action)
            else:
                form.act(action)
                view = after
                actions.append(action)
            check(form, game, view)


def play_aec(game, data):
    play(Aec(**vars(game)), game, data, check_aec, end_aec)


def play_parallel(game, data):
    play(Parallel(**vars(game)), game, data, check_parallel, end_parallel)


def check_vector(games, views, examples):
    order, on_turn = views[0].order, views[0].on_turn
    assert games.agent_selection == on_turn
    assert games.examples == examples
    assert [state.agents for state in games.states] == [
        tuple(order) * games.rules.rounds
    ] * games.num_envs
    assert games.roles == {agent: views[0].infos[i]["role"] for i, agent in enumerate(order)}
    responses, own, paid = {}, {}, {}
    for i, agent in enumerate(order):
        said = [[ids for ids in view.responses[i :: len(order)] if ids] for view in views]
        turn = [
            (view.infos[i], ids[-1] if ids else [], view.rewards[i])
            for view, ids in zip(views, said, strict=True)
        ]
        if "response" in turn[0][0]:
            responses[agent] = [
                cory_env.Response(info["response"], tuple(ids), info["truncated_response"])
                for info, ids, _ in turn
            ]
        if on_turn is None:
            own[agent] = np.array([info["task_reward"] for info, _, _ in turn])
            paid[agent] = np.array([reward for _, _, reward in turn])
    assert games.responses == responses
    assert_same(own, games.task_rewards)
    assert_same(paid, games.rewards)


def prompts_now(views):
    """Return the texts which whoever is on turn reads; none after the end."""
    if views[0].on_turn is None:
        return []
    turn = views[0].order.index(views[0].on_turn)
    return [view.infos[turn]["prompt"] for view in views]


def answer(game, examples, episode, actions, batch):
    """Return all actions, the batch behind the earlier ones, and what the oracle says to them."""
    played = [[*before, action] for before, action in zip(actions, batch, strict=True)]
    pairs = zip(examples, played, strict=True)
    return played, [ask_oracle(game, example, episode, own) for example, own in pairs]


def play_vector(game, data):
    """Play a few batches, some of which hold an illegal answer or cannot begin."""
    game.action_level, size = "response", data.draw(st.integers(1, 3))
    options = {name: value for name, value in vars(game).items() if name not in AEC_ONLY}
    games, rng, episode, shown = cory_env.vector_env(size, **options), None, 0, None
    asked = st.none() | st.lists(make_examples(), min_size=size, max_size=size)
    resets = st.lists(st.tuples(st.none() | st.integers(0, 3), asked), max_size=2)
    for seed, given_examples in [(0, None), *data.draw(resets)]:
        draws, number = copy.deepcopy(rng), episode
        if seed is not None:
            draws, number = np.random.default_rng(seed), 0
        examples = given_examples or [game.task.sample(draws) for _ in range(size)]
        start = [ask_oracle(game, example, number, []) for example in examples]
        if ValueError in start:
            with pytest.raises(ValueError):  # noqa: PT011 # the messages have their own tests
                games.reset(seed, given_examples)
            check_vector(games, *shown)
            continue
        assert games.reset(seed, given_examples) == prompts_now(start)
        rng, episode = draws, number + 1
        shown = play_batch(games, game, data, start, examples, number)


def play_batch(games, game, data, views, examples, episode):
    """Play one batch of episodes; return the oracle's views of how far it got, and its examples."""
    actions = [[] for _ in examples]
    for _ in range(MAX_MOVES):
        check_vector(games, views, examples)
        if views[0].on_turn is None:
            with pytest.raises(RuntimeError, match="after the end"):
                games.step([[] for _ in examples])
            break
        batch = [data.draw(make_actions(game)) for _ in examples]
        played, after = answer(game, examples, episode, actions, batch)
        if data.draw(st.booleans()):  # a batch of legal answers would be rare
            batch = [
                [] if isinstance(view, type) else action
                for view, action in zip(after, batch, strict=True)
            ]
            played, after = answer(game, examples, episode, actions, batch)
        errors = tuple(view for view in after if isinstance(view, type))
        if errors:
            with pytest.raises(errors):
                games.step(batch)
        else:
            assert games.step(batch) == prompts_now(after)
            actions, views = played, after
    return views, examples


def check_seat(seat, game, view, last):
    expected = expect(game, view)
    keys = STEP if len(last) == 5 else RESET
    assert_same(tuple(expected[key][seat.seat] for key in keys), last)
    if game.action_level == "token":
        mask = expected["observations"][seat.seat]["action_mask"]
        assert_same(mask.astype(bool), seat.action_masks())


def play_seat(game, data):
    """Play a few episodes from one seat; the partners compare what they see, too."""
    game.max_prompt_tokens = ROOM
    legal, rng, actions = make_actions(game, legal=True), np.random.default_rng(0), []

    def partner(observation, info):
        view = watch(game, example, episode, actions)
        expected = expect(game, view)
        assert view.on_turn != name
        assert_same(expected["observations"][view.on_turn], observation)
        assert_same(expected["infos"][view.on_turn], info)
        actions.append(data.draw(legal))
        return actions[-1]

    name = data.draw(st.sampled_from(watch(game, game.task.examples[0], 0, []).order))
    seat = cory_env.gym_env(name, partner, **vars(game))
    for episode in range(data.draw(st.integers(1, 3))):
        actions.clear()
        example = game.task.sample(rng)
        last = seat.reset(seed=None if episode else 0)
        check_seat(seat, game, watch(game, example, episode, actions), last)
        while watch(game, example, episode, actions).on_turn is not None:
            action = data.draw(make_actions(game))
            after = ask_oracle(game, example, episode, [*actions, action])
            if isinstance(after, type):
                with pytest.raises(after):
                    seat.step(action)
            else:
                actions.append(action)
                last = seat.step(action)
                check_seat(seat, game, watch(game, example, episode, actions), last)
        with pytest.raises(RuntimeError, match="reset"):
            seat.step(game.tokenizer.eos_token_id)


FORMS = [play_aec, play_parallel, play_vector, play_seat]


@pytest.mark.parametrize("play_form", FORMS)
@hypothesis(max_examples=60)
@given(data=st.data())
def test_any_game_is_that_of_the_oracle(play_form, data):
    play_form(data.draw(make_games()), data)


@pytest.mark.parametrize("play_form", FORMS)
@pytest.mark.parametrize(("switch", "value"), EACH_SWITCH)
@hypothesis(max_examples=2)
@given(data=st.data())
def test_every_switch_works_in_every_form(play_form, switch, value, data):
    play_form(data.draw(make_games(**{switch: value})), data)


@pytest.fixture(scope="module")
def transformers_tokenizer():
    transformers = pytest.importorskip("transformers")
    path = str(files("cory_env") / "assets" / "tokenizer.json")
    return load_tokenizer(
        transformers.PreTrainedTokenizerFast(tokenizer_file=path, eos_token="<|endoftext|>")
    )


@pytest.mark.parametrize("play_form", FORMS)
@hypothesis(max_examples=3)
@given(data=st.data())
def test_a_tokenizer_of_transformers_works_in_every_form(play_form, transformers_tokenizer, data):
    play_form(data.draw(make_games(tokenizer=transformers_tokenizer)), data)


@hypothesis(max_examples=20)
@given(data=st.data())
def test_swapping_twice_is_the_identity(data):
    """Two agents; the second exchange of roles brings back the very same game."""
    game = data.draw(make_games(observers=1, swap_every=1, max_prompt_tokens=ROOM))
    form, example = Aec(**vars(game)), game.task.examples[0]
    looks = []
    answers = data.draw(st.lists(make_actions(game, legal=True), min_size=8, max_size=8))
    for _ in range(3):
        form.reset(None if looks else 0, example)
        episode = [form.look()]
        for answer in answers:
            if form.on_turn is not None:
                form.act(answer)
                episode.append(form.look())
        looks.append(episode)
    assert data_equivalence(looks[0], looks[2], exact=True)
    assert looks[0][0]["agent"] != looks[1][0]["agent"]
