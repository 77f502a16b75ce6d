"""Games of several clients: who waits for whom, what each learns, and what if one does not come."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

import cory_env
from cory_env.adapters.tables import Tables


def play(tables, seat, episode_id, text, seed=None):
    prompt = tables.sit(seat, episode_id, seed)
    return prompt, tables.answer(seat, episode_id, text)


def until(condition):
    """Wait for what another thread will do."""
    while not condition():
        time.sleep(0.001)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.mark.parametrize("first", ["pioneer_0", "observer_0"])
def test_two_clients_play_the_game_of_the_vector_environment(pool, first):
    games = cory_env.vector_env(1, "toy", reward_sharing=0.5)
    prompts = [games.reset(seed=7)[0], games.step(["abc"])[0]]
    games.step(["abd"])
    tables = Tables("toy", reward_sharing=0.5)
    answers = {"pioneer_0": "abc", "observer_0": "abd"}
    order = sorted(answers, key=lambda seat: seat != first)
    played = {}
    for seat in order:
        played[seat] = pool.submit(play, tables, seat, "a", answers[seat], seed=7)
        until(lambda: len(tables) == 1 or all(f.done() for f in played.values()))
    for seat, prompt in zip(answers, prompts, strict=True):
        read, outcome = played[seat].result(10)
        assert read == prompt
        assert outcome.reward == games.rewards[seat][0]
        assert outcome.texts == ("abc", "abd")
    assert len(tables) == 0


def test_a_seat_waits_for_its_turn_and_for_the_end(pool):
    tables = Tables("toy", observers=2)
    asked = Event()

    def observer():
        prompt = tables.sit("observer_0", "a")
        asked.set()
        return prompt

    waiting = pool.submit(observer)
    assert tables.sit("pioneer_0", "a")
    assert not asked.is_set()
    pioneer = pool.submit(tables.answer, "pioneer_0", "a", "ab")
    assert waiting.result(10) == "ab="
    assert not pioneer.done()
    observer = pool.submit(tables.answer, "observer_0", "a", "cd")
    assert tables.sit("observer_1", "a") == "ab,cd="
    assert not observer.done()
    last = tables.answer("observer_1", "a", "ef")
    assert last.texts == pioneer.result(10).texts == observer.result(10).texts == ("ab", "cd", "ef")


def test_many_tables_are_played_at_once(pool):
    tables = Tables("toy", reward_sharing="individual")
    names = [f"table {i}" for i in range(8)]
    played = [
        (pool.submit(play, tables, "pioneer_0", name, "abc", i),
         pool.submit(play, tables, "observer_0", name, "abc", i))
        for i, name in enumerate(names)
    ]  # fmt: skip
    for i, (pioneer, observer) in enumerate(played):
        game = cory_env.vector_env(1, "toy")
        assert pioneer.result(10)[0] == game.reset(seed=i)[0]
        assert observer.result(10)[0] == "abc="
    assert len(tables) == 0


def test_who_does_not_come_is_named_and_the_game_is_off(pool):
    tables = Tables("toy", timeout_s=30)
    with pytest.raises(TimeoutError, match=r"pioneer_0 to answer in 'a' within 0.01 s"):
        tables.sit("observer_0", "a", timeout_s=0.01)
    assert len(tables) == 0
    tables.sit("pioneer_0", "b")
    with pytest.raises(TimeoutError, match=r"observer_0 to answer in 'b'"):
        tables.answer("pioneer_0", "b", "abc", timeout_s=0.01)
    assert len(tables) == 0


def test_who_leaves_is_named_to_those_who_wait(pool):
    tables = Tables("toy", timeout_s=30)
    tables.sit("pioneer_0", "a")
    waiting = pool.submit(tables.sit, "observer_0", "a")
    until(lambda: len(tables._tables["a"].seated) == 2)
    tables.leave("pioneer_0", "a")
    with pytest.raises(RuntimeError, match="pioneer_0 to answer in 'a', but it has left"):
        waiting.result(10)
    assert len(tables) == 0
    tables.leave("pioneer_0", "a")  # again, or never sat down: nothing


def test_what_is_wrong_is_one_line():
    tables = Tables("toy", timeout_s=30)
    with pytest.raises(ValueError, match=r"a seat .*'observer_1': did you mean observer_0\?"):
        tables.sit("observer_1", "a")
    tables.sit("pioneer_0", "a", seed=1)
    with pytest.raises(ValueError, match="free seat, got pioneer_0 of 'a', which is taken"):
        tables.sit("pioneer_0", "a")
    with pytest.raises(ValueError, match="the seed 1 that 'a' was begun with, got 2"):
        tables.sit("observer_0", "a", seed=2)
    with pytest.raises(TimeoutError):
        tables.sit("observer_0", "b", seed=2, timeout_s=0)
    with pytest.raises(ValueError, match="who is on turn, got one of observer_0"):
        tables.answer("observer_0", "a", "abc")
    with pytest.raises(ValueError, match="Expected no swap_every"):
        Tables("toy", swap_every=1)


def test_an_illegal_answer_may_be_given_again(pool):
    tables = Tables("toy", timeout_s=30)
    tables.sit("pioneer_0", "a", seed=1)
    with pytest.raises(ValueError, match="lone surrogate"):
        tables.answer("pioneer_0", "a", "\ud800")
    pioneer = pool.submit(tables.answer, "pioneer_0", "a", "abc")
    assert play(tables, "observer_0", "a", "abc")[0] == "abc="
    assert pioneer.result(10).texts == ("abc", "abc")
