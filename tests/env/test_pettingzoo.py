"""PettingZoo's own conformance tests, over every registered task and both action levels."""

import warnings

import pytest
from gymnasium.utils.env_checker import data_equivalence
from pettingzoo.test import (
    api_test,
    parallel_api_test,
    parallel_seed_test,
    render_test,
    seed_test,
)
from pettingzoo.test.state_test import state_test
from pettingzoo.utils import aec_to_parallel, parallel_to_aec

import cory_env
from cory_env.registry import TASKS

LEVELS = ("token", "response")
CYCLES = 40
OPTIONS = [
    {},
    {"swap_every": 1},
    {"observers": 0},
    {"observers": 2},
    {"rounds": 2, "max_prompt_tokens": 2048},
]

# What every environment with a dictionary of observations hears (chess and go are on a list).
USUAL_WARNINGS = {
    "Observation is not a NumPy array",
    "Observation space for each agent probably should be gymnasium.spaces.box or "
    "gymnasium.spaces.discrete",
}


@pytest.fixture(params=sorted(TASKS))
def task(request):
    return cory_env.make_task(request.param)


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


@pytest.mark.parametrize("options", OPTIONS)
def test_api(task, level, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api_test(cory_env.env(task, action_level=level, **options), num_cycles=CYCLES)
        api_test(cory_env.raw_env(task, action_level=level, **options), num_cycles=CYCLES)
    assert {str(warning.message) for warning in caught} <= USUAL_WARNINGS


@pytest.mark.parametrize("options", OPTIONS)
def test_parallel_api(task, level, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(cory_env.parallel_env(task, action_level=level, **options), CYCLES)


def test_the_generic_converter_refuses_what_parallel_env_does(level):
    with pytest.raises(AssertionError, match="should only update once at the end of each cycle"):
        aec_to_parallel(cory_env.env("toy", action_level=level))
    with warnings.catch_warnings(record=True):
        api_test(parallel_to_aec(cory_env.parallel_env("toy", action_level=level)), CYCLES)


def test_seed(task, level):
    seed_test(lambda: cory_env.env(task, action_level=level), CYCLES)
    parallel_seed_test(lambda: cory_env.parallel_env(task, action_level=level), CYCLES)


def test_state(task, level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state_test(
            cory_env.env(task, action_level=level),
            cory_env.parallel_env(task, action_level=level),
            CYCLES,
        )


def test_render(task, level, capsys):
    render_test(lambda render_mode: cory_env.env(task, action_level=level, render_mode=render_mode))
    assert "pioneer_0 reads:" in capsys.readouterr().out


def rollout(env, num_steps):
    """Play on with masked random actions; return all that is seen."""
    seen = []
    for _ in range(num_steps):
        if not env.agents:
            env.reset()
        last = env.last()
        done = last[2] or last[3]
        mask = last[0].get("action_mask")
        action = None if done else env.action_space(env.agent_selection).sample(mask)
        seen.append((env.agent_selection, *last, env.state(), action))
        env.step(action)
    return seen


def test_equal_seeds_give_equal_episodes_beyond_the_first(task, level):
    """`seed_test` stops at the first end, so it would not see the second episode's example."""
    envs = [cory_env.env(task, action_level=level, swap_every=1) for _ in range(2)]
    for env in envs:
        rollout_seed(env, 7)
    first, second = (rollout(env, 100) for env in envs)
    assert data_equivalence(first, second, exact=True)


def rollout_seed(env, seed):
    env.reset(seed=seed)
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(seed + i)


def test_different_seeds_ask_different_examples(task):
    env = cory_env.env(task)
    prompts = set()
    for seed in range(8):
        env.reset(seed=seed)
        prompts.add(env.infos["pioneer_0"]["prompt"])
    assert len(prompts) > 4


def test_reset_without_a_seed_goes_on_in_the_stream(task):
    env = cory_env.env(task)
    env.reset(seed=3)
    first = [env.infos["pioneer_0"]["prompt"]]
    for _ in range(5):
        env.reset()
        first.append(env.infos["pioneer_0"]["prompt"])
    assert len(set(first)) > 3
    env.reset(seed=3)
    assert env.infos["pioneer_0"]["prompt"] == first[0]
