"""What a run leaves: the mean of its policies' weights over the last iterations.

At a constant learning rate the last iterate is a draw around where the policies are; the mean of
some draws is nearer to it (Polyak averaging; SWA, arXiv 1803.05407; of policies, WARP, arXiv
2406.16768). Learning never reads it. What is averaged is in `agents.models.averaging`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from agents.distributed.sharding import spread_like
from agents.models.averaging import Mean
from agents.policies.llm import LLMPolicy
from agents.policies.weights import part_of

MOST_SNAPSHOTS = 8
"""As many as are kept of an adapter; of a whole model one running mean is."""


def snapshot_iterations(iterations: int, share: float) -> list[int]:
    """Return after how many iterations a run takes snapshots.

    They are evenly spaced over the window and end with the last iteration. A window of a single
    iteration has no mean.

    Args:
        iterations: of the run.
        share: of the iterations that the window has, from 0 to 1.
    """
    window = round(share * iterations)
    count = min(window, MOST_SNAPSHOTS)
    if count < 2:
        return []
    return [iterations - place * window // count for place in reversed(range(count))]


class Averages:
    """Snapshots of the policies of a run, and their means.

    Of an adapter all snapshots are kept, on the CPU; of a whole model their running mean, where its
    weights are, since there the mean of each tensor is the mean.
    """

    def __init__(self, policies: Mapping[str, LLMPolicy], share: float = 0.0, ends: str = ""):
        """Begin without a snapshot.

        Args:
            policies: by name.
            share: of the iterations, at the end, that the window has.
            ends: what says when the run ends; snapshots that were taken for another end are none
                of this window.
        """
        self._policies = policies
        self._share = share
        self._window = f"{share:g} of {ends}"
        self.taken: list[int] = []
        """The iterations after which snapshots were taken."""
        self._kept: dict[str, list[dict[str, Tensor]]] = {name: [] for name in policies}

    @torch.no_grad()
    def observe(self, done: int, planned: int) -> None:
        """Take a snapshot of all policies if one is due.

        Args:
            done: iterations behind them.
            planned: iterations of the run, as far as is known by now.
        """
        if done not in snapshot_iterations(planned, self._share):
            return
        if len(self.taken) == MOST_SNAPSHOTS:  # a plan that a budget makes may move
            return
        self.taken.append(done)
        for name, policy in self._policies.items():
            weights, kept = policy.backbone.weights(name), self._kept[name]
            if not policy.backbone.averages_by_tensor:
                kept.append({key: t.to("cpu", copy=True) for key, t in weights.items()})
            elif kept:
                for key, mean in kept[0].items():
                    mean.lerp_(weights[key], 1 / len(self.taken))
            else:
                kept.append({key: tensor.clone() for key, tensor in weights.items()})

    def means(self) -> dict[str, Mean]:
        """Return the mean of each policy; none before there are two snapshots."""
        if len(self.taken) < 2:
            return {}
        return {
            name: Mean(weights=kept[0])
            if self._policies[name].backbone.averages_by_tensor
            else self._policies[name].backbone.mean(kept)
            for name, kept in self._kept.items()
            if kept
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the snapshots by name, for a checkpoint."""
        return {
            f"{name}/{place}/{key}": tensor
            for name, kept in self._kept.items()
            for place, weights in enumerate(kept)
            for key, tensor in weights.items()
        }

    def state(self) -> dict[str, Any]:
        """Return what belongs to `tensors`, as JSON takes it."""
        return {"taken": self.taken, "window": self._window} if self.taken else {}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up the snapshots of a checkpoint, if they are of this window.

        Where the run has another end now, or another share, all are dropped: it averages over what
        is left of its window.

        Args:
            tensors: what `tensors` has returned.
            state: what `state` has returned; empty of a version that took none.
        """
        if state.get("window") == self._window:
            self.restore(tensors, state)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up the snapshots of a checkpoint, of whichever window."""
        self.taken = list(state.get("taken", ()))
        for name, policy in self._policies.items():
            by_tensor = policy.backbone.averages_by_tensor
            like = policy.backbone.weights(name) if by_tensor else {}
            found: dict[int, dict[str, Tensor]] = {}
            for key, tensor in part_of(tensors, f"{name}/").items():
                place, own = key.split("/", 1)
                if by_tensor:
                    tensor = spread_like(like[own], tensor).to(like[own].device)
                found.setdefault(int(place), {})[own] = tensor
            self._kept[name] = [found[place] for place in sorted(found)]


def team_mean(policies: Mapping[str, LLMPolicy]) -> Mean | None:
    """Return the mean of what policies are now; None of one alone, or of several base models."""
    backbones = {id(policy.backbone): policy.backbone for policy in policies.values()}
    if len(policies) < 2 or len(backbones) > 1:
        return None
    (backbone,) = backbones.values()
    return backbone.mean([backbone.weights(name) for name in policies])


@contextmanager
def shown(policies: Mapping[str, LLMPolicy], means: Mapping[str, Mean]) -> Iterator[None]:
    """Let policies be their means for a while."""
    with ExitStack() as stack:
        for name, mean in means.items():
            stack.enter_context(policies[name].backbone.lent(name, mean.weights))
        yield
