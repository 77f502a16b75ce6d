"""Clipped PPO on the regularised game; MAPPO and IPPO differ in the critic alone.

The objective of the policy in role i is J_i = E[R_i − η Σ_t KL(π_i(·|s_t) ‖ π_0(·|s_t))]. Its
gradient has two terms:

    ∇J_i = E[Σ_t ∇log π(a_t|s_t) (R_i − η Σ_{t'>t} KL_t')] − η E[Σ_t ∇KL_t]

The first is a policy gradient in which an action pays for the KL of *later* states; the second
lowers the KL of each visited state directly. With the exact KL as a detached reward at its own
token, as the paper and its code have it, the second term is missing and the first gains only noise.
Sources: CORY eq. 2 (arXiv 2410.06101); PPO (arXiv 1707.06347); MAPPO (arXiv 2103.01955); on the
missing term Tang & Munos (arXiv 2506.09477).
"""

from __future__ import annotations

import torch
from torch import Tensor

from agents.algorithms.base import Algorithm
from agents.functional import (
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    gae,
    masked_mean,
    next_step,
    token_rewards,
    whiten,
)
from agents.policy import Scores, response_hidden
from agents.types import LossOutput, Rollout, TokenBatch, TrainBatch, Turn


class IPPO(Algorithm):
    """Independent PPO: each policy has its own critic, which reads its own prompt and response.

    This is the paper's form, and on a game without observers the single-agent baseline.
    """

    central_critic = False

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> dict[str, TrainBatch]:
        """Score responses and turn rewards into advantages, from the last turn to the first."""
        batches: dict[str, TrainBatch] = {}
        first_values: Tensor | None = None
        for seat, turn in reversed(list(enumerate(rollout.turns))):
            ref_hidden = response_hidden(self.backbone, None, turn.tokens)
            features = self._features(rollout, seat, ref_hidden)
            later = turn.rewards_later
            if self.config.handover == "value" and first_values is not None:
                later = self.config.gamma * first_values
            batch = self._prepare_turn(turn, seat, ref_hidden, features, turn.rewards_now + later)
            batches[turn.policy] = batch
            first_values = batch.old_values[:, 0]
        return batches

    def _prepare_turn(
        self, turn: Turn, seat: int, ref_hidden: Tensor, features: Tensor, rewards: Tensor
    ) -> TrainBatch:
        config, mask = self.config, turn.tokens.response_mask
        scores = self.policies[turn.policy].score(turn.tokens, ref_hidden)
        seats = torch.full((len(mask),), seat, device=mask.device)
        values = self.critics[turn.policy](features, seats) * mask
        penalties = self.controllers[turn.policy].coef * self._penalties(scores, mask)
        advantages, returns = gae(
            token_rewards(rewards, penalties, mask),
            values,
            mask,
            gamma=config.gamma,
            lam=config.gae_lambda,
        )
        scale = torch.ones((), device=mask.device)
        if config.whiten_advantages:
            advantages, scale = whiten(advantages, mask)
        return TrainBatch(
            prompt_ids=turn.tokens.prompt_ids,
            prompt_mask=turn.tokens.prompt_mask,
            response_ids=turn.tokens.response_ids,
            response_mask=mask,
            # Scored anew: in bfloat16 the cached forward of the sampler rounds differently from the
            # batched one of the update, and the ratio of the first epoch must be 1.
            old_log_probs=scores.log_probs,
            ref_hidden=ref_hidden,
            advantages=advantages,
            advantage_scale=scale.expand(len(mask)),
            features=features,
            old_values=values,
            returns=returns,
            seats=seats,
            kls=scores.kls,
            entropies=scores.entropies,
        )

    def _penalties(self, scores: Scores, mask: Tensor) -> Tensor:
        """Return (B, T) what each action pays for, in nats."""
        match self.config.kl:
            case "exact":
                return self.config.gamma * next_step(scores.kls, mask)
            case "k1":
                return scores.log_probs - scores.ref_log_probs
            case "detached":
                return scores.kls

    def _features(self, rollout: Rollout, seat: int, ref_hidden: Tensor) -> Tensor:
        """Return (B, T, D) what the critic reads of a turn."""
        if not self.central_critic or seat == 0:
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

    def loss(self, policy: str, batch: TrainBatch) -> LossOutput:
        """Clipped surrogate, direct KL term and value loss.

        Sums over tokens are divided by B · max_new_tokens, a constant: dividing by the number of
        sampled tokens would weigh short responses more and bias the gradient (Liu et al. 2025,
        arXiv 2503.20783).
        """
        config, mask = self.config, batch.response_mask
        count = len(mask) * self.max_new_tokens
        scores = self.policies[policy].score(batch, batch.ref_hidden)
        log_ratio = (scores.log_probs - batch.old_log_probs) * mask
        ratio = log_ratio.exp()
        surrogate = (clipped_surrogate(ratio, batch.advantages, config.clip) * mask).sum() / count
        loss = -surrogate
        if config.kl == "exact":
            direct = (scores.kls / batch.advantage_scale[:, None]).sum() / count
            loss = loss + self.controllers[policy].coef * direct
        values = self.critics[policy](batch.features, batch.seats)
        value_errors = clipped_value_loss(
            values, batch.old_values, batch.returns, config.value_clip or None
        )
        loss = loss + config.value_coef * masked_mean(value_errors, mask)
        clipped = (ratio - 1).abs() > config.clip
        with torch.no_grad():
            metrics = {
                "clip_fraction": masked_mean(clipped.float(), mask),
                # k3 of the step: an estimate of KL(old ‖ new) that is never negative.
                "approx_kl": masked_mean(ratio - 1 - log_ratio, mask),
                "explained_variance": explained_variance(batch.old_values, batch.returns, mask),
            }
        return LossOutput(loss, metrics)


class MAPPO(IPPO):
    """PPO with one central critic, which is told the seat and reads the joint history."""

    central_critic = True
