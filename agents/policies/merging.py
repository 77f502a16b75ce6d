"""Policies that go on from their mean at every exchange of roles (`swap=merge`; WARP, 2406.16768).

Of whole models the mean of the weights. Of adapters the mean update ΔW has the sum of their ranks,
more than they can hold. They therefore begin with one A, and meet in the mean of their As: with
ΔW̄ = Σ w B_i A_i, B = argmin |ΔW̄ − B A|. What is lost is of second order in how far the As have
parted. Optimisers go on as they are, since the basis hardly moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from agents.config.run import RunConfig
from agents.distributed.sharding import whole_tensors
from agents.distributed.world import World
from agents.models.averaging import Update, concatenate, decompose, mean_tensor
from agents.models.files import is_down, up_of
from agents.policies.llm import LLMPolicy
from agents.policies.weights import load_policies


def merge_if_due(
    policies: Mapping[str, LLMPolicy], config: RunConfig, iteration: int, world: World
) -> dict[str, float]:
    """Merge before an iteration in which policies exchange roles, if the run is one that does.

    Returns:
        what the mean has lost, for each policy's metrics; nothing with another `swap`.
    """
    if config.swap != "merge":
        return {}
    error = 0.0 if iteration % config.swap_every else merge(policies, world)
    return {f"{name}/merge_error": error for name in policies}


@torch.no_grad()
def merge(policies: Mapping[str, LLMPolicy], world: World) -> float:
    """Let policies of one base go on from the mean of their updates.

    Returns:
        what the layer that lost most has lost of its mean update, relative; 0 of whole models.
    """
    first, *_ = policies.values()
    if first.backbone.averages_by_tensor:
        for together in zip(*(own.parameters().values() for own in policies.values()), strict=True):
            mean = mean_tensor(together, _even(together))
            for parameter in together:
                parameter.copy_(mean)
        return 0.0
    owns = [whole_tensors(policy.parameters()) for policy in policies.values()]
    mean = {n: mean_tensor([own[n].cpu() for own in owns], _even(owns)) for n in owns[0]}
    error = 0.0
    for down in filter(is_down, owns[0]):
        up = up_of(down)
        merged, lost = meet([Update(up=own[up].cpu(), down=own[down].cpu()) for own in owns])
        mean |= {up: merged.up, down: merged.down}
        error = max(error, lost)
    # Solved on each rank: the same only on the same processor.
    mean = world.broadcast_tensors(mean)
    load_policies(policies, {f"policy/{p}/{n}": t for p in policies for n, t in mean.items()})
    return error


def _even(items: Sequence[object]) -> list[float]:
    return [1.0] * len(items)


def meet(updates: Sequence[Update]) -> tuple[Update, float]:
    """Return the best product of the common rank for the mean update, and what it misses.

    Args:
        updates: of one layer and one rank, their scaling left out.

    Returns:
        the mean of the factors `down`, or the first of them where nothing has been learnt yet, with
        the best `up` for it; and |ΔW̄ − up @ down| / |ΔW̄|.
    """
    double = [Update(up=u.up.double(), down=u.down.double()) for u in updates]
    exact = concatenate(double, [1 / len(updates)] * len(updates))
    if not exact.up.any():
        return updates[0], 0.0
    down = torch.stack([update.down for update in double]).mean(0)
    # B = ΔW̄ Aᵀ (A Aᵀ)⁻¹; rows of A that are 0 or alike have no share of their own.
    up = exact.up @ (exact.down @ torch.linalg.pinv(down))
    rest = concatenate([exact, Update(up=up, down=down)], [1.0, -1.0])
    error = decompose(rest).values.norm() / decompose(exact).values.norm()
    return Update(up=up.float(), down=down.float()), float(error)
