"""PPO over the actions of one policy: each action is one step, however many tokens it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from agents.acting.actors import Learnt, Step, features
from agents.acting.episodes import Trajectory
from agents.config.environment import EnvConfig
from agents.maths.advantages import explained_variance, gae, whiten
from agents.maths.losses import clipped_surrogate, clipped_value_loss
from agents.models.critic import Critic
from agents.records.checkpoint import optimizer_tensors, restore_optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """N actions of a policy, trajectory by trajectory; nothing carries a gradient."""

    steps: list[Step]
    features: Tensor
    """(N, D) of the states, for the critic."""
    seats: Tensor
    """(N,) which agent acted."""
    old_log_probs: Tensor
    """(N,) under the distribution that the actions were drawn from."""
    advantages: Tensor
    """(N,) whitened."""
    values: Tensor
    """(N,) of the critic before it learns."""
    returns: Tensor
    """(N,)"""


class ActorLearner:
    """A policy, its critic, and what their optimizers remember."""

    def __init__(
        self, config: EnvConfig, actor: Learnt, agents: Sequence[str], critic_seed: int
    ) -> None:
        policy = actor.policy
        self.config = config
        self.actor = actor
        self.agents = list(agents)
        width = int(policy.backbone.config.hidden_size)
        self.critic = Critic(width, len(agents), 1, critic_seed, owner=policy.name).to(
            policy.backbone.device
        )
        self.optimizers = {
            "policy": _adam(policy.parameters(), config.learning_rate),
            "critic": _adam(dict(self.critic.named_parameters()), config.critic_learning_rate),
        }
        self.skipped_in_a_row = 0

    @torch.no_grad()
    def prepare(self, trajectories: Sequence[Trajectory]) -> Batch:
        """Return what is learnt of some trajectories, each with at least one action.

        Advantages are those of GAE across an agent's own actions: what it earns while others act
        belongs to its action before. A trajectory that was cut goes on at the critic's value.
        """
        policy, device = self.actor.policy, self.actor.policy.backbone.device
        steps = [step for trajectory in trajectories for step in trajectory.steps]
        last = [t.last_text for t in trajectories]
        texts = list(dict.fromkeys([*(s.prompt for s in steps), *(t for t in last if t)]))
        known = dict(zip(texts, features(policy, texts), strict=True))
        lengths = torch.tensor([len(t.steps) for t in trajectories])
        seats = torch.tensor([self.agents.index(t.agent) for t in trajectories], device=device)
        of = torch.repeat_interleave(seats, lengths.to(device))
        states = torch.stack([known[step.prompt] for step in steps])
        values = self._values(states, of)
        beyond = torch.zeros(len(trajectories), device=device)
        if cut := [n for n, text in enumerate(last) if text]:
            ends = torch.stack([known[str(last[n])] for n in cut])
            beyond[cut] = self._values(ends, seats[cut])
        mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).to(device)
        padded = torch.zeros(mask.shape, device=device)
        rewards = torch.tensor([step.reward for step in steps], device=device)
        advantages, returns = gae(
            padded.masked_scatter(mask, rewards),
            padded.masked_scatter(mask, values),
            mask,
            gamma=self.config.gamma,
            lam=self.config.gae_lambda,
            last_values=beyond,
        )
        return Batch(
            steps=steps,
            features=states,
            seats=of,
            old_log_probs=torch.tensor([s.choice.log_prob for s in steps], device=device),
            advantages=whiten(advantages, mask)[0][mask],
            values=values,
            returns=returns[mask],
        )

    def learn(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Take all optimizer steps on a batch, and return the means of what they say."""
        history: list[dict[str, float]] = []
        limit = self.config.max_step_kl
        for rows in self._minibatches(len(batch.steps), generator):
            history.append(self.step(batch, rows))
            if limit is not None and history[-1]["approx_kl"] > limit:
                break
        self.actor.forget()
        means = {key: sum(h[key] for h in history) / len(history) for key in history[0]}
        explained = explained_variance(batch.values, batch.returns)
        return {**means, "explained_variance": float(explained)}

    def _minibatches(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(self.config.epochs):
            yield from torch.randperm(count, generator=generator).split(self.config.minibatch_size)

    def step(self, batch: Batch, rows: Tensor) -> dict[str, float]:
        """Take one optimizer step on some actions, unless it is not finite."""
        loss, metrics = self.loss(batch, rows)
        loss.backward()
        parameters = list(self.actor.policy.parameters().values())
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        for optimizer in self.optimizers.values():
            if finite:
                optimizer.step()
            optimizer.zero_grad()
        metrics |= {"gradient_norm": norm, "skipped": torch.tensor(float(not finite))}
        return {key: float(torch.nan_to_num(m.detach(), posinf=0.0)) for key, m in metrics.items()}

    def loss(self, batch: Batch, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return PPO's loss of some actions, policy and critic together, and what to log.

        KL and entropy are over the actions, exact at each state, with their direct gradient.
        """
        config, at = self.config, rows.to(batch.advantages.device)
        weighed = self.actor.weigh([batch.steps[row] for row in rows.tolist()])
        log_ratio = weighed.log_probs - batch.old_log_probs[at]
        ratio = log_ratio.exp()
        gain = clipped_surrogate(ratio[None], batch.advantages[at][None], config.clip).mean()
        kl, entropy = weighed.kls.mean(), weighed.entropies.mean()
        policy_loss = -gain + config.kl_coef * kl - config.entropy_coef * entropy
        values = self._values(batch.features[at], batch.seats[at])
        value_loss = clipped_value_loss(values, batch.values[at], batch.returns[at], None).mean()
        # The critic reads the frozen reference: the gradients of the two do not meet.
        return policy_loss + value_loss, {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "state_kl": kl,
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > config.clip).float().mean(),
        }

    def _values(self, states: Tensor, seats: Tensor) -> Tensor:
        return self.critic(states[:, None], seats)[:, 0]

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next update depends on, by name."""
        name, tensors = self.actor.policy.name, dict[str, Tensor]()
        for part, parameters, optimizer in self._trained():
            tensors |= {f"{part}/{name}/{key}": p for key, p in parameters.items()}
            tensors |= optimizer_tensors(f"{part}_optimizer/{name}", optimizer)
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a state, but for the weights of the policy, which `load_policies` checks."""
        name = self.actor.policy.name
        for key, parameter in self.critic.named_parameters():
            parameter.copy_(tensors[f"critic/{name}/{key}"])
        for part, _, optimizer in self._trained():
            restore_optimizer(f"{part}_optimizer/{name}", optimizer, tensors, _as_it_is)
        self.actor.forget()

    def _trained(self) -> Iterator[tuple[str, dict[str, Any], torch.optim.Optimizer]]:
        yield "policy", self.actor.policy.parameters(), self.optimizers["policy"]
        yield "critic", dict(self.critic.named_parameters()), self.optimizers["critic"]


def _as_it_is(_: Tensor, tensor: Tensor) -> Tensor:
    return tensor


def _adam(parameters: Mapping[str, nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    own = list(parameters.values())
    optimizer = torch.optim.Adam(own, learning_rate, fused=True)
    # It writes to the weights behind autograd's back; copies in bfloat16 go by their version.
    optimizer.register_step_post_hook(lambda *_: increment_version(own))
    return optimizer
