"""The batched form, and that all forms play the same game."""

import doctest
import json

import numpy as np
import pytest

import cory_env
from cory_env.registry import TASKS
from cory_env.testing import replay
from cory_env.types import Example

EXAMPLES = [Example("abc", reference="cba"), Example("hhh", reference="hhh")]


def test_the_example_of_the_docstring_runs():
    results = doctest.testmod(cory_env.vector)
    assert (results.attempted > 0, results.failed) == (True, 0)


def toy_games(**options):
    games = cory_env.vector_env(2, "toy", **options)
    return games, games.reset(examples=EXAMPLES)


def play_randomly(games, prompts, seed=0):
    """Answer with random ids of every length, with and without an end token."""
    rng = np.random.default_rng(seed)
    tokenizer, limit = games.rules.tokenizer, games.rules.max_new_tokens
    while prompts:
        lengths = rng.integers(limit + 1, size=games.num_envs)
        ids = [rng.integers(tokenizer.vocab_size, size=length).tolist() for length in lengths]
        prompts = games.step(
            [row if len(row) == limit else [*row, tokenizer.eos_token_id] for row in ids]
        )


def test_a_batch_played_turn_by_turn():
    games, prompts = toy_games()
    assert prompts == ["abc>", "hhh>"]
    assert games.agent_selection == "pioneer_0"
    assert games.responses == {}

    prompts = games.step(["cba", "h"])
    assert prompts == ["cba=", "h="]
    assert games.agent_selection == "observer_0"
    assert games.rewards == games.task_rewards == {}

    assert games.step([[3], [8, 8, 0]]) == []
    assert games.agent_selection is None
    assert games.examples == EXAMPLES
    assert games.roles == {"pioneer_0": "pioneer_0", "observer_0": "observer_0"}
    texts = {agent: [r.text for r in turn] for agent, turn in games.responses.items()}
    assert texts == {"pioneer_0": ["cba", "h"], "observer_0": ["c", "hh"]}
    own = {"pioneer_0": [1, 1 / 3], "observer_0": [1 / 3, 2 / 3]}
    for agent, scores in own.items():
        assert games.task_rewards[agent].dtype == games.rewards[agent].dtype == np.float64
        np.testing.assert_allclose(games.task_rewards[agent], scores, rtol=1e-12)
        np.testing.assert_allclose(games.rewards[agent], [4 / 3, 1], rtol=1e-12)


def test_the_agents_of_all_games_exchange_roles_together():
    games = cory_env.vector_env(2, "toy", swap_every=1)
    assert games.agents == ("llm_0", "llm_1")
    games.reset(seed=0)
    assert games.roles == {"llm_0": "pioneer_0", "llm_1": "observer_0"}
    games.reset()
    assert games.agent_selection == "llm_1"
    assert games.roles == {"llm_1": "pioneer_0", "llm_0": "observer_0"}
    games.step(["a", "a"])
    games.step(["b", "b"])
    assert games.responses["llm_1"][0].text == "a"


def test_a_seed_begins_the_count_of_episodes_anew():
    games = cory_env.vector_env(1, "toy", swap_every=1)
    first = [games.reset(seed=0), games.agent_selection]
    for expected in ("llm_1", "llm_0"):
        games.reset()
        assert games.agent_selection == expected
    assert [games.reset(seed=0), games.agent_selection] == first


def test_task_rewards_follow_the_agent_through_a_swap():
    games = cory_env.vector_env(2, "toy", swap_every=1, reward_sharing="individual")
    for pioneer, observer in (("llm_0", "llm_1"), ("llm_1", "llm_0")):
        games.reset(examples=EXAMPLES)
        games.step(["cba", "hhh"])
        games.step(["", ""])
        assert games.rewards[pioneer].tolist() == [1, 1]
        assert games.rewards[observer].tolist() == [0, 0]


def test_given_examples_leave_the_random_stream_alone():
    games = cory_env.vector_env(2, "toy")
    games.reset(seed=5)
    expected = games.reset()
    games.reset(seed=5)
    games.reset(examples=EXAMPLES)
    assert games.reset() == expected


