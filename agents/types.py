"""The batches that the rooms of the learner hand to each other: plain data.

Axis legend, used in every docstring of the package: B episodes, A agents, T response tokens, L
prompt tokens, V vocabulary, D hidden width. A mask is True where an entry counts. Rewards, KL and
combined rewards are per episode, log-probs, KL and entropies per token in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

from cory_env.game import GameState
from cory_env.types import Float64Array


@runtime_checkable
class Detailed(Protocol):
    """A reward that has more to say of a response than its score."""

    details: Mapping[str, Float64Array]
    """(B,) by name, of the responses of its last call; their means are logged by policy."""


@runtime_checkable
class Described(Protocol):
    """A reward that says what it pays for."""

    description: str
    """For people to read."""


@runtime_checkable
class Costly(Protocol):
    """A reward that a judge with a price gives."""

    def spent(self) -> int:
        """Return the tokens that the judge has read and written since this was last asked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Prompts and the responses to them, as token ids."""

    prompt_ids: Tensor
    """(B, L) int64, padded on the left."""
    prompt_mask: Tensor
    """(B, L) bool."""
    response_ids: Tensor
    """(B, T) int64, padded on the right; a closing end token is part of the response."""
    response_mask: Tensor
    """(B, T) bool."""

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.prompt_ids)

    def take(self, rows: Tensor | slice) -> Self:
        """Return the chosen episodes."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: _take(part, rows) for name, part in parts.items()})

    def counting(self, rows: Tensor) -> Self:
        """Return the same episodes with no token that counts outside some rows, (B,) bool."""
        return replace(self, response_mask=self.response_mask & rows[:, None])

    @classmethod
    def of(cls, tokens: TokenBatch, **others: Any) -> Self:
        """Return the same episodes with more about them."""
        return cls(**{f.name: getattr(tokens, f.name) for f in fields(TokenBatch)}, **others)

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Return the episodes of several batches as one, padded to the longest."""
        if len(batches) == 1:
            return batches[0]
        parts = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(cls)}
        return cls(**{name: _join(name, part) for name, part in parts.items()})


def _take(part: Any, rows: Tensor | slice) -> Any:
    if isinstance(part, TokenBatch):
        return part.take(rows)
    return None if part is None else part[rows]


def _join(name: str, parts: Sequence[Any]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], TokenBatch):
        kinds = {type(part) for part in parts}
        return (kinds.pop() if len(kinds) == 1 else TokenBatch).join(parts)
    if parts[0].dim() == 1:
        return torch.cat(list(parts))
    width = max(part.shape[1] for part in parts)
    left = name.startswith("prompt_")
    padded = []
    for part in parts:
        room = width - part.shape[1]
        # `pad` counts from the last axis backwards; the second one is what is padded.
        around = (0, 0) * (part.dim() - 2) + ((room, 0) if left else (0, room))
        padded.append(pad(part, around))
    return torch.cat(padded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(TokenBatch):
    """Sampled responses."""

    sampled_log_probs: Tensor
    """(B, T) log-probs of the distribution the tokens were drawn from; 0 where masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one policy did in one role, for all episodes."""

    role: str
    policy: str
    prompts: list[str]
    responses: list[str]
    tokens: Generation
    task_rewards: Tensor
    """(B,) the policy's own task reward."""
    rewards_now: Tensor
    """(B,) the agent's share of the task rewards of this turn; with `credit="shared"` of earlier
    turns, too."""
    rewards_later: Tensor
    """(B,) the agent's share of the task rewards of later turns; see `rollouts/credit.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A batch of episodes: one turn per role, in turn order."""

    turns: tuple[Turn, ...]
    states: list[GameState]
    """(B,) the episodes, as they ended."""
    gold: list[str | None] = field(default_factory=list[str | None])
    """(B,) responses that are right; None where none is known."""

    @property
    def queries(self) -> list[str]:
        """(B,) what was asked."""
        return [state.example.query for state in self.states]


class Prefix(NamedTuple):
    """A state of an episode: somebody has answered in part, and all before it in whole."""

    row: int
    """Of the episode in its rollout."""
    seat: int
    """Of who answers, in turn order."""
    cut: int
    """Tokens that it has said, at most those of its response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """Episodes that were played on from P states, K times each."""

    task_rewards: Tensor
    """(P, K, A) of each agent."""
    rewards: Tensor
    """(P, K, A) each agent's share of the task rewards of the state's turn and of later ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateValues:
    """What the states of one turn are worth, in units of reward."""

    values: Tensor
    """(B, T) of the state in which the token's segment begins; 0 where masked."""
    next_values: Tensor
    """(B, T) of the state in which it ends, what was earned on the way included; 0 where masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored:
    """What an algorithm has found out beside a rollout."""

    turns: tuple[StateValues, ...] = ()
    """In turn order."""
    fresh: Rollout | None = None
    """Answers to earlier prompts, which nobody is paid for: its states and rewards are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions(TokenBatch):
    """Answers of observers, behind the query alone; tokens that are not to be learnt are masked."""

    read: TokenBatch
    """The same answers behind what the observers read."""
    teachers: Tensor
    """(B,) int64, the observer's place among the policies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch(TokenBatch):
    """One turn, prepared for the update; nothing in it carries a gradient."""

    old_log_probs: Tensor
    """(B, T) under the behaviour policy, scored anew: in bfloat16 the cached forward of the sampler
    rounds differently from the batched one of the update, and the first ratio must be 1."""
    ref_hidden: Tensor
    """(B, T, D) hidden states of the reference model where it predicts the response tokens."""
    advantages: Tensor
    """(B, T) whitened if configured."""
    advantage_scale: Tensor
    """(B,) what whitening has divided the advantages by; KL and entropy terms are divided by the
    same, or their coefficients would change their meaning."""
    weights: Tensor
    """(B, T) factors of the policy's loss: 1 where the episodes were drawn from what is learnt."""
    history: TokenBatch | None
    """What the critic reads before and up to the response tokens; None without a critic."""
    features: Tensor | None
    """(B, T, D) what a frozen trunk makes of it; None if the critic's trunk learns."""
    baselines: Tensor
    """(B, T) what returns were measured against: the critic's values, or those of the group."""
    returns: Tensor
    """(B, T)"""
    seats: Tensor
    """(B,) index of the role in turn order."""
    revisions: Revisions | None = None
    """What is distilled beside the turn; None for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch(TokenBatch):
    """Responses that are preferred to others behind the same prompts."""

    rejected: TokenBatch
    """The others."""
    margins: Tensor
    """(B,) by how many nats the reference prefers the first to the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTurn:
    """What is logged of a turn, aligned with its rows; no gradient."""

    mask: Tensor
    """(B, T) bool, of the response tokens."""
    log_probs: Tensor
    """(B, T) under the policy, as it was when it answered."""
    kls: Tensor
    """(B, T) exact KL to the reference."""
    entropies: Tensor
    """(B, T)"""
    baselines: Tensor
    """(B, T) what returns were measured against: the critic's values, or those of the group."""
    returns: Tensor
    """(B, T)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One turn after `Algorithm.prepare`: what is logged, and what is learnt."""

    scored: ScoredTurn
    batch: TokenBatch | None
    """Any rows in any number that is the same on every process and a multiple of the minibatch's;
    None to learn nothing from the turn."""
    restarts: bool = False
    """Whether the policy goes back to the weights that the run began with before it learns."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A scalar to minimise and what to log about it."""

    loss: Tensor
    metrics: dict[str, Tensor]
    log_ratios: Tensor | None = None
    """(B, T) of the policy to the one that sampled, without gradient, for the histograms."""
