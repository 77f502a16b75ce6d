"""What CORY's released trainer does in one iteration, in our words: the yardstick for speed.

Float32; `generate` in internal batches of 4; logits at all positions; passes of its own for old
log-probs, for the reference and for values; three whole log-softmax tensors for the exact KL; full
fine-tuning with a frozen reference for each policy. `tests/benchmarks/test_training.py` holds its
losses against those of `agents`.

Source: the facts of the trainer released with arXiv 2410.06101 (a copy of TRL 0.x's PPOTrainer).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

GENERATED_AT_A_TIME = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainConfig:
    """The settings of the paper's table 1."""

    epochs: int = 4
    kl_coef: float = 0.3
    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 0.1
    gamma: float = 1.0
    gae_lambda: float = 0.95
    learning_rate: float = 1.41e-5


@dataclass(frozen=True, slots=True)
class Old:
    """What is computed once per batch, before the epochs; all (B, T)."""

    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class PlainPolicy:
    """A model, its value head on the model's last hidden states, its reference, its optimizer."""

    def __init__(
        self,
        model: PreTrainedModel,
        value_head: Callable[[Tensor], Tensor],
        parameters: Sequence[nn.Parameter],
        config: PlainConfig,
    ):
        self.model, self.value_head, self.config = model, value_head, config
        self.reference = copy.deepcopy(model).requires_grad_(False)
        weights = [*model.parameters(), *parameters]
        self.optimizer = torch.optim.Adam(weights, lr=config.learning_rate)

    @torch.no_grad()
    def generate(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Sample responses (B, T) to prompts (B, L) of one length, a few at a time."""
        parts = [
            self.model.generate(  # type: ignore[operator]
                part, attention_mask=torch.ones_like(part), max_new_tokens=new_tokens,
                do_sample=True, top_k=0, top_p=1.0, pad_token_id=0, eos_token_id=None,
            )
            for part in prompts.split(GENERATED_AT_A_TIME)
        ]  # fmt: skip
        return torch.cat(parts)[:, prompts.shape[1] :]

    def forward(self, model: PreTrainedModel, prompts: Tensor, responses: Tensor):
        """Return (B, T, V) log-probs and (B, T) values; logits of all positions come first."""
        output = model(torch.cat([prompts, responses], dim=1), output_hidden_states=True)
        values = self.value_head(output.hidden_states[-1][:, prompts.shape[1] - 1 : -1])
        log_probs = output.logits.log_softmax(-1)[:, prompts.shape[1] - 1 : -1]
        return log_probs, values

    @torch.no_grad()
    def prepare(self, prompts: Tensor, responses: Tensor, rewards: Tensor) -> Old:
        """Score the batch: KL in the reward, detached, and generalised advantages."""
        log_probs, values = self.forward(self.model, prompts, responses)
        ref_log_probs, _ = self.forward(self.reference, prompts, responses)
        kl = nn.functional.kl_div(ref_log_probs, log_probs, log_target=True, reduction="none")
        token_rewards = -self.config.kl_coef * kl.sum(-1)
        token_rewards[:, -1] += rewards
        advantages, last = torch.zeros_like(values), torch.zeros_like(values[:, 0])
        for t in reversed(range(values.shape[1])):
            later = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
            delta = token_rewards[:, t] + self.config.gamma * later - values[:, t]
            last = delta + self.config.gamma * self.config.gae_lambda * last
            advantages[:, t] = last
        returns = advantages + values
        advantages = (advantages - advantages.mean()) / (
            advantages.var(unbiased=False) + 1e-8
        ).sqrt()
        chosen = log_probs.gather(-1, responses[..., None])[..., 0]
        return Old(chosen, values, advantages, returns)

    def loss(self, prompts: Tensor, responses: Tensor, old: Old) -> Tensor:
        """PPO's clipped loss with the clipped value loss."""
        log_probs, values = self.forward(self.model, prompts, responses)
        probs = log_probs.exp()
        _ = -(probs * log_probs).sum(-1).mean()  # the entropy, which is logged
        ratio = (log_probs.gather(-1, responses[..., None])[..., 0] - old.log_probs).exp()
        clip, value_clip = self.config.clip, self.config.value_clip
        surrogate = torch.min(
            ratio * old.advantages, ratio.clamp(1 - clip, 1 + clip) * old.advantages
        )
        near = old.values + (values - old.values).clamp(-value_clip, value_clip)
        errors = torch.max((values - old.returns) ** 2, (near - old.returns) ** 2)
        return -surrogate.mean() + self.config.value_coef * 0.5 * errors.mean()

    def update(self, prompts: Tensor, responses: Tensor, rewards: Tensor) -> list[float]:
        """Learn from one batch and return the loss of each epoch."""
        old = self.prepare(prompts, responses, rewards)
        losses = []
        for _ in range(self.config.epochs):
            self.optimizer.zero_grad()
            loss = self.loss(prompts, responses, old)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses
