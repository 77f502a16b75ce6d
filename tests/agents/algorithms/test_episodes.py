"""Episodes that are kept: what a critic of whole answers sees of them, in the order they came."""

from __future__ import annotations

import torch

from agents.algorithms.episodes import Episodes
from agents.distributed.world import World


def episodes(*prompts: tuple[str, str]) -> Episodes:
    count = len(prompts)
    numbers = torch.arange(count * 6.0).view(count, 2, 3)
    rewards = torch.tensor([[len(text) + 0.5 for text in row] for row in prompts])
    return Episodes(prompts=prompts, states=numbers, actions=-numbers, rewards=rewards)


def same(one: Episodes, other: Episodes) -> bool:
    tensors = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return one.prompts == other.prompts and all(torch.equal(*pair) for pair in tensors)


def test_new_episodes_stand_behind_the_old_ones_and_the_oldest_go():
    old, new = episodes(("a", "bb")), episodes(("c", ""), ("d", "ee"))
    both = old.add(new, capacity=10)
    assert both.prompts == (("a", "bb"), ("c", ""), ("d", "ee"))
    assert both.rewards.tolist() == [[1.5, 2.5], [1.5, 0.5], [1.5, 2.5]]
    assert same(old.add(new, capacity=2), new)
    assert same(both.latest(2), new)
    assert len(old) == 1  # what there was has not changed
    assert torch.equal(both.states[1:], new.states)
    assert torch.equal(both.actions[1:], new.actions)


def test_tensors_hold_all_of_it():
    found = episodes(("", "zwei\nZeilen"), ("größer 👍", "\ud800"))
    tensors = found.tensors()
    assert tensors["lengths"].tolist() == [0, 11, 13, 3]
    assert same(Episodes.of(tensors), found)


def test_one_process_has_all_of_it():
    found = episodes(("a", "b"))
    assert same(found.of_all(World()), found)
