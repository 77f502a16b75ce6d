"""What an agent of the AEC and parallel forms sees and may do."""

import numpy as np
import pytest

import cory_env
from cory_env.types import Example

ABC = {"example": Example("abc", reference="cba")}
A, B, C, ASK, REPEAT, END = 1, 2, 3, 9, 11, 0


def toy_env(**options):
    env = cory_env.env("toy", **options)
    env.reset(options=ABC)
    return env


def seen(env, agent):
    observation = env.observe(agent)
    mask = observation["attention_mask"] == 1
    assert (observation["observation"][~mask] == END).all()
    return observation["observation"][mask].tolist()


def snapshot(env):
    return (
        env.agent_selection,
        {agent: seen(env, agent) for agent in env.possible_agents},
        env.state().tolist(),
        dict(env.rewards),
        dict(env.terminations),
        {agent: dict(info) for agent, info in env.infos.items()},
    )


def test_an_episode_token_by_token():
    env = toy_env()
    assert env.agent_selection == "pioneer_0"
    assert seen(env, "pioneer_0") == [A, B, C, ASK]
    assert seen(env, "observer_0") == []
    assert env.infos == {
        "pioneer_0": {"role": "pioneer_0", "prompt": "abc>"},
        "observer_0": {"role": "observer_0"},
    }

    env.step(C)
    assert env.agent_selection == "pioneer_0"
    assert seen(env, "pioneer_0") == [A, B, C, ASK, C]

    env.step(END)
    assert env.agent_selection == "observer_0"
    assert seen(env, "pioneer_0") == [A, B, C, ASK, C, END]
    assert seen(env, "observer_0") == [C, REPEAT]
    assert env.infos["pioneer_0"]["response"] == "c"
    assert env.infos["pioneer_0"]["truncated_response"] is False

    for token in (C, B):
        env.step(token)
        assert env.rewards == {"pioneer_0": 0, "observer_0": 0}
        assert not any(env.terminations.values())
    env.step(A)
    assert env.rewards == {
        "pioneer_0": pytest.approx(4 / 3),
        "observer_0": pytest.approx(4 / 3),
    }
    assert env.terminations == {"pioneer_0": True, "observer_0": True}
    assert env.truncations == {"pioneer_0": False, "observer_0": False}
    assert env.infos["observer_0"] == {
        "role": "observer_0",
        "prompt": "c=",
        "response": "cba",
        "truncated_response": True,
        "task_reward": 1.0,
    }
    assert env.infos["pioneer_0"]["task_reward"] == pytest.approx(1 / 3)
    for agent in ("pioneer_0", "observer_0"):
        assert env.agent_selection == agent
        env.step(None)
    assert env.agents == []


def test_the_state_is_the_joint_transcript():
    env = toy_env(max_prompt_tokens=5)
    for token in (C, END, B):
        env.step(token)
    none = -1
    assert env.state().tolist() == [A, B, C, ASK, none, C, END, none, B, none, none]


def test_the_role_is_in_the_observation_where_roles_are_swapped():
    env = cory_env.env("toy", swap_every=1)
    roles = []
    for _ in range(2):
        env.reset()
        roles.append([int(env.observe(agent)["role"]) for agent in ("llm_0", "llm_1")])
        assert env.infos[env.agent_selection]["role"] == "pioneer_0"
    assert roles == [[0, 1], [1, 0]]
    assert "role" not in toy_env().observe("pioneer_0")


def test_no_step_builds_a_mask_of_the_vocabulary():
    env = toy_env()
    first = env.observe("pioneer_0")["action_mask"]
    env.step(A)
    assert env.observe("pioneer_0")["action_mask"] is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_a_kept_observation_does_not_change_when_the_game_goes_on():
    env = toy_env()
    kept = env.observe("pioneer_0")
    state = env.state()
    env.step(A)
    now = env.observe("pioneer_0")
    for key in ("observation", "attention_mask"):
        assert kept[key].tolist() != now[key].tolist()
    assert state.tolist() != env.state().tolist()


def test_a_new_episode_shows_nothing_of_the_last_one():
    env = toy_env()
    fresh = snapshot(env)
    for token in (C, B, A, C, B, A):
        env.step(token)
    env.reset(options=ABC)
    assert snapshot(env) == fresh


def test_a_seed_begins_the_count_of_episodes_anew():
    env = cory_env.env("toy", swap_every=2)
    for _ in range(2):
        env.reset(seed=0)
        order = [env.agent_selection]
        for _ in range(2):
            env.reset()
            order.append(env.agent_selection)
        assert order == ["llm_0", "llm_0", "llm_1"]


def test_a_space_of_responses_holds_texts_and_legal_ids():
    space = cory_env.env("toy", action_level="response").action_space("pioneer_0")
    assert space.shape == (3,)
    for inside in (space.sample(), "", "any text", [], [A], np.array([A, B, C])):
        assert inside in space
    for outside in ([12], [-1], [A, B, C, A], [0.5], [[A]], None, 3):
        assert outside not in space


def test_the_transcript_tells_the_episode():
    env = toy_env(action_level="response", render_mode="ansi", swap_every=1)
    assert env.render() == "query: 'abc'\nllm_0 as pioneer_0 reads: 'abc>'"
    env.step("cb")
    assert env.render() == (
        "query: 'abc'\n"
        "llm_0 as pioneer_0 reads: 'abc>'\n"
        "llm_0 as pioneer_0 answers: 'cb'\n"
        "llm_1 as observer_0 reads: 'cb='"
    )
    env.step("cba")
    assert env.render().splitlines()[-3:] == [
        "llm_1 as observer_0 answers: 'cba' (token limit)",
        "llm_0 is paid: 1.66667",
        "llm_1 is paid: 1.66667",
    ]


def test_the_end_is_printed_for_people(capsys):
    env = toy_env(action_level="response", render_mode="human", observers=0)
    env.step("cba")
    assert capsys.readouterr().out.count("pioneer_0 is paid: 1") == 1


def test_rendering_without_a_mode_warns():
    env = toy_env()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None
