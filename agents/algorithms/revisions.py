"""Revisions: what an observer that was told the verdict on an answer makes of it.

The verdict is the one thing that an observer knows and a policy alone cannot. On the answers that
are better than the first one, its distribution is brought into the prompt without a partner, as a
term of the loss there: λ KL(π_obs(·|s0, a1, verdict, a_<t) ‖ π(·|s0, a_<t)) at every token, in
which the observer is held fixed. The policies may be two, or one in both roles.

Sources: which answers count, RLTF-SD (arXiv 2602.02482); distillation of the policy that has read
feedback into the one that has not, SDPO (arXiv 2601.20802).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from agents.config.algorithm import AlgorithmConfig
from agents.maths.advantages import group_mean
from agents.policies.base import Policy
from agents.types import Prepared, Revisions, Rollout, TokenBatch, TrainBatch


def with_revisions(
    rollout: Rollout, prepared: list[Prepared], config: AlgorithmConfig, policies: Sequence[str]
) -> list[Prepared]:
    """Give what the pioneer's policy learns the revisions of its answers.

    Where it observes, too, its turn as an observer has them as well, but no token of them counts:
    one batch is made of both.

    Args:
        rollout: of a pioneer and an observer.
        prepared: what is learnt of both turns.
        config: whether anything is distilled, and how many episodes are of one query.
        policies: names, in the order in which `Revisions.teachers` counts them.
    """
    if not config.distill_coef:
        return prepared
    found = revisions(rollout, policies, config.group_size)
    of_turn = [found, found.counting(torch.zeros_like(found.response_mask[:, 0]))]
    student = rollout.turns[0].policy
    return [
        replace(turn, batch=replace(turn.batch, revisions=own))
        if turn.batch and played.policy == student
        else turn
        for turn, played, own in zip(prepared, rollout.turns, of_turn, strict=True)
    ]


def revisions(rollout: Rollout, policies: Sequence[str], group_size: int) -> Revisions:
    """Return the observer's answers behind the query alone.

    Tokens count of answers that were written behind another one, and earn more than the mean of the
    first answers to the same query.

    Args:
        rollout: of a pioneer and an observer.
        policies: names, in the order in which teachers are counted.
        group_size: episodes of one query.
    """
    # Differs from RLTF-SD: with groups of one, the first answer itself is the mean.
    first, second = rollout.turns
    pairs = zip(first.prompts, second.prompts, strict=True)
    told = torch.tensor([alone != read for alone, read in pairs], device=first.task_rewards.device)
    better = second.task_rewards > group_mean(first.task_rewards, group_size)
    read = TokenBatch.of(second.tokens).counting(told & better)
    return Revisions.of(
        replace(
            read,
            prompt_ids=first.tokens.prompt_ids,
            prompt_mask=first.tokens.prompt_mask,
        ),
        read=read,
        teachers=torch.full_like(first.task_rewards, policies.index(second.policy)).long(),
    )


def distances(
    policies: Mapping[str, Policy], student: str, batch: TrainBatch
) -> tuple[Tensor, Tensor]:
    """Return how far a policy is from its teacher, in units of the batch's advantages.

    Args:
        policies: by name, in the order in which teachers are counted.
        student: whose gradient it has.
        batch: with revisions. Rows in which no token counts are left out.

    Returns:
        (N, T) KL(teacher ‖ student) in nats, divided as advantages are, and the mask.
    """
    assert batch.revisions is not None
    rows = batch.revisions.response_mask.any(1)
    if policies[student].backbone.sharding is not None:
        rows = torch.ones_like(rows)  # all processes pass through spread layers equally often
    rows[0] |= not rows.any()  # none would be no batch
    found = batch.revisions.take(rows)
    teacher = policies[list(policies)[int(found.teachers[0])]]
    kls = policies[student].divergence(found, teacher, found.read)
    return kls / batch.advantage_scale[rows, None], found.response_mask
