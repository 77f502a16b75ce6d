"""The buffer that policies learn from again: ids, in the order they came."""

from __future__ import annotations

import torch

from agents.algorithms.replay import Item, Replay, items_of, token_batch, whole

A, B, C = Item.of([1, 2, 3], [4]), Item.of([1], [5, 70_000, 7]), Item.of([1], [5])


def test_an_item_is_its_token_ids():
    assert (B.prompt_ids, B.response_ids) == ([1], [5, 70_000, 7])
    assert Item.of([1], [5]) == C != B


def test_new_items_stand_behind_the_old_ones_and_the_oldest_goes():
    replay = Replay().add([A, B], capacity=10)
    assert replay.items == (A, B)
    assert replay.add([B, C], capacity=10).items == (A, B, B, C)
    assert replay.add([B, C], capacity=3).items == (B, B, C)
    assert replay.items == (A, B)  # what there was has not changed


def test_whole_batches_are_filled_up_with_the_latest():
    assert whole((A, B, C), 3) == [A, B, C]
    assert whole((A, B, C), 1) == [A, B, C]
    assert whole((A, B, C), 4) == [A, B, C, C]
    assert whole((A, B, C), 8) == [A, B, C, A, B, C, B, C]
    assert whole((), 4) == []


def test_tensors_hold_all_of_it():
    replay = Replay((A, B, C))
    tensors = replay.tensors()
    assert tensors["prompt_ids"].tolist() == [1, 2, 3, 1, 1]
    assert tensors["response_lengths"].tolist() == [1, 3, 1]
    assert {t.dtype for t in tensors.values()} == {torch.int32}
    assert Replay.of(tensors) == replay
    assert Replay.of(Replay().tensors()) == Replay()


def test_a_batch_is_padded_on_both_outer_sides_and_gives_back_its_items():
    batch = token_batch([A, B], pad=9, device=torch.device("cpu"))
    assert batch.prompt_ids.tolist() == [[1, 2, 3], [9, 9, 1]]
    assert batch.prompt_mask.tolist() == [[True] * 3, [False, False, True]]
    assert batch.response_ids.tolist() == [[4, 9, 9], [5, 70_000, 7]]
    assert batch.response_mask.tolist() == [[True, False, False], [True] * 3]
    assert items_of(batch) == [A, B]
