"""The rules, played move by move without PettingZoo."""

import itertools

import numpy as np
import pytest

from cory_env.game import RewardError, Rules, share
from cory_env.registry import make_task
from cory_env.rewards.toy import MatchReward
from cory_env.types import Example, Response

EXAMPLE = Example("abc", reference="cba")


def toy_rules(**changes):
    task = make_task("toy")
    settings = {
        "task": task,
        "reward": MatchReward(),
        "tokenizer": task.tokenizer,
        "max_new_tokens": 3,
        "max_prompt_tokens": 32,
    }
    return Rules(**{**settings, **changes})


def play(rules, *texts, example=EXAMPLE, episode=0):
    state = rules.start(example, episode)
    for text in texts:
        agent = rules.agent_on_turn(state)
        state = rules.respond(state, rules.response(text, agent))
    return state


def test_pioneer_answers_the_query_and_the_observer_reads_the_answer():
    rules = toy_rules()
    state = rules.start(EXAMPLE)
    assert rules.agent_on_turn(state) == "pioneer_0"
    assert rules.prompt(state) == "abc>"

    state = rules.respond(state, rules.response("cb", "pioneer_0"))
    assert rules.agent_on_turn(state) == "observer_0"
    assert rules.prompt(state) == "cb="

    state = rules.respond(state, rules.response("cba", "observer_0"))
    assert rules.agent_on_turn(state) is None
    assert [response.text for response in state.responses] == ["cb", "cba"]
    task_rewards, rewards = rules.payoffs([state])
    np.testing.assert_allclose(task_rewards, [[2 / 3, 1]])
    np.testing.assert_allclose(rewards, [[5 / 3, 5 / 3]])


def test_each_observer_of_a_chain_reads_all_earlier_responses():
    rules = toy_rules(observers=3)
    assert rules.agents == ("pioneer_0", "observer_0", "observer_1", "observer_2")
    state = play(rules, "a", "b", "c")
    assert rules.agent_on_turn(state) == "observer_2"
    assert rules.prompt(state) == "a,b,c="
    assert [rules.prompt(state, turn) for turn in range(3)] == ["abc>", "a=", "a,b="]


def test_without_observers_the_pioneer_plays_alone():
    rules = toy_rules(observers=0)
    state = play(rules, "cba")
    assert rules.agent_on_turn(state) is None
    task_rewards, rewards = rules.payoffs([state])
    assert task_rewards.tolist() == rewards.tolist() == [[1.0]]


def test_without_knowledge_transfer_observers_read_no_response():
    rules = toy_rules(observers=2, knowledge_transfer=False)
    state = play(rules, "a", "b")
    assert [rules.prompt(state, turn) for turn in range(3)] == ["abc>", "=", "="]


def test_a_state_is_not_changed_by_the_next_move():
    rules = toy_rules()
    start = rules.start(EXAMPLE)
    rules.respond(start, rules.response("a", "pioneer_0"))
    assert start.responses == ()


@pytest.mark.parametrize(
    ("episode", "order"),
    [
        (0, ("llm_0", "llm_1", "llm_2")),
        (1, ("llm_0", "llm_1", "llm_2")),
        (2, ("llm_1", "llm_2", "llm_0")),
        (4, ("llm_2", "llm_0", "llm_1")),
        (6, ("llm_0", "llm_1", "llm_2")),
    ],
)
def test_roles_move_on_by_one_agent_every_two_episodes(episode, order):
    assert toy_rules(observers=2, swap_every=2).start(EXAMPLE, episode).agents == order


def test_two_agents_exchange_roles_and_get_them_back():
    rules = toy_rules(swap_every=1)
    orders = [rules.start(EXAMPLE, episode).agents for episode in range(3)]
    assert orders == [("llm_0", "llm_1"), ("llm_1", "llm_0"), ("llm_0", "llm_1")]


OWN = np.array([[1.0, 2.0, 4.0], [0.0, -1.0, 0.5]])


