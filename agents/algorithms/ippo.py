"""IPPO: clipped PPO, each policy with a critic of its own. The form of CORY.

Sources: PPO (Schulman et al. 2017, arXiv 1707.06347, eq. 7); GAE (arXiv 1506.02438, eq. 16); IPPO
(de Witt et al. 2020, arXiv 2011.09533).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.algorithms.configs import IPPOConfig, PPOConfig
from agents.config.algorithm import CriticConfig
from agents.maths.advantages import gae
from agents.maths.losses import Totals, clipped_value_loss
from agents.maths.moments import Moments
from agents.models.backbone import Backbone
from agents.policies.base import Scores
from agents.policies.llm import response_hidden
from agents.types import Explored, Prepared, Rollout, ScoredTurn, TokenBatch, TrainBatch
from cory_env.tokenization import TransformersCodec


class IPPO(Algorithm):
    """Independent PPO: each policy's critic reads that policy's own prompt and response."""

    critic = "local"
    Config = IPPOConfig
    config: CriticConfig  # pyright: ignore[reportIncompatibleVariableOverride] # never set anew

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        # What one critic predicts is normalised by one set of moments, whoever it serves.
        by_critic = {critic.name: Moments() for critic in self.critics.values()}
        self.value_moments = {p: by_critic[critic.name] for p, critic in self.critics.items()}

    def prepare(self, rollout: Rollout, explored: Explored | None = None) -> list[Prepared]:
        """Prepare as all algorithms do, and keep the moments of the returns."""
        prepared = super().prepare(rollout, explored)
        if self.config.value_normalization:
            for turn, scored in zip(reversed(rollout.turns), reversed(prepared), strict=True):
                returns = self.world.gather(scored.scored.returns[scored.scored.mask])
                self.value_moments[turn.policy].update(returns)
        return prepared

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Generalised advantage estimates."""
        assert baselines is not None
        advantages, returns = gae(
            rewards, baselines, mask, gamma=self.config.gamma, lam=self.config.gae_lambda
        )
        return advantages, returns, baselines

    def value_units(self, policy: str) -> Moments:
        """Return the moments of the returns, where values are normalised by them."""
        return self.value_moments[policy]

    def _moments(self) -> dict[str, Moments]:
        values = {f"value/{name}": moments for name, moments in self.value_moments.items()}
        return super()._moments() | values

    def _value_loss(
        self, policy: str, batch: TrainBatch, scores: Scores, totals: Totals
    ) -> Tensor | float:
        assert batch.history is not None
        critic, features = self.critics[policy], batch.features
        if features is None:
            backbone, trunk = self.policies[policy].backbone, critic.trunk_of(policy)
            same = trunk == policy and self._reads_its_own_turn(int(batch.seats.max()))
            features = critic.body.features(
                scores.hidden if same else response_hidden(backbone, trunk, batch.history)
            )
        moments = self.value_moments[policy]
        errors = clipped_value_loss(
            critic(features, batch.seats),
            moments.normalized(batch.baselines),
            moments.normalized(batch.returns),
            self.config.value_clip,
        )
        return self.config.value_coef * (errors * batch.response_mask).sum() / totals.tokens

    def _hands_over(self, rollout: Rollout, seat: int) -> bool:
        """Return whether the value of the next turn, another role's, stands for all that comes."""
        roles = [turn.role for turn in rollout.turns[seat : seat + 2]]
        return self.config.handover == "value" and len(set(roles)) == 2

    def _later(self, rollout: Rollout, seat: int, following: Prepared | None) -> Tensor:
        if following and self._hands_over(rollout, seat):
            return self.config.gamma * following.scored.baselines[:, 0]
        return super()._later(rollout, seat, following)

    def _goes_on(self, rollout: Rollout, seat: int) -> bool:
        return not self._hands_over(rollout, seat)

    def _continuation(self, scored: ScoredTurn) -> Tensor:
        # Of A_T = r_T + γ V' − V_T + γλ A', what comes after r_T: the λ-return of the next turn.
        lam = self.config.gae_lambda
        return (1 - lam) * scored.baselines[:, 0] + lam * scored.returns[:, 0]

    def _reads_its_own_turn(self, seat: int) -> bool:
        """Return whether the critic reads what the policy reads, and nothing else."""
        return self.critic == "local" or seat == 0

    def _history(self, rollout: Rollout, seat: int) -> TokenBatch | None:
        turn = rollout.turns[seat]
        if self._reads_its_own_turn(seat):
            return turn.tokens
        return _joint_history(rollout, seat, self.policies[turn.policy].backbone)

    def _values(
        self, policy: str, seat: int, history: TokenBatch | None, ref_hidden: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        assert history is not None
        critic, backbone = self.critics[policy], self.policies[policy].backbone
        trunk = critic.trunk_of(policy)
        own = self._reads_its_own_turn(seat) and not self._held_to_solo(seat)
        known = trunk is None and own
        hidden = ref_hidden if known else response_hidden(backbone, trunk, history)
        features = critic.body.features(hidden)
        seats = torch.full((len(features),), seat, device=features.device)
        values = self.value_moments[policy].restored(critic(features, seats))
        return features if trunk is None else None, values * history.response_mask


class PPO(IPPO):
    """IPPO on a game without observers: the baseline, which differs from CORY in the game alone."""

    Config = PPOConfig


def _joint_history(rollout: Rollout, seat: int, backbone: Backbone) -> TokenBatch:
    """Return what a central critic reads of a turn: all that was written and read before, and it.

    The text of the earlier turns crosses from their tokenizers to the backbone's.
    """
    turns, tokens = rollout.turns[:seat], rollout.turns[seat].tokens
    texts = [
        "\n".join([*(turn.prompts[b] + turn.responses[b] for turn in turns), prompt])
        for b, prompt in enumerate(rollout.turns[seat].prompts)
    ]
    before = TransformersCodec(backbone.tokenizer).before  # type: ignore[arg-type]
    rows = backbone.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
    ids = [[*before, *row] for row in rows["input_ids"]]  # type: ignore[union-attr]
    batch = backbone.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    # A long history loses its beginning, not its end: the model knows no later positions.
    room = backbone.context - tokens.response_ids.shape[1]
    device = tokens.response_ids.device
    return TokenBatch(
        prompt_ids=batch["input_ids"][:, -room:].to(device),  # type: ignore[index]
        prompt_mask=batch["attention_mask"][:, -room:].bool().to(device),  # type: ignore[index]
        response_ids=tokens.response_ids,
        response_mask=tokens.response_mask,
    )
