"""What an algorithm is: it prepares rollouts and gives a loss. It never sees the trainer.

All algorithms maximise the same objective, for the policy in role i

    J_i = E[R_i − η Σ_t KL(π_i(·|s_t) ‖ π_0(·|s_t))],

whose gradient has two terms:

    ∇J_i = E[Σ_t ∇log π(a_t|s_t) (R_i − η Σ_{t'>t} KL_t')] − η E[Σ_t ∇KL_t].

With `kl_prompt="solo"` the reference of an observer reads another prompt than the observer: s_t is
then two states, of which π_0 reads the query and the response so far; the gradient is the same.

The first is a policy gradient in which an action pays for the KL of *later* states; the second
lowers the KL of each visited state directly. They differ in what an action's reward is measured
against (`baselines`: a critic, other responses of the group, nothing), and in how far one step goes
(`surrogate`). The forms of the penalty, of which `exact` and `k1` follow ∇J:

| `kl`       | in the reward, per token            | in the loss, per token                     |
|------------|-------------------------------------|--------------------------------------------|
| `exact`    | −η KL of the next state             | η KL, differentiated                       |
| `k1`       | −η log(π/π_0) of the token          |                                            |
| `k2`       |                                     | η ½ log²(π/π_0): its gradient is ∇KL_t in  |
|            |                                     | the mean, but no action pays for later KL  |
| `k3`       |                                     | η (π_0/π − 1 − log(π_0/π)): the gradient   |
|            |                                     | of KL(π_0 ‖ π), and no later KL            |
| `detached` | −η KL of the token's own state: the |                                            |
|            | paper's; it never lowers that KL    |                                            |

Sources: CORY eq. 2 (arXiv 2410.06101); on the two terms Tang & Munos (arXiv 2506.09477); on k1, k2
and k3 Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import cycle
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from agents.algorithms.asks import check_asked_alike, worth_before
from agents.algorithms.kl import KLController
from agents.algorithms.practice import CAP, practice_rollouts
from agents.algorithms.revisions import distances, with_revisions
from agents.config.algorithm import AlgorithmConfig, LearningConfig
from agents.distributed.world import World
from agents.maths.advantages import next_step, token_rewards, whiten
from agents.maths.distributions import k2, k3
from agents.maths.losses import (
    Totals,
    aggregate,
    clipped_surrogate,
    importance_weights,
    sequence_log_ratio,
)
from agents.maths.moments import Moments
from agents.models.critic import ValueFunction
from agents.policies.base import Generated, Policy, Scores
from agents.policies.llm import response_hidden
from agents.types import (
    Branches,
    Explored,
    LossOutput,
    Prefix,
    Prepared,
    Rollout,
    ScoredTurn,
    StateValues,
    TokenBatch,
    TrainBatch,
    Turn,
)


class Sampler(Protocol):
    """What lets an algorithm look further than a rollout, before anybody learns from it.

    The policies answer as they did in the rollout, with randomness of their own: it depends on the
    iteration and on the row in the whole batch, and on no other row, process or branch. Where
    layers are spread over processes, all of them must make the same calls.
    """

    def respond(
        self, seat: int, rows: Sequence[int], prefixes: Sequence[Sequence[int]] | None = None
    ) -> Generated:
        """Let the policy of a seat answer its prompts once more; nobody is paid.

        Args:
            seat: in turn order.
            rows: of the episodes; one that comes n times gets n answers.
            prefixes: first tokens of the answers; what comes behind them is returned.

        Raises:
            EngineError: if the engine fails, or cannot go on behind prefixes.
        """
        ...

    def answer(self, seat: int, prompts: Sequence[str], numbers: Sequence[int]) -> Generated:
        """Let the policy of a seat answer prompts of other episodes; nobody is paid.

        Args:
            seat: in turn order.
            prompts: any.
            numbers: one of each prompt, whose randomness it is; over all processes all different.

        Raises:
            EngineError: if the engine fails.
        """
        ...

    def branch(self, prefixes: Sequence[Prefix], k: int) -> Branches:
        """Play P states to the end, K times each, later turns included; one call of the reward.

        A response that is whole stays as it is.

        Raises:
            EngineError: if the engine fails, or cannot go on behind prefixes.
            RewardError: if the reward fails.
        """
        ...


class Algorithm(ABC):
    """A learning rule over rollouts. A subclass says what rewards are measured against."""

    critic: ClassVar[Literal["local", "central"] | None] = None
    """Whether each policy has a critic of its own, one serves all of them, or there is none."""
    Config: ClassVar[type[LearningConfig]] = AlgorithmConfig
    """What one may configure. An algorithm of your own derives from it for fields of its own, which
    are flags then, and stand in config.json."""
    config: AlgorithmConfig
    needs_gold: ClassVar[bool] = False
    """Whether it learns from gold answers, which not every task has."""
    losses: ClassVar[tuple[str, ...]] = ("clip_fraction", "approx_kl")
    """The metrics of its loss, which are 0 of a policy that learns nothing in an iteration."""
    smoke: ClassVar[Mapping[str, Any]] = {}
    """Fields with which it learns the games of seconds that the tests play."""

    def __init__(
        self,
        config: Any,
        policies: Mapping[str, Policy],
        critics: Mapping[str, ValueFunction],
        controllers: Mapping[str, KLController],
        max_new_tokens: int,
        world: World | None = None,
    ):
        """Take hold of what learns.

        Args:
            config: its own, of the class `Config`.
            policies: by name.
            critics: by policy name; the same object for all if the critic is central, none without.
            controllers: KL coefficients by policy name.
            max_new_tokens: T, the longest response of the game.
            world: the processes whose rows are one batch; None for this one alone.
        """
        self.config = config
        self.world = world or World()
        self.policies = policies
        self.critics = critics
        self.controllers = controllers
        self.max_new_tokens = max_new_tokens
        self.reward_moments = {name: Moments() for name in policies}

    @abstractmethod
    def advantages(
        self, rewards: Tensor, mask: Tensor, baselines: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Measure what the tokens of one turn have earned.

        Args:
            rewards: (B, T) of each token.
            mask: (B, T) bool.
            baselines: (B, T) the critic's values; None without a critic.

        Returns:
            Advantages, returns, and the baselines that the advantages were measured against; all
            (B, T), 0 where masked.
        """

    def explore(self, rollout: Rollout, sampler: Sampler) -> Explored | None:
        """Look further than this process's rows of a rollout; None by those that do not."""
        return None

    @torch.no_grad()
    def prepare(self, rollout: Rollout, explored: Explored | None = None) -> list[Prepared]:
        """Return what is logged and what is learnt of each turn, in turn order; no gradient.

        Turns are taken from the last to the first, so that what an agent's successor is worth may
        stand for what it will earn. All turns of a role are one trajectory: what the next one is
        worth comes on top.

        Args:
            rollout: of this process's rows.
            explored: what `explore` returned.

        Raises:
            ValueError: see `check_asked_alike`.
        """
        check_asked_alike(rollout, self.config)
        prepared: list[Prepared] = []  # the last turn first
        worth: dict[str, Tensor] = {}  # of each role's next turn, (B,)
        for seat in reversed(range(len(rollout.turns))):
            turn = rollout.turns[seat]
            later = self._later(rollout, seat, prepared[-1] if prepared else None)
            rewards = self._scaled_rewards(turn, turn.rewards_now + later)
            before = worth.get(turn.role)
            if before is not None and self._goes_on(rollout, seat):
                rewards = rewards + before
            cap, found = self.config.importance_cap, explored.turns[seat] if explored else None
            prepared.append(self._prepare_turn(rollout, seat, rewards, cap, found))
            scored, coef = prepared[-1].scored, self.controllers[turn.policy].coef
            first = self._continuation(scored)
            worth[turn.role] = worth_before(self.config, coef, scored, first, before)
        learnt = whiten_turns(prepared, self.config, self.world)[::-1]
        return with_revisions(rollout, learnt, self.config, list(self.policies))

    @torch.no_grad()
    def practice(self, rollout: Rollout, policy: str) -> list[Prepared]:
        """Return what a policy learns from answers that others gave to the query alone."""
        cap = self.config.importance_cap or CAP
        prepared: list[Prepared] = []
        for practised in practice_rollouts(rollout, policy, self.world):
            rewards = self._in_its_units(policy, practised.turns[0].rewards_now)
            prepared.append(self._prepare_turn(practised, 0, rewards, cap))
        return whiten_turns(prepared, self.config, self.world)

    def after_update(  # noqa: B027
        self, policy: str, asks: Sequence[int], prepared: list[Prepared]
    ) -> None:
        """Take note that a policy has learnt from its turns; what later turns teach may change.

        Args:
            policy: whose update it was.
            asks: which turns were its.
            prepared: all turns; entries of later ones may be replaced.
        """

    def loss(self, policy: str, batch: TrainBatch, totals: Totals | None = None) -> LossOutput:
        """Return the loss of one policy (and its critic) on some episodes of its batch.

        Args:
            policy: whose.
            batch: the episodes.
            totals: of the optimiser step that they are a part of, for losses and metrics that add
                up over its parts; None if they are all of it.
        """
        config, mask = self.config, batch.response_mask
        totals = totals or Totals.of(mask)
        scores = self.policies[policy].score(batch, batch.ref_hidden)
        log_ratio = (scores.log_probs - batch.old_log_probs) * mask
        if config.ratio == "sequence":
            log_ratio = sequence_log_ratio(log_ratio, mask)
        ratio = log_ratio.exp()
        surrogate = self.surrogate(ratio, batch.advantages)
        penalty = self.controllers[policy].coef * self._loss_penalty(scores)
        bonus = config.entropy_coef * scores.entropies
        per_token = -surrogate + (penalty - bonus) / batch.advantage_scale[:, None]
        sizes = config.normalization, self.max_new_tokens
        loss = aggregate(per_token * batch.weights, mask, *sizes, totals)
        with torch.no_grad():
            outside = (ratio > 1 + self._clip_high) | (ratio < 1 - config.clip)
            metrics = {
                "clip_fraction": (outside * mask).sum() / totals.tokens,
                # k3 of the step: an estimate of KL(old ‖ new) that is never negative.
                "approx_kl": ((ratio - 1 - log_ratio) * mask).sum() / totals.tokens,
            }
        loss = loss + self._value_loss(policy, batch, scores, totals)
        if batch.revisions is not None:
            kls, counted = distances(self.policies, policy, batch)
            loss = loss + config.distill_coef * aggregate(kls, counted, *sizes, totals)
        return LossOutput(loss, metrics, log_ratio.detach())

    def _value_loss(
        self, policy: str, batch: TrainBatch, scores: Scores, totals: Totals
    ) -> Tensor | float:
        """Return what the critic has to learn; nothing without one."""
        return 0.0

    def state(self) -> dict[str, Any]:
        """Return what the next batch depends on, as JSON takes it."""
        return {name: asdict(moments) for name, moments in self._moments().items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        for name, moments in self._moments().items():
            for key, value in state[name].items():
                setattr(moments, key, value)

    def tensors(self) -> dict[str, Tensor]:
        """Return what the next batch depends on besides `state`, by name.

        A failed iteration goes back to what this returned: replace such tensors, never write to
        them in place.
        """
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Go back to what `tensors` returned."""

    @property
    def restarts(self) -> bool:
        """Whether policies may go back to the weights that the run began with."""
        return False

    def figures(self, policy: str) -> dict[str, float]:
        """Return what else is logged of a policy in this iteration, the same on all processes."""
        return {}

    def warning(self) -> str:
        """Return a line for the user, if this iteration has shown that something must change."""
        return ""

    def value_units(self, policy: str) -> Moments:
        """Return the units in which a policy's critic predicts returns: those of rewards."""
        return Moments()

    def _moments(self) -> dict[str, Moments]:
        return {f"reward/{name}": moments for name, moments in self.reward_moments.items()}

    def surrogate(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """Return (B, T) what is to be maximised: PPO's clipped objective unless overridden."""
        return clipped_surrogate(ratio, advantages, self.config.clip, self._clip_high)

    @property
    def _clip_high(self) -> float:
        high = self.config.clip_high
        return self.config.clip if high is None else high

    def _held_to_solo(self, seat: int) -> bool:
        """Return whether an agent's reference reads something else than the agent."""
        return self.config.kl_prompt == "solo" and seat > 0

    def _reference_reads(self, rollout: Rollout, seat: int) -> TokenBatch:
        """Return the responses of a turn behind the prompt of the reference."""
        turn = rollout.turns[seat]
        if not self._held_to_solo(seat):
            return turn.tokens
        length = turn.tokens.response_ids.shape[1]
        ids, mask = self.policies[turn.policy].encode(rollout.turns[0].prompts, length)
        return replace(turn.tokens, prompt_ids=ids, prompt_mask=mask)

    def _later(self, rollout: Rollout, seat: int, following: Prepared | None) -> Tensor:
        """Return (B,) what stands for the rewards that later turns decide; `following` is next."""
        return rollout.turns[seat].rewards_later

    def _goes_on(self, rollout: Rollout, seat: int) -> bool:
        """Return whether what a role's next turn is worth is added to what a turn earns."""
        return True

    def _continuation(self, scored: ScoredTurn) -> Tensor:
        """Return (B,) what the first state of a turn is worth to the turn of the role before it."""
        return scored.returns[:, 0]

    def _scaled_rewards(self, turn: Turn, rewards: Tensor) -> Tensor:
        """Scale by the moments of what the policy was paid so far, if configured."""
        if self.config.reward_scaling == "none":
            return rewards
        self.reward_moments[turn.policy].update(self.world.gather(rewards))
        return self._in_its_units(turn.policy, rewards)

    def _in_its_units(self, policy: str, rewards: Tensor) -> Tensor:
        if self.config.reward_scaling == "none":
            return rewards
        moments = self.reward_moments[policy]
        shift = moments.mean if self.config.reward_scaling == "normalize" else 0.0
        return (rewards - shift) / moments.std

    def _prepare_turn(
        self,
        rollout: Rollout,
        seat: int,
        rewards: Tensor,
        cap: float | None,
        found: StateValues | None = None,
    ) -> Prepared:
        turn = rollout.turns[seat]
        mask = turn.tokens.response_mask
        backbone = self.policies[turn.policy].backbone
        ref_hidden = response_hidden(backbone, None, self._reference_reads(rollout, seat))
        scores = self.policies[turn.policy].score(turn.tokens, ref_hidden)
        penalties = self.controllers[turn.policy].coef * self._reward_penalty(scores, mask)
        history = self._history(rollout, seat)
        features, values = self._values(turn.policy, seat, history, ref_hidden)
        advantages, returns, baselines = self._measured(turn, rewards, penalties, values, found)
        weights = importance_weights(scores.log_probs, turn.tokens.sampled_log_probs, mask, cap)
        scored = ScoredTurn(
            mask=mask,
            log_probs=scores.log_probs,
            kls=scores.kls,
            entropies=scores.entropies,
            baselines=baselines,
            returns=returns,
        )
        batch = TrainBatch.of(
            turn.tokens,
            old_log_probs=scores.log_probs,
            ref_hidden=ref_hidden,
            advantages=advantages,
            advantage_scale=torch.ones(len(mask), device=mask.device),
            weights=weights,
            history=history,
            features=features,
            baselines=baselines,
            returns=returns,
            seats=torch.full((len(mask),), seat, device=mask.device),
        )
        return Prepared(scored=scored, batch=batch)

    def _measured(
        self,
        turn: Turn,
        rewards: Tensor,
        penalties: Tensor,
        values: Tensor | None,
        found: StateValues | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `advantages` does, of rewards (B,) and penalties (B, T) apart.

        Args:
            turn: whose tokens they are of.
            rewards: (B,) of the whole responses.
            penalties: (B, T) what each token pays.
            values: (B, T) of the critic; None without one.
            found: what branches say of its states, if the algorithm explores.
        """
        mask = turn.tokens.response_mask
        return self.advantages(token_rewards(rewards, penalties, mask), mask, values)

    def _history(self, rollout: Rollout, seat: int) -> TokenBatch | None:
        """Return what the critic reads of a turn."""
        return None

    def _values(
        self, policy: str, seat: int, history: TokenBatch | None, ref_hidden: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what a frozen trunk makes of the history, (B, T, D), and the values, (B, T)."""
        return None, None

    def _reward_penalty(self, scores: Scores, mask: Tensor) -> Tensor:
        """Return (B, T) what each action pays for, in nats."""
        match self.config.kl:
            case "exact":
                return self.config.gamma * next_step(scores.kls, mask)
            case "k1":
                return scores.log_probs - scores.ref_log_probs
            case "detached":
                return scores.kls
            case _:
                return torch.zeros_like(scores.kls)

    def _loss_penalty(self, scores: Scores) -> Tensor:
        """Return (B, T) what is differentiated, in nats."""
        match self.config.kl:
            case "exact":
                return scores.kls
            case "k2":
                return k2(scores.log_probs, scores.ref_log_probs)
            case "k3":
                return k3(scores.log_probs, scores.ref_log_probs)
            case _:
                return torch.zeros_like(scores.kls)


def whiten_turns(prepared: list[Prepared], config: AlgorithmConfig, world: World) -> list[Prepared]:
    """Whiten what each turn teaches by itself, or all by the moments of their union."""
    if config.whitening == "none":
        return prepared
    batches = [turn.batch for turn in prepared if isinstance(turn.batch, TrainBatch)]
    kept = [batch.advantages[batch.response_mask] for batch in batches]
    joint = config.whitening == "joint"
    populations = [world.gather(torch.cat(kept))] if joint else map(world.gather, kept)
    whitened = []
    for batch, population in zip(batches, cycle(populations)):
        advantages, std = whiten(batch.advantages, batch.response_mask, population)
        scale = batch.advantage_scale * std
        whitened.append(replace(batch, advantages=advantages, advantage_scale=scale))
    found = iter(whitened)
    return [replace(turn, batch=next(found)) if turn.batch else turn for turn in prepared]
