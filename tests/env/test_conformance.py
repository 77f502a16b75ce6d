"""What others ask of an environment: Gymnasium, Stable-Baselines3, and PettingZoo's stress tests.

Of PettingZoo's tests three do not apply: `max_cycles_test` (no such argument), `test_save_obs` (no
images) and `manual_control_test` (no keyboard). The others are in `test_pettingzoo.py`.
"""

import importlib
import itertools
import warnings
from types import SimpleNamespace

import gymnasium
import numpy as np
import pettingzoo
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import api_test, bombardment_test, parallel_api_test, performance_benchmark
from pettingzoo.test.state_test import state_test
from pettingzoo.utils import BaseWrapper

import cory_env
from cory_env.registry import TASKS
from tests.env.test_pettingzoo import USUAL_WARNINGS

TASK_NAMES = sorted(TASKS)
LEVELS = ("token", "response")
SEATS = [{"seat": "pioneer_0"}, {"seat": "observer_0"}, {"seat": "llm_1", "swap_every": 1}]
CASES = [(task, seat) for task in TASK_NAMES for seat in SEATS] + [("toy", {"one_hot": True})]

# A response is no point in a symmetric box, and rows of ones and zeros are no image: what is said
# about networks for such spaces is no fault.
GYMNASIUM_WARNINGS = {"token": set(), "response": {"For Box action spaces, we recommend using"}}
SB3_WARNINGS = {
    "token": set(),
    "response": {"We recommend you to use a symmetric", "Your action space has dtype int64"},
}


def gym_id(task):
    return f"cory_env/{task.capitalize()}-v0"


def assert_only(caught, expected):
    """Find each expected warning, and no other one."""
    messages = [str(warning.message) for warning in caught]
    unexpected = [text for text in messages if not any(words in text for words in expected)]
    assert unexpected == []
    assert all(any(words in text for text in messages) for words in expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("task", "options"), CASES)
def test_a_seat_passes_the_check_of_gymnasium(task, level, options):
    env = gymnasium.make(gym_id(task), action_level=level, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert_only(caught, GYMNASIUM_WARNINGS[level])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("task", "options"), CASES)
def test_a_seat_passes_the_check_of_stable_baselines3(task, level, options):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = cory_env.gym_env(task=task, action_level=level, render_mode="ansi", **options)
    one_hot = {"has an unconventional shape"} if "one_hot" in options else set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checker.check_env(env, skip_render_check=False)
    assert_only(caught, SB3_WARNINGS[level] | one_hot)


@pytest.mark.parametrize("seat", ["pioneer_0", "observer_0"])
def test_the_masks_are_those_that_sb3_contrib_looks_for(seat):
    maskable = pytest.importorskip("sb3_contrib.common.maskable.utils")
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    games = vec_env.DummyVecEnv([lambda: gymnasium.make(gym_id("toy"), seat=seat)] * 2)
    games.reset()
    assert maskable.is_masking_supported(games)
    masks = maskable.get_action_masks(games)
    assert (masks.dtype, masks.shape, masks.all()) == (bool, (2, 12), True)


@pytest.mark.parametrize("task", TASK_NAMES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.filterwarnings("error")
def test_the_passive_checker_of_gymnasium_finds_nothing_to_say(task, level):
    env = gymnasium.make(gym_id(task), action_level=level)
    env.action_space.seed(0)
    for seed in (0, None):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            assert not truncated
    env.close()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.filterwarnings("error")
def test_gymnasium_makes_vectors_of_seats(level):
    envs = gymnasium.make_vec(
        gym_id("toy"), num_envs=3, vectorization_mode="sync", action_level=level
    )
    observations, _ = envs.reset(seed=0)
    assert observations["observation"].shape == (3, 35)
    envs.action_space.seed(0)
    ends = 0
    for _ in range(20):
        *_, terminated, truncated, _ = envs.step(envs.action_space.sample())
        ends += terminated.sum()
        assert not truncated.any()
    assert ends > 3


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_task_is_made_by_name(task):
    """With the arguments of the form."""
    assert gymnasium.make(gym_id(task), seat="pioneer_0").unwrapped.seat == "pioneer_0"
    forms = {"aec": pettingzoo.AECEnv, "parallel": pettingzoo.ParallelEnv}
    for form, kind in forms.items():
        env = pettingzoo.make(form, f"cory_env/{task}_v0", observers=2, action_level="response")
        assert isinstance(env, kind)
        assert env.possible_agents == ["pioneer_0", "observer_0", "observer_1"]
        reset = env.reset(seed=0)
        infos = env.infos if form == "aec" else reset[1]
        asked = cory_env.make_task(task).sample(np.random.default_rng(0)).query
        assert asked in infos["pioneer_0"]["prompt"]


@pytest.mark.parametrize("level", LEVELS)
def test_one_hot_views_pass_the_tests_of_pettingzoo(level):
    options = {"action_level": level, "one_hot": True, "swap_every": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api_test(cory_env.env("toy", **options), num_cycles=40)
    assert {str(warning.message) for warning in caught} <= USUAL_WARNINGS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(cory_env.parallel_env("toy", **options), 40)
        state_test(cory_env.env("toy", **options), cory_env.parallel_env("toy", **options), 40)


class Plain(BaseWrapper):
    """What `bombardment_test` expects still: observations of one array, which `step` returns."""

    def observation_space(self, agent):
        return super().observation_space(agent)["observation"]

    def observe(self, agent):
        return super().observe(agent)["observation"]

    def step(self, action):
        super().step(action)
        return self.observe(self.agent_selection)


@pytest.mark.parametrize("task", TASK_NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_bombardment(task, level, capsys):
    bombardment_test(Plain(cory_env.env(task, action_level=level)), cycles=100)
    assert "Passed bombardment test" in capsys.readouterr().out


@pytest.mark.parametrize("task", TASK_NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_performance_benchmark(task, level, capsys, monkeypatch):
    """By a clock that goes by its readings: five of its seconds are a hundred cycles."""
    module = importlib.import_module("pettingzoo.test.performance_benchmark")
    clock = SimpleNamespace(time=itertools.count(step=0.05).__next__)
    monkeypatch.setattr(module, "time", clock)
    performance_benchmark(cory_env.env(task, action_level=level))
    assert "cycles per second" in capsys.readouterr().out
