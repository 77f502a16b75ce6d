"""What is shown: rows of ones and zeros instead of ids, and arrays that nobody can spoil."""

import copy
import pickle

import numpy as np
import pytest

import cory_env

FORMS = {"aec": cory_env.raw_env, "parallel": cory_env.parallel_env}


def playthrough(seed, **options):
    """Yield the game after every step of a random game of three agents."""
    env = cory_env.raw_env("toy", observers=2, swap_every=1, **options)
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    yield env
    while not any(env.terminations.values()):
        env.step(rng.integers(12) if env.action_level == "token" else rng.integers(12, size=2))
        yield env


@pytest.mark.parametrize("level", ["token", "response"])
def test_one_hot_rows_say_what_the_ids_say(level):
    pairs = zip(
        playthrough(3, action_level=level),
        playthrough(3, action_level=level, one_hot=True),
        strict=True,
    )
    for plain, rows in pairs:
        for agent in plain.possible_agents:
            ids, hot = plain.observe(agent), rows.observe(agent)
            assert rows.observation_space(agent).contains(hot)
            kept = ids["attention_mask"] == 1
            expected = np.eye(12)[ids["observation"]] * kept[:, None]
            np.testing.assert_array_equal(hot.pop("observation"), expected)
            ids.pop("observation")
            assert {k: v.tolist() for k, v in ids.items()} == {
                k: v.tolist() for k, v in hot.items()
            }
        state = plain.state()
        assert rows.state_space.contains(rows.state())
        np.testing.assert_array_equal(rows.state(), np.eye(12)[state] * (state >= 0)[:, None])


def test_nothing_of_the_last_episode_shows_in_the_next():
    env = cory_env.raw_env("toy", one_hot=True)
    seen = []
    for _ in range(2):
        env.reset(options={"example": cory_env.Example("a", reference="a")})
        seen.append((env.observe("pioneer_0"), env.observe("observer_0"), env.state()))
        for token in (1, 2, 3, 4, 5, 6):
            env.step(token)
    for first, second in zip(*seen, strict=True):
        np.testing.assert_equal(first, second)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("form", FORMS)
def test_the_shared_masks_of_a_copy_cannot_be_written_to(form, copied):
    env = copied(FORMS[form]("toy"))
    env.reset(seed=0)
    raw = getattr(env, "aec_env", env)
    for agent in raw.possible_agents:
        with pytest.raises(ValueError, match="read-only"):
            raw.observe(agent)["action_mask"][0] = 0


def test_every_form_of_the_game_shows_who_plays_what():
    roles = "agents=['pioneer_0', 'observer_0']"
    shown = {
        cory_env.env(task="toy"): f"cory_v0(task='toy', {roles}, action_level='token')",
        cory_env.parallel_env(task="toy", action_level="response", swap_every=1): (
            "parallel_env(task='toy', agents=['llm_0', 'llm_1'], action_level='response')"
        ),
        cory_env.vector_env(3, task="toy"): f"VectorEnv(num_envs=3, task='toy', {roles})",
        cory_env.gym_env(task="toy"): (
            f"gym_env(seat='observer_0', task='toy', {roles}, action_level='token')"
        ),
    }
    for env, expected in shown.items():
        assert repr(env) == str(env) == expected
