"""Clipped PPO with critics; MAPPO and IPPO differ in the critic alone.

Sources: PPO (Schulman et al. 2017, arXiv 1707.06347, eq. 7); GAE (arXiv 1506.02438, eq. 16); IPPO
(de Witt et al. 2020, arXiv 2011.09533), the form of CORY; MAPPO (Yu et al. 2022, arXiv 2103.01955).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.functional import clipped_value_loss, gae, masked_mean
from agents.moments import Moments
from agents.policy import response_hidden
from agents.types import LossOutput, Rollout, TokenBatch, TrainBatch


class IPPO(Algorithm):
    """Independent PPO: each policy has its own critic, which reads its own prompt and response.

    This is the paper's form, and on a game without observers the single-agent baseline.
    """

    critic = "local"

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        # What one critic predicts is normalised by one set of moments, whoever it serves.
        by_critic = {id(critic): Moments() for critic in self.critics.values()}
        self.value_moments = {name: by_critic[id(c)] for name, c in self.critics.items()}

    def prepare(self, rollout: Rollout) -> dict[str, TrainBatch]:
        """Prepare as all algorithms do, and keep the moments of the returns."""
        batches = super().prepare(rollout)
        if self.config.value_normalization:
            for policy, batch in batches.items():
                self.value_moments[policy].update(batch.returns[batch.response_mask])
        return batches

    def _moments(self) -> dict[str, Moments]:
        values = {f"value/{name}": moments for name, moments in self.value_moments.items()}
        return super()._moments() | values

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Generalised advantage estimates."""
        assert baselines is not None
        advantages, returns = gae(
            rewards, baselines, mask, gamma=self.config.gamma, lam=self.config.gae_lambda
        )
        return advantages, returns, baselines

    def loss(self, policy: str, batch: TrainBatch) -> LossOutput:
        """Clipped surrogate, KL term and value loss."""
        output = super().loss(policy, batch)
        assert batch.features is not None
        moments = self.value_moments[policy]
        values = self.critics[policy](batch.features, batch.seats)
        errors = clipped_value_loss(
            values,
            moments.normalized(batch.baselines),
            moments.normalized(batch.returns),
            self.config.value_clip or None,
        )
        value_loss = masked_mean(errors, batch.response_mask)
        return replace(output, loss=output.loss + self.config.value_coef * value_loss)

    def _values(
        self, rollout: Rollout, seat: int, ref_hidden: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        policy, tokens = rollout.turns[seat].policy, rollout.turns[seat].tokens
        features = self._features(rollout, seat, ref_hidden)
        seats = torch.full((len(features),), seat, device=features.device)
        values = self.value_moments[policy].restored(self.critics[policy](features, seats))
        return features, values * tokens.response_mask

    def _features(self, rollout: Rollout, seat: int, ref_hidden: Tensor) -> Tensor:
        """Return (B, T, D) what the critic reads of a turn."""
        if self.critic == "local" or seat == 0:
            return ref_hidden.float()
        turns = rollout.turns[:seat]
        history = [
            "\n".join([*(turn.prompts[b] + turn.responses[b] for turn in turns), prompt])
            for b, prompt in enumerate(rollout.turns[seat].prompts)
        ]
        tokens = rollout.turns[seat].tokens
        batch = self.backbone.tokenizer(history, padding=True, return_tensors="pt")
        # A long history loses its beginning, not its end: the model knows no later positions.
        room = self.backbone.context - tokens.response_ids.shape[1]
        joint = TokenBatch(
            prompt_ids=batch["input_ids"][:, -room:].to(ref_hidden.device),  # type: ignore[index]
            prompt_mask=batch["attention_mask"][:, -room:].bool().to(ref_hidden.device),  # type: ignore[index]
            response_ids=tokens.response_ids,
            response_mask=tokens.response_mask,
        )
        return response_hidden(self.backbone, None, joint).float()


class MAPPO(IPPO):
    """PPO with one central critic, which is told the seat and reads the joint history."""

    critic = "central"
