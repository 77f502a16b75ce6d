"""Role exchange is a permutation, and everything that belongs to a policy stays with it."""

from __future__ import annotations

import pytest
import torch

from agents.algorithms.kl import KLController
from agents.training.roles import RoleSchedule
from agents.training.trainer import Trainer

ROLES, NAMES = ("pioneer_0", "observer_0"), ("llm_0", "llm_1")


def assign(iteration, every, kind="every", roles=ROLES, names=NAMES):
    return RoleSchedule(kind=kind, every=every).assign(roles, names, iteration)


def test_two_policies_change_places_every_k_iterations():
    pioneers = [assign(i, 2)["pioneer_0"] for i in range(6)]
    assert pioneers == ["llm_0", "llm_0", "llm_1", "llm_1", "llm_0", "llm_0"]


def test_swapping_twice_is_the_identity():
    assert assign(0, 3) == assign(6, 3)


def test_without_an_exchange_nothing_ever_moves():
    expected = dict(zip(ROLES, NAMES, strict=True))
    assert all(assign(i, 5, "never") == expected for i in range(50))


def test_lots_are_drawn_anew_every_k_iterations_and_depend_on_the_seed_alone():
    pioneers = [assign(i, 2, "random")["pioneer_0"] for i in range(200)]
    assert pioneers == [assign(i, 2, "random")["pioneer_0"] for i in range(200)]
    assert pioneers[::2] == pioneers[1::2]
    # 99 fair coins: outside [30, 70] once in 40,000 seeds
    assert 30 < pioneers[2::2].count("llm_0") < 70


def test_a_plateau_exchanges_roles_after_so_many_iterations_without_a_rise():
    schedule = RoleSchedule(kind="plateau", every=2)
    pioneers = []
    for reward in (1.0, 1.2, 1.205, 1.21, 0.5, 0.4, 0.3, 0.9):
        pioneers.append(schedule.assign(ROLES, NAMES, 0)["pioneer_0"])
        schedule.observe(reward)
    # 1.205 and 1.21 are less than 1 % above 1.2; after the exchange 0.5 is the first of its own
    assert pioneers == ["llm_0"] * 4 + ["llm_1"] * 3 + ["llm_0"]


def test_the_state_of_a_schedule_is_all_there_is_to_it():
    schedule, other = (RoleSchedule(kind="plateau", every=1) for _ in range(2))
    for reward in (1.0, 0.5, 0.4):
        schedule.observe(reward)
    other.load_state(schedule.state())
    assert other == schedule


@pytest.mark.parametrize("agents", [1, 2, 3, 4])
def test_every_assignment_is_a_permutation_and_everyone_gets_every_role(agents):
    roles, names = [f"r{i}" for i in range(agents)], [f"p{i}" for i in range(agents)]
    seen = {name: set() for name in names}
    for iteration in range(agents):
        assignment = assign(iteration, 1, roles=roles, names=names)
        assert sorted(assignment.values()) == names
        for role, name in assignment.items():
            seen[name].add(role)
    assert all(found == set(roles) for found in seen.values())


def test_a_period_beyond_the_run_is_bit_identical_to_no_swap(toy_config):
    weights = []
    for swap, swap_every in (("never", 1), ("every", 100)):
        trainer = Trainer(toy_config(swap=swap, swap_every=swap_every))
        for iteration in range(2):
            trainer.iterate(iteration)
        weights.append({key: t.clone() for key, t in trainer.state()[0].items()})
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_roles_in_the_log_follow_the_schedule(toy_config):
    trainer = Trainer(toy_config(swap_every=1))
    rows = [trainer.iterate(iteration) for iteration in range(3)]
    assert [row["llm_0/role"] for row in rows] == ["pioneer_0", "observer_0", "pioneer_0"]
    assert [row["llm_1/role"] for row in rows] == ["observer_0", "pioneer_0", "observer_0"]


def test_a_swap_neither_resets_nor_mixes_the_optimisers(toy_config):
    trainer = Trainer(toy_config(swap_every=1))
    steps = []
    for iteration in range(3):
        trainer.iterate(iteration)
        steps.append(
            [
                int(s["step"])
                for s in trainer.learner.optimizers["llm_0"].state_dict()["state"].values()
            ]
        )
    # 8 episodes in minibatches of 4: two steps per iteration, counted on across both swaps
    assert [set(s) for s in steps] == [{2}, {4}, {6}]


def test_adaptive_coefficient_by_hand_and_its_limits():
    controller = KLController(coef=0.5, target=10.0, horizon=1000)
    controller.update(11.0, episodes=100)
    assert controller.coef == pytest.approx(0.5 * (1 + 0.1 * 0.1))
    controller = KLController(coef=0.5, target=10.0, horizon=1000)
    controller.update(1000.0, episodes=100)
    assert controller.coef == pytest.approx(0.5 * 1.02)
    controller = KLController(coef=0.5)
    controller.update(1000.0, episodes=100)
    assert controller.coef == 0.5