@pytest.mark.parametrize(
    ("sharing", "paid"),
    [
        ("collective", [[7, 7, 7], [-0.5, -0.5, -0.5]]),
        ("mean", [[7 / 3, 7 / 3, 7 / 3], [-0.5 / 3, -0.5 / 3, -0.5 / 3]]),
        ("individual", [[1, 2, 4], [0, -1, 0.5]]),
        (0.5, [[4, 4.5, 5.5], [-0.25, -0.75, 0]]),
        (-1, [[-5, -3, 1], [0.5, -1.5, 1.5]]),
        (0, [[1, 2, 4], [0, -1, 0.5]]),
    ],
)
def test_reward_sharing_pays_the_table(sharing, paid):
    np.testing.assert_allclose(share(OWN, sharing), paid, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sharing", ["collective", "mean", "individual", 0.5, -1])
def test_reward_sharing_equals_its_definition_agent_by_agent(sharing):
    own = np.random.default_rng(0).normal(size=(5, 4))
    paid = share(own, sharing)
    for episode, agent in itertools.product(range(5), range(4)):
        mine = own[episode, agent]
        others = sum(own[episode, other] for other in range(4) if other != agent)
        expected = {
            "collective": mine + others,
            "mean": (mine + others) / 4,
            "individual": mine,
        }.get(sharing, mine + (0 if isinstance(sharing, str) else sharing) * others)
        assert paid[episode, agent] == pytest.approx(expected, rel=1e-12)


def test_paying_does_not_alias_the_task_rewards():
    paid = share(OWN, "individual")
    paid[0, 0] = 99
    assert OWN[0, 0] == 1


A, B, C, END = 1, 2, 3, 0


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("ab", Response("ab", (A, B, END), False)),
        ("abc", Response("abc", (A, B, C), True)),
        ("abca", Response("abc", (A, B, C), True)),
        ("", Response("", (END,), False)),
        ([A, B], Response("ab", (A, B, END), False)),
        ([A, B, END], Response("ab", (A, B, END), False)),
        ([A, END, B], Response("a", (A, END), False)),
        ([A, END, B, B, B, B], Response("a", (A, END), False)),
        ([END], Response("", (END,), False)),
        ([], Response("", (END,), False)),
        ((A, B, C), Response("abc", (A, B, C), True)),
        (np.array([A, B, C], np.int32), Response("abc", (A, B, C), True)),
        ([np.int64(A)], Response("a", (A, END), False)),
    ],
)
def test_an_action_stands_for_one_response(action, expected):
    assert toy_rules().response(action, "pioneer_0") == expected


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (None, TypeError, "pioneer_0"),
        (3, TypeError, "got 3"),
        ([0.5], TypeError, r"got \[0.5\]"),
        ([[A]], TypeError, "text or a sequence"),
        ([[A], [A, B]], TypeError, "text or a sequence"),
        ([True], TypeError, "got"),
        (["a"], TypeError, "got"),
        ([-1], ValueError, "pioneer_0 from 0 to 11, got -1"),
        ([A, 12], ValueError, "from 0 to 11, got 12"),
        ([END, 12], ValueError, "from 0 to 11, got 12"),
        ([A, B, C, A], ValueError, "max_new_tokens=3.* got 4"),
        ([A, B, C, END], ValueError, "max_new_tokens=3.* got 4"),
        ("xyz", ValueError, "'x'"),
    ],
)
def test_an_illegal_action_is_named(action, error, message):
    with pytest.raises(error, match=message):
        toy_rules().response(action, "pioneer_0")


def test_a_response_ends_on_the_end_token_or_at_the_limit():
    rules = toy_rules()
    assert not rules.ends_response(A, 0)
    assert not rules.ends_response(B, 1)
    assert rules.ends_response(END, 1)
    assert rules.ends_response(C, 2)


def test_answering_after_the_end_is_an_error():
    rules = toy_rules()
    with pytest.raises(RuntimeError, match="has ended"):
        play(rules, "a", "b", "c")


def test_a_prompt_longer_than_the_context_names_both_lengths_and_the_mend():
    rules = toy_rules(max_prompt_tokens=3)
    with pytest.raises(ValueError, match=r"max_prompt_tokens=3 tokens, got 4.*larger"):
        rules.encode_prompt("abc>", "pioneer_0")
    assert len(rules.encode_prompt("ab>", "pioneer_0")) == 3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("observers", -1),
        ("observers", 1.5),
        ("observers", True),
        ("swap_every", 0),
        ("max_new_tokens", 0),
        ("max_prompt_tokens", 0),
        ("reward_sharing", "colective"),
        ("reward_sharing", float("nan")),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(setting, value):
    with pytest.raises(ValueError, match=f"{setting}.*{value!r}"):
        toy_rules(**{setting: value})


def fail_on_b(examples, responses):
    if "b" in responses:
        raise KeyError("no b")
    return np.zeros(len(responses))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (fail_on_b, r"KeyError\('no b'\) for Example\(query='abc'.*answered 'b'"),
        (lambda e, r: np.full(len(r), np.nan), "finite scores, got nan for Example.*answered 'a'"),
        (lambda e, r: np.array([0, np.inf]), "finite scores, got inf for Example.*answered 'b'"),
        (lambda e, r: np.zeros(len(r) + 1), r"shape \(2,\), got shape \(3,\)"),
        (lambda e, r: np.zeros((len(r), 1)), r"shape \(2,\), got shape \(2, 1\)"),
        (lambda e, r: 1.0, r"got shape \(\)"),
        (lambda e, r: None, "object"),
        (lambda e, r: ["1"] * len(r), "<U1"),
    ],
)
def test_a_broken_reward_is_an_error_that_names_the_example(reward, message):
    rules = toy_rules(reward=reward)
    with pytest.raises(RewardError, match=message):
        rules.payoffs([play(rules, "a", "b")])


def test_an_error_of_the_batch_alone_is_reported_without_an_example():
    def too_many(examples, responses):
        if len(responses) > 1:
            raise MemoryError
        return np.zeros(1)

    rules = toy_rules(reward=too_many)
    with pytest.raises(RewardError, match=r"raised MemoryError\(\)\.$"):
        rules.payoffs([play(rules, "a", "b")])


def test_the_reward_is_called_once_for_all_episodes_and_turns():
    calls = []

    def count(examples, responses):
        calls.append((list(examples), list(responses)))
        return np.arange(len(responses), dtype=float)

    rules = toy_rules(reward=count)
    other = Example("hhh", reference="hhh")
    states = [play(rules, "a", "b"), play(rules, "c", "d", example=other)]
    task_rewards, _ = rules.payoffs(states)
    assert calls == [([EXAMPLE, EXAMPLE, other, other], ["a", "b", "c", "d"])]
    assert task_rewards.tolist() == [[0, 1], [2, 3]]
