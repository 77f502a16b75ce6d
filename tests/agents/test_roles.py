"""Role exchange is a permutation, and everything that belongs to a policy stays with it."""

from __future__ import annotations

import pytest
import torch

from agents.kl import KLController
from agents.roles import assign_roles
from agents.trainer import Trainer

ROLES, NAMES = ("pioneer_0", "observer_0"), ("llm_0", "llm_1")


def test_two_policies_change_places_every_k_iterations():
    pioneers = [assign_roles(ROLES, NAMES, i, 2)["pioneer_0"] for i in range(6)]
    assert pioneers == ["llm_0", "llm_0", "llm_1", "llm_1", "llm_0", "llm_0"]


def test_swapping_twice_is_the_identity():
    assert assign_roles(ROLES, NAMES, 0, 3) == assign_roles(ROLES, NAMES, 6, 3)


def test_without_a_period_nothing_ever_moves():
    assert all(
        assign_roles(ROLES, NAMES, i, None) == dict(zip(ROLES, NAMES, strict=True))
        for i in range(50)
    )


@pytest.mark.parametrize("agents", [1, 2, 3, 4])
def test_every_assignment_is_a_permutation_and_everyone_gets_every_role(agents):
    roles, names = [f"r{i}" for i in range(agents)], [f"p{i}" for i in range(agents)]
    seen = {name: set() for name in names}
    for iteration in range(agents):
        assignment = assign_roles(roles, names, iteration, 1)
        assert sorted(assignment.values()) == names
        for role, name in assignment.items():
            seen[name].add(role)
    assert all(found == set(roles) for found in seen.values())


def test_a_period_beyond_the_run_is_bit_identical_to_no_swap(toy_config):
    weights = []
    for swap_every in (0, 100):
        trainer = Trainer(toy_config(swap_every=swap_every))
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
            [int(s["step"]) for s in trainer.optimizers["llm_0"].state_dict()["state"].values()]
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
