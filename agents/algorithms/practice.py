"""Practice: answers that others have given to the query alone, as a policy's own turns.

A policy that will be used alone should learn from every answer to the prompt that it will read
then. Who has written it samples from another distribution: tokens are weighed by min(π/μ, cap).

Source: shared experience, SEAC (Christianos, Schäfer & Albrecht 2020, arXiv 2006.07169, eq. 5); the
weights are truncated as in `importance_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from agents.distributed.world import World
from agents.types import Rollout

CAP = 2.0
"""Largest weight of a token unless `importance_cap` says otherwise."""


def practice_rollouts(rollout: Rollout, policy: str, world: World) -> Iterator[Rollout]:
    """Yield what others have answered to the query alone, each as a single turn of a policy.

    It is paid the answer's own task reward: what it would earn alone.

    Args:
        rollout: of all roles. An observer that is shown nothing may have read the query alone, too.
        policy: who practises.
        world: on whose processes there may be such answers; all of them yield equally often.
    """
    # Differs from SEAC: others' answers are a batch of their own, not a term of one loss.
    asked = rollout.turns[0].prompts
    for turn in rollout.turns:
        if turn.policy == policy:
            continue
        alone = [prompt == query for prompt, query in zip(turn.prompts, asked, strict=True)]
        if not world.any(any(alone)):
            continue
        rows = torch.tensor(alone, device=turn.task_rewards.device)
        practised = replace(
            turn,
            policy=policy,
            tokens=turn.tokens.counting(rows),
            rewards_now=turn.task_rewards,
            rewards_later=torch.zeros_like(turn.task_rewards),
        )
        yield Rollout(turns=(practised,), states=rollout.states)
