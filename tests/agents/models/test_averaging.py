"""Means of updates: literal numbers, a twin that multiplies everything out, and no matrix made."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents.models.averaging import (
    Adapter,
    Update,
    concatenate,
    config_of_rank,
    decompose,
    mean_adapter,
    mean_tensor,
    smallest_rank,
)

DOWN, UP = "base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight"
# float32 sums in another order, relative to the largest entry.
ORDER = {"rtol": 1e-5, "atol": 1e-5}


def dense(update: Update) -> Tensor:
    return update.up @ update.down


def adapter(up: list, down: list, *, alpha: int = 1) -> Adapter:
    tensors = {DOWN: torch.tensor(down), UP: torch.tensor(up)}
    return Adapter.of(tensors, LoraConfig(r=len(down), lora_alpha=alpha * len(down)))


def random_adapters(count: int, *, rank: int = 3, rows: int = 50, columns: int = 40) -> list:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    config = LoraConfig(r=rank, lora_alpha=2 * rank)
    return [
        Adapter.of({DOWN: drawn(rank, columns), UP: drawn(rows, rank)}, config)
        for _ in range(count)
    ]


def test_the_mean_of_two_updates_is_that_of_their_products():
    ours, theirs = adapter([[1.0], [0.0]], [[2.0, 0.0]]), adapter([[0.0], [1.0]], [[0.0, 4.0]])
    mean = mean_adapter([ours, theirs], [1, 1])
    assert mean.rank == 2
    torch.testing.assert_close(
        dense(mean.adapter.updates[DOWN]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), **ORDER
    )


def test_the_means_of_the_factors_multiply_to_something_else():
    ours, theirs = adapter([[1.0]], [[1.0]]), adapter([[-1.0]], [[-1.0]])
    mean = mean_adapter([ours, theirs], [1, 1])
    torch.testing.assert_close(dense(mean.adapter.updates[DOWN]), torch.tensor([[1.0]]))
    factors = [torch.stack([a.updates[DOWN].up, a.updates[DOWN].down]) for a in (ours, theirs)]
    up, down = mean_tensor(factors, [1, 1])
    assert up @ down == 0


def test_weights_are_shares_and_a_scale_multiplies():
    ours, theirs = adapter([[1.0]], [[4.0]]), adapter([[1.0]], [[8.0]])
    mean = mean_adapter([ours, theirs], [3, 1], scale=2)
    torch.testing.assert_close(dense(mean.adapter.updates[DOWN]), torch.tensor([[10.0]]))
    assert (mean.rank, mean.error) == (1, 0)


@pytest.mark.parametrize("shape", [(50, 40), (40, 50), (5, 40), (40, 5), (2, 2)])
def test_a_mean_is_what_multiplying_out_finds(shape):
    adapters = random_adapters(4, rows=shape[0], columns=shape[1])
    weights = [1.0, 2.0, 0.5, 0.5]
    wanted = sum(w / 4 * dense(a.updates[DOWN]) for w, a in zip(weights, adapters, strict=True))
    mean = mean_adapter(adapters, weights)
    found = dense(mean.adapter.updates[DOWN])
    assert mean.rank <= 12
    assert (found - wanted).norm() <= max(mean.error, 1e-6) * 1.01 * wanted.norm()
    assert mean.error < 0.01
    # The best that any matrix of the rank can do.
    for rank in (1, 3, mean.rank):
        left, values, right = torch.linalg.svd(wanted, full_matrices=False)
        best = left[:, :rank] * values[:rank] @ right[:rank]
        cut = mean_adapter(adapters, weights, rank=rank)
        torch.testing.assert_close(dense(cut.adapter.updates[DOWN]), best, rtol=0, atol=1e-4)
        # Of float32, what is left of a difference.
        assert cut.error == pytest.approx(float((best - wanted).norm() / wanted.norm()), abs=1e-6)


def test_a_merge_is_the_concatenation_to_six_digits():
    adapters = random_adapters(2)
    wanted = dense(concatenate([a.updates[DOWN] for a in adapters], [0.5, 0.5]))
    mean = mean_adapter(adapters, [1, 1], rank=6)
    assert (dense(mean.adapter.updates[DOWN]) - wanted).norm() <= 1e-6 * wanted.norm()
    assert mean.error == 0


def test_the_rank_is_the_smallest_that_loses_less_than_one_per_cent_of_any_layer():
    def spectrum(*values: float):
        return decompose(Update(up=torch.diag(torch.tensor(values)), down=torch.eye(len(values))))

    assert smallest_rank([spectrum(1.0, 0.0099, 0.0)]) == 1
    assert smallest_rank([spectrum(1.0, 0.0101, 0.0)]) == 2
    assert smallest_rank([spectrum(1.0, 0.008, 0.008)]) == 2
    assert smallest_rank([spectrum(1.0, 0.0, 0.0), spectrum(1e-6, 1e-6, 1e-6)]) == 3
    assert smallest_rank([spectrum(0.0, 0.0)]) == 1


def test_a_rank_that_is_asked_for_wins_also_where_it_is_larger():
    adapters = random_adapters(2)
    mean = mean_adapter(adapters, [1, 1], rank=9)
    update = mean.adapter.updates[DOWN]
    assert (update.up.shape, update.down.shape, mean.rank) == ((50, 9), (9, 40), 9)
    wanted = dense(concatenate([a.updates[DOWN] for a in adapters], [0.5, 0.5]))
    torch.testing.assert_close(dense(update), wanted, **ORDER)


def test_copies_of_one_adapter_keep_its_rank_and_update():
    (ours,) = random_adapters(1)
    mean = mean_adapter([ours, ours, ours], [1, 1, 1])
    assert mean.rank == 3
    wanted = dense(ours.updates[DOWN])
    assert (dense(mean.adapter.updates[DOWN]) - wanted).norm() <= 1e-6 * wanted.norm()


def test_an_adapter_that_has_not_learnt_has_a_mean():
    blank = adapter([[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]])
    mean = mean_adapter([blank, blank], [1, 1])
    assert (mean.rank, mean.error) == (1, 0)
    assert not dense(mean.adapter.updates[DOWN]).any()


def test_scalings_follow_the_patterns_of_the_configuration():
    tensors = {
        f"base_model.model.layers.{layer}.mlp.lora_{factor}.weight": torch.ones(1, 1)
        for layer in (0, 1)
        for factor in "AB"
    }
    pattern = r"layers\.0(\..*)?"
    config = LoraConfig(r=4, lora_alpha=8, rank_pattern={pattern: 1}, alpha_pattern={pattern: 7})
    found = Adapter.of(tensors, config).updates
    assert [float(dense(update)) for update in found.values()] == [7, 2]
    config = LoraConfig(r=4, lora_alpha=8, use_rslora=True)
    assert [float(dense(u)) for u in Adapter.of(tensors, config).updates.values()] == [4, 4]
    mean = config_of_rank(config, 5)
    assert (mean.r, mean.lora_alpha, mean.use_rslora) == (5, 5, False)


class Largest(TorchDispatchMode):
    """Remember the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        """Run an operation, and look at what comes of it."""
        found = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return found


