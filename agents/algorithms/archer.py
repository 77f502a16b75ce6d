"""ArCHer: a critic of whole answers learns from all that was ever paid, policies from the critic.

Source: Zhou et al. 2024, "ArCHer: Training Language Model Agents via Hierarchical Multi-Turn RL"
(arXiv 2402.19446), section 3, and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from agents.algorithms.base import Algorithm, Sampler, whiten_turns
from agents.algorithms.configs import ArcherConfig
from agents.algorithms.episodes import Episodes
from agents.algorithms.likelihood import scored
from agents.algorithms.others import against_others
from agents.models.backbone import Backbone
from agents.models.turn_critic import TurnCritic
from agents.policies.llm import response_hidden
from agents.types import Explored, Prepared, Rollout, StateValues, TokenBatch, Turn

PATIENCE = 10
"""Iterations in a row without an update after which the user is told."""


class Archer(Algorithm):
    """PPO on answers that nobody has paid for: each is worth Q(s, ã) − V(s), whole.

    What was paid is kept, as episodes, and the critic learns from them what any answer to any of
    their prompts is worth. The policies answer earlier prompts anew and learn from that.

    Q and V read the hidden states of the reference: at the last token of a prompt, and in the mean
    over the tokens of an answer. They never change, so the episodes hold them.
    """

    # Differs from Zhou et al.: the features are frozen, and pooled over an answer; one fresh answer
    # to a prompt per iteration, not per step of the critic; a clipped ratio and the exact KL, where
    # they have REINFORCE without either; no warm-up of so many steps: policies learn as long as
    # Q − V foretells what new answers earn.
    Config = ArcherConfig
    config: ArcherConfig  # pyright: ignore[reportIncompatibleVariableOverride] # never set anew
    smoke: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.episodes: Episodes | None = None
        self.turn_critic: TurnCritic | None = None
        self.iterations = 0
        self.idle = 0
        """Iterations in a row in which the policies were not to learn."""
        self._figures: dict[str, float] = {}

    @torch.no_grad()
    def explore(self, rollout: Rollout, sampler: Sampler) -> Explored:
        """Keep the episodes, and answer the prompts of some that are kept once more."""
        new = self._read(rollout).of_all(self.world)
        kept = self.episodes
        self.episodes = kept.add(new, self.config.buffer_size) if kept else new
        asked = self._asked(len(new))
        own = self.world.rows(len(asked))
        turns: list[Turn] = []
        for seat, turn in enumerate(rollout.turns):
            prompts = [self.episodes.prompts[row][seat] for row in asked[own]]
            generated = sampler.answer(seat, prompts, range(len(asked))[own])
            nothing = torch.zeros(len(prompts), device=turn.task_rewards.device)
            rewards = ("task_rewards", "rewards_now", "rewards_later")
            turns.append(
                replace(
                    turn,
                    prompts=prompts,
                    responses=generated.texts,
                    tokens=generated.tokens,
                    **dict.fromkeys(rewards, nothing),
                )
            )
        return Explored(fresh=Rollout(turns=tuple(turns), states=[]))

    @torch.no_grad()
    def prepare(self, rollout: Rollout, explored: Explored | None = None) -> list[Prepared]:
        """Let the critic learn; return what the policies learn of it, if it is any good."""
        assert explored is not None
        assert explored.fresh is not None
        assert self.episodes is not None
        players = self._players(rollout)
        critic = self.turn_critic = self.turn_critic or self._new_critic(self.episodes)
        new = self.episodes.latest(len(rollout.states) * self.world.size)
        foretold = critic.q(new.actions, players)
        correlation = _correlation(foretold - critic.v(new.states, players), new.rewards)
        logged = self._logged(rollout, foretold[self.world.rows(len(new))])
        fresh = explored.fresh
        asked = self._asked(len(new))
        states = self.episodes.states[asked]
        own = self.world.rows(len(asked))
        actions = self._features(fresh)[1]
        losses = self._learn(states, self.world.gather(actions), players)
        self.iterations += 1
        good = correlation >= self.config.min_correlation
        self.idle = 0 if good else self.idle + 1
        self._figures = {
            **{"q_correlation": correlation, "learns": float(good), "episodes": len(self.episodes)},
            **dict(zip(("q_loss", "v_loss"), losses.tolist(), strict=True)),
        }
        if not good:
            return logged
        gained = critic.q(actions, players) - critic.v(states[own], players)
        cap = self.config.importance_cap
        turns = [
            self._prepare_turn(fresh, seat, gained[:, seat], cap)
            for seat in range(len(fresh.turns))
        ]
        learnt = whiten_turns(turns, self.config, self.world)
        return [replace(a, batch=b.batch) for a, b in zip(logged, learnt, strict=True)]

    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Measure rewards to go against the mean of all other responses at the same token."""
        return against_others(rewards, mask, self.max_new_tokens, self.world)

    def _measured(
        self,
        turn: Turn,
        rewards: Tensor,
        penalties: Tensor,
        values: Tensor | None,
        found: StateValues | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `advantages` does of the penalties; `rewards` are advantages already."""
        mask = turn.tokens.response_mask
        advantages, costs, others = self.advantages(-penalties * mask, mask, None)
        gained = rewards[:, None] * mask
        return gained + advantages, gained + costs, others

    def figures(self, policy: str) -> dict[str, float]:
        """Return how well the critic foretells rewards, and whether policies learn from it."""
        return self._figures

    def warning(self) -> str:
        """Return what to change, once the policies have not learnt for `PATIENCE` iterations."""
        if self.idle != PATIENCE:
            return ""
        return (
            f"Policies have learnt nothing for {PATIENCE} iterations: the critic's Q − V has a "
            f"correlation of {self._figures['q_correlation']:.2f} with what new answers earn, "
            f"below {self.config.min_correlation:g}: pass a lower --min-correlation, a larger "
            "--batch-size, or more --critic-steps."
        )

    def state(self) -> dict[str, Any]:
        """Return the running moments, and how far the run is."""
        return {**super().state(), "iterations": self.iterations, "idle": self.idle}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        super().load_state(state)
        self.iterations, self.idle = state["iterations"], state["idle"]

    def tensors(self) -> dict[str, Tensor]:
        """Return the episodes and the critic."""
        parts = {"episodes": self.episodes, "critic": self.turn_critic}
        return {
            f"{name}/{key}": tensor
            for name, part in parts.items()
            for key, tensor in (part.tensors() if part else {}).items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` returned."""
        self.episodes = self.turn_critic = None
        if not tensors:
            return
        parts = {
            name: {
                key.removeprefix(f"{name}/"): tensor
                for key, tensor in tensors.items()
                if key.startswith(f"{name}/")
            }
            for name in ("episodes", "critic")
        }
        self.episodes = Episodes.of({key: t.cpu() for key, t in parts["episodes"].items()})
        if parts["critic"]:
            self.turn_critic = self._new_critic(self.episodes)
            self.turn_critic.load_tensors(parts["critic"])

    def _asked(self, count: int) -> np.ndarray:
        """Return which episodes are answered anew in this iteration: of all, `fresh` batches.

        Args:
            count: episodes of a batch.
        """
        assert self.episodes is not None
        order = np.random.default_rng(self.iterations).permutation(len(self.episodes))
        return np.resize(order, self.config.fresh * count)

    def _learn(self, states: Tensor, answers: Tensor, players: Tensor) -> Tensor:
        """Take the critic's steps on drawn episodes; return (2,) the mean losses.

        Args:
            states: (M, A, D) of the prompts that were answered anew, of all processes.
            answers: (M, A, D) to them.
            players: (A,) int64, the policy of each seat.
        """
        assert self.turn_critic is not None
        assert self.episodes is not None
        kept, config = self.episodes, self.config
        # Another stream than that of `_asked`, and the same on all processes.
        generator = np.random.default_rng([self.iterations, 1])
        losses: list[Tensor] = []
        for _ in range(config.critic_steps):
            rows = generator.integers(len(kept), size=config.critic_batch_size)
            played = kept.states[rows], kept.actions[rows], kept.rewards[rows]
            others = generator.integers(len(states), size=config.critic_batch_size)
            fresh = states[others], answers[others]
            losses.append(self.turn_critic.step(played, fresh, players, config.polyak))
        if self.world.size > 1:  # processors may round differently
            self.turn_critic.load_tensors(self.world.broadcast_tensors(self.turn_critic.tensors()))
        return torch.stack(losses).mean(0)

    def _new_critic(self, episodes: Episodes) -> TurnCritic:
        _, seats, width = episodes.states.shape
        shape = (width, seats, len(self.policies))
        return TurnCritic(shape, self.config.critic_learning_rate, self._backbone.device)

    @property
    def _backbone(self) -> Backbone:
        return next(iter(self.policies.values())).backbone

    def _players(self, rollout: Rollout) -> Tensor:
        """Return (A,) the place among the policies of who plays each seat."""
        names = list(self.policies)
        places = [names.index(turn.policy) for turn in rollout.turns]
        return torch.tensor(places, device=self._backbone.device)

    def _read(self, rollout: Rollout) -> Episodes:
        """Return the episodes of this process's rows."""
        states, actions = self._features(rollout)
        rewards = torch.stack([turn.rewards_now for turn in rollout.turns], dim=1)
        prompts = zip(*(turn.prompts for turn in rollout.turns), strict=True)
        return Episodes(
            prompts=tuple(prompts), states=states, actions=actions, rewards=rewards.cpu()
        )

    def _features(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Return (B, A, D) what the critic sees of the prompts and of the answers, on the CPU."""
        parts = [_features(self._backbone, turn.tokens) for turn in rollout.turns]
        states, actions = (torch.stack(part, dim=1).cpu() for part in zip(*parts, strict=True))
        return states, actions

    def _logged(self, rollout: Rollout, foretold: Tensor) -> list[Prepared]:
        """Return what is logged of the turns: what they earned, and Q (B, A) of it before."""
        return [
            Prepared(
                scored=scored(
                    self.policies[turn.policy],
                    turn,
                    foretold[:, seat],
                    turn.rewards_now + turn.rewards_later,
                ),
                batch=None,
            )
            for seat, turn in enumerate(rollout.turns)
        ]


def _features(backbone: Backbone, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return (B, D) the reference's hidden state at the prompt's end, and its mean over a response.

    The mean tells more of reviews than the state at the last token does: 0.6 against 0.4 in
    correlation with the reward, of a network fitted to 900 episodes of `imdb`.
    """
    # One place more: what is read there is the last token of the longest response.
    longer = replace(
        TokenBatch.of(tokens),
        response_ids=pad(tokens.response_ids, (0, 1)),
        response_mask=pad(tokens.response_mask, (0, 1)),
    )
    hidden = response_hidden(backbone, None, longer).float()
    mask = tokens.response_mask[..., None]
    return hidden[:, 0], (hidden[:, 1:] * mask).sum(1) / mask.sum(1)


def _correlation(values: Tensor, rewards: Tensor) -> float:
    """Return how values (N, A) go along with rewards (N, A) within the seats; 0 if one is constant.

    Both are centred by seat: that observers earn more than pioneers is no knowledge of answers.
    """
    values, rewards = (part.cpu() - part.cpu().mean(0) for part in (values, rewards))
    norm = values.norm() * rewards.norm()
    return float((values * rewards).sum() / norm) if norm > 1e-9 else 0.0