def test_a_saved_state_brings_back_examples_and_roles():
    games = cory_env.vector_env(8, "toy", swap_every=2)
    games.reset(seed=1)
    saved = json.loads(json.dumps(games.get_state()))
    expected = [(games.reset(), games.agent_selection) for _ in range(4)]
    fresh = cory_env.vector_env(8, "toy", swap_every=2)
    fresh.set_state(saved)
    assert [(fresh.reset(), fresh.agent_selection) for _ in range(4)] == expected


@pytest.mark.parametrize("level", ["token", "response"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"observers": 0},
        {"observers": 2, "reward_sharing": 0.5},
        {"knowledge_transfer": False, "reward_sharing": "mean"},
        {"max_new_tokens": 2, "tokenizer": "byte"},
    ],
)
@pytest.mark.parametrize("task", sorted(TASKS))
def test_batched_episodes_are_those_of_the_aec_form(task, options, level):
    if "tokenizer" in options and task == "imdb":
        options = {**options, "max_prompt_tokens": 400}
    games = cory_env.vector_env(6, task, **options)
    play_randomly(games, games.reset(seed=0))
    replay(games, cory_env.env(task, action_level=level, **options))


@pytest.mark.parametrize("level", ["token", "response"])
def test_texts_play_the_same_game_as_their_tokens(level):
    games = cory_env.vector_env(3, "imdb")
    games.reset(seed=0)
    games.step([" was a joy.", "", " very" * 40])
    games.step([" It's <|endoftext|>", " 🎬", "\n"])
    truncated = [response.truncated for response in games.responses["pioneer_0"]]
    assert truncated == [False, False, True]
    assert games.responses["pioneer_0"][2].text == " very" * 16
    replay(games, cory_env.env("imdb", action_level=level))


def test_replay_follows_the_roles():
    games = cory_env.vector_env(1, "toy", swap_every=1)
    env = cory_env.env("toy", swap_every=1)
    for seed in range(3):
        play_randomly(games, games.reset(), seed)
        replay(games, env)


@pytest.mark.parametrize("tampered", ["rewards", "task_rewards"])
def test_replay_finds_a_wrong_number(tampered):
    games, prompts = toy_games()
    play_randomly(games, prompts)
    getattr(games, tampered)["observer_0"][1] += 0.01
    with pytest.raises(AssertionError, match="of observer_0 in episode 1"):
        replay(games, cory_env.env("toy"))


def test_replay_finds_another_game():
    games, prompts = toy_games()
    play_randomly(games, prompts)
    with pytest.raises(AssertionError, match="observation"):
        replay(games, cory_env.env("toy", knowledge_transfer=False))


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_parallel_form_plays_the_game_of_the_aec_form(name):
    """Also when whoever is not on turn does as it likes."""
    aec, parallel = cory_env.env(name, observers=2), cory_env.parallel_env(name, observers=2)
    aec.reset(seed=0)
    observations, infos = parallel.reset(seed=0)
    rng = np.random.default_rng(0)
    vocabulary = parallel.action_space("pioneer_0").n
    while parallel.agents:
        active = aec.agent_selection
        assert {info["active_agent"] for info in infos.values()} == {active}
        for agent, observation in observations.items():
            np.testing.assert_equal(observation, aec.observe(agent))
            allowed = vocabulary if agent == active else 1
            assert observation["action_mask"].sum() == allowed
        np.testing.assert_array_equal(parallel.state(), aec.state())
        actions = {agent: rng.integers(vocabulary) for agent in parallel.agents}
        observations, rewards, terminations, truncations, infos = parallel.step(actions)
        aec.step(actions[active])
    assert rewards == aec.rewards
    assert terminations == dict.fromkeys(parallel.possible_agents, True)
    assert truncations == dict.fromkeys(parallel.possible_agents, False)
    assert parallel.step({}) == ({}, {}, {}, {}, {})
    with pytest.raises(ValueError, match=r"Expected actions of \[\], got \['pioneer_0'\]"):
        parallel.step({"pioneer_0": 0})
