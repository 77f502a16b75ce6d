"""HAPPO: policies learn one after the other, each on what the others have become.

Source: Kuba et al. 2022, "Trust Region Policy Optimisation in Multi-Agent Reinforcement Learning"
(arXiv 2109.11251), eq. 11 and algorithm 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from agents.algorithms.configs import HAPPOConfig
from agents.algorithms.mappo import MAPPO
from agents.types import Prepared, TrainBatch


class HAPPO(MAPPO):
    """MAPPO in which an observer weighs its episodes by π_new/π_old of all agents before it.

    In the sequential game the weight is more than a correction of the joint advantage: an observer
    reads what its pioneer answers, so the ratio of the pioneer's whole response turns the states
    the observer was seen in into those that the updated pioneer leads to.
    """

    Config = HAPPOConfig

    # Differs from Kuba et al.: they draw the order of updates anew every time. Here it is the turn
    # order, since the pioneer, updated first, needs no correction for what comes after it.
    @torch.no_grad()
    def after_update(self, policy: str, asks: Sequence[int], prepared: list[Prepared]) -> None:
        """Multiply the weights of the later turns by the policy's ratio of whole responses."""
        for ask in asks:
            if not isinstance(batch := prepared[ask].batch, TrainBatch):
                continue
            scores = self.policies[policy].score(batch, batch.ref_hidden)
            ratios = (scores.log_probs - batch.old_log_probs).sum(1).exp()
            for index, later in enumerate(prepared[ask + 1 :], start=ask + 1):
                if isinstance(later.batch, TrainBatch):
                    weights = later.batch.weights * ratios[:, None]
                    prepared[index] = replace(later, batch=replace(later.batch, weights=weights))
