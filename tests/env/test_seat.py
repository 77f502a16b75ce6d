"""One seat as a Gymnasium environment: the same game, with the other seats played for it."""

import doctest
from itertools import pairwise

import gymnasium
import numpy as np
import pettingzoo
import pytest

import cory_env
from cory_env.registry import TASKS


def reverse(observation, info):
    return info["prompt"].rstrip(">")[::-1]


def test_the_example_of_the_docstring_runs():
    results = doctest.testmod(cory_env.seat)
    assert (results.attempted > 0, results.failed) == (True, 0)


def test_the_observer_is_asked_after_its_partner_has_answered():
    seat = cory_env.gym_env("observer_0", reverse, task="toy", action_level="response")
    example = cory_env.Example("abc", reference="cba")
    _, info = seat.reset(options={"example": example})
    assert info == {"role": "observer_0", "prompt": "cba="}
    _, reward, terminated, truncated, info = seat.step("cbb")
    assert (reward, terminated, truncated) == (pytest.approx(1 + 2 / 3), True, False)
    assert info["task_reward"] == pytest.approx(2 / 3)


def test_the_pioneer_is_paid_after_its_partners_have_answered():
    echo = cory_env.gym_env(
        "pioneer_0",
        lambda observation, info: info["prompt"].split(",")[0].rstrip("="),
        task="toy",
        action_level="response",
        observers=2,
    )
    echo.reset(options={"example": cory_env.Example("abc", reference="cba")})
    assert echo.step("cba")[1] == 3.0


def test_a_seat_sees_what_the_aec_form_shows_it():
    tokens = np.random.default_rng(0).integers(12, size=3).tolist()
    seat = cory_env.gym_env("observer_0", lambda *_: 3, task="toy")
    env = cory_env.env("toy")
    env.reset(seed=5)
    for _ in range(3):
        env.step(3)
    seen, info = seat.reset(seed=5)
    for token in tokens:
        expected, _, _, _, expected_info = env.last()
        for key, array in expected.items():
            np.testing.assert_array_equal(seen[key], array)
        assert info == expected_info
        env.step(token)
        seen, reward, terminated, _, info = seat.step(token)
    assert terminated
    assert reward == env.rewards["observer_0"]


def test_random_partners_depend_on_the_seed_alone():
    def played(seat, seed):
        observation, _ = seat.reset(seed=seed)
        return observation["observation"].tolist()

    seats = [cory_env.gym_env("observer_0", task="toy") for _ in range(2)]
    first, second = ([played(seat, seed) for seed in range(8)] for seat in seats)
    assert first == second
    assert all(a != b for a, b in pairwise(first))


def test_a_random_partner_does_not_reuse_the_numbers_that_drew_the_example():
    drawn, played = [], []
    seat = cory_env.gym_env("observer_0", task=cory_env.make_task("toy", symbols=2), observers=1)
    for seed in range(200):
        seat.reset(seed=seed)
        game = seat.aec_env._game
        drawn.append(game.example.query[0] == "b")
        played.append(game.responses[0].ids[0] >= 3)  # six symbols, so half of them
    # Two fair coins: |correlation| of 200 independent pairs exceeds 0.28 once in 10,000 times.
    assert abs(np.corrcoef(drawn, played)[0, 1]) < 0.28


def test_after_a_partner_has_failed_the_seat_must_be_reset():
    seat = cory_env.gym_env("observer_0", lambda *_: 99, task="toy")
    with pytest.raises(ValueError, match=r"action of pioneer_0 .* 0 to 11, got 99"):
        seat.reset(seed=0)
    with pytest.raises(RuntimeError, match="not on turn"):
        seat.step(0)


def test_steps_out_of_order_are_refused():
    seat = cory_env.gym_env("pioneer_0", observers=0, task="toy", action_level="response")
    with pytest.raises(RuntimeError, match=r"call of reset\(\)"):
        seat.step("a")
    seat.reset(seed=0)
    assert seat.step("a")[2]
    with pytest.raises(RuntimeError, match=r"call of reset\(\)"):
        seat.step("a")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("observer_1",),
            ValueError,
            r"seat \(pioneer_0, observer_0\), got 'observer_1'",
        ),
        (("observer_0", "random"), TypeError, "partner to be callable or None, got 'random'"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        cory_env.gym_env(*arguments, task="toy")


def test_the_action_masks_are_booleans_that_may_be_written_to():
    seat = cory_env.gym_env("observer_0", task="toy")
    observation, _ = seat.reset(seed=0)
    masks = seat.action_masks()
    assert masks.dtype == bool
    assert masks.tolist() == [True] * 12
    masks[:] = False
    observation["action_mask"][:] = 0
    assert seat.action_masks().all()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_built_in_task_is_made_by_its_registered_names(task):
    seat = gymnasium.make(f"cory_env/{task.capitalize()}-v0", seat="pioneer_0", observers=2)
    assert seat.unwrapped.aec_env.rules.task.name == task
    env = pettingzoo.make("aec", f"cory_env/{task}_v0", observers=2)
    assert env.unwrapped.rules.task.name == task
    parallel = pettingzoo.make("parallel", f"cory_env/{task}_v0", observers=2)
    assert parallel.possible_agents == ["pioneer_0", "observer_0", "observer_1"]


def test_gymnasium_steps_many_seats_at_once():
    seats = gymnasium.make_vec("cory_env/Toy-v0", num_envs=3, one_hot=True)
    observation, _ = seats.reset(seed=0)
    assert observation["observation"].shape == (3, 35, 12)
    assert seats.step(np.array([1, 2, 3]))[1].tolist() == [0, 0, 0]
    seats.close()