def test_no_matrix_of_the_size_of_the_layer_is_ever_made():
    adapters = random_adapters(4, rank=2, rows=600, columns=500)
    with Largest() as made:
        mean = mean_adapter(adapters, [1, 1, 1, 1])
        mean.adapter.tensors(torch.bfloat16)
    assert made.numbers == 600 * 8  # the concatenated factor
    with Largest() as made:
        dense(adapters[0].updates[DOWN])
    assert made.numbers == 600 * 500


def test_tensors_have_the_mean_of_their_weights_in_float32():
    first, second = torch.tensor([1.0, 2.0]).bfloat16(), torch.tensor([2.0, 2.01]).bfloat16()
    mean = mean_tensor([first, second], [1, 3])
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean[0], torch.tensor(1.75))
    assert torch.equal(mean_tensor([torch.tensor([3])] * 2, [1, 1]), torch.tensor([3]))


def dora_weight(base: Tensor, magnitude: Tensor, update: Tensor) -> Tensor:
    turned = base + update
    return magnitude[:, None] * turned / turned.norm(dim=1, keepdim=True)


def dora(up: list, down: list, magnitudes: list) -> Adapter:
    tensors = {DOWN: torch.tensor(down), UP: torch.tensor(up)}
    tensors["base_model.model.layer.lora_magnitude_vector.weight"] = torch.tensor(magnitudes)
    return Adapter.of(tensors, LoraConfig(r=1, lora_alpha=1, use_dora=True))


def test_dora_is_the_mean_of_weights_where_directions_agree_and_close_to_it_elsewhere():
    base = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    magnitude = "base_model.model.layer.lora_magnitude_vector"

    def weights(*adapters: Adapter) -> list[Tensor]:
        return [
            dora_weight(base, a.magnitudes[magnitude], dense(a.updates[DOWN])) for a in adapters
        ]

    ours, theirs = (dora([[0.1], [0.2]], [[1.0, 1.0]], m) for m in ([5.0, 2.0], [7.0, 4.0]))
    mean = mean_adapter([ours, theirs], [1, 1]).adapter
    torch.testing.assert_close(mean.magnitudes[magnitude], torch.tensor([6.0, 3.0]))
    torch.testing.assert_close(weights(mean)[0], sum(weights(ours, theirs)) / 2, **ORDER)
    # Rows at an angle of 2 a: theirs keeps its length, the mean of the rows is cos a as long.
    for a in (0.1, 0.05):
        ours, theirs = (dora([[0.0], [1.0]], [[s * 2 * a, 0.0]], [5.0, 2.0]) for s in (1, -1))
        mean = mean_adapter([ours, theirs], [1, 1]).adapter
        found, wanted = weights(mean)[0], sum(weights(ours, theirs)) / 2
        assert float(found[1].norm()) == pytest.approx(2)
        # tan a' = a, and cos a' = 1 - a²/2 to third order
        assert float(wanted[1].norm() / 2) == pytest.approx(1 - a**2 / 2, abs=a**4)
        torch.testing.assert_close(found[1] / 2, wanted[1] / wanted[1].norm(), **ORDER)
