"""Imitation of one's own responses: a policy fits those of its responses that were good.

No ratio, no baseline, no penalty: the KL to the reference is only logged. What a subclass says is
which responses are wanted, and behind which label of their prompts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from agents.algorithms.configs import ImitationConfig
from agents.algorithms.likelihood import Likelihood
from agents.algorithms.replay import Item, Replay, items_of, token_batch, whole
from agents.types import Explored, Prepared, Rollout, TokenBatch, Turn

PATIENCE = 10
"""Iterations without a good response after which the user is told."""


class Kept(NamedTuple):
    """A response that may be imitated, and what is counted of it."""

    query: str
    items: tuple[Item, ...]
    """What would be imitated: the response behind one prompt or two."""
    good: bool
    """Whether it has earned enough."""
    wanted: bool
    """Whether it is to be imitated."""


class Imitation(Likelihood):
    """Maximise Σ log π(response | prompt) over a buffer of one's own responses.

    A buffer belongs to a policy: what it said in either seat. At the end of a round of
    `learn_every` iterations the policy learns all of it, `epochs` times over; in between it only
    answers.
    """

    Config = ImitationConfig
    config: ImitationConfig  # pyright: ignore[reportIncompatibleVariableOverride] # never set anew
    # Answers fill the limit there, few are right at first, 6 rounds would not be enough, and what
    # an observer learnt of a partner that knew nothing must be forgotten.
    smoke: ClassVar[Mapping[str, Any]] = {
        **{"accept": "top:0.25", "finished": False, "learn_every": 1},
        **{"per_query": 8, "buffer_size": 256},
    }

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.replays = dict.fromkeys(self.policies, Replay())
        self.iterations = 0
        self.barren = dict.fromkeys(self.policies, 0)
        """Iterations in a row without a good response."""
        self._counted: dict[str, dict[str, float]] = {}

    @abstractmethod
    def wanted(self, good: Tensor, ended: Tensor) -> Tensor:
        """Return (B,) bool: which responses are to be imitated.

        Args:
            good: (B,) bool: whether they have earned enough.
            ended: (B,) bool: whether they are whole.
        """

    def label(self, good: bool) -> str:
        """Return what stands before the prompt of a response that is imitated."""
        return ""

    @torch.no_grad()
    def prepare(self, rollout: Rollout, explored: Explored | None = None) -> list[Prepared]:
        """Take in what was good, and at the end of a round return all of it, by policy."""
        prepared = [Prepared(scored=self.scored(turn), batch=None) for turn in rollout.turns]
        self._take_in(rollout)
        self.iterations += 1
        if self.iterations % self.config.learn_every:
            return prepared
        found: set[str] = set()
        for seat, turn in enumerate(rollout.turns):
            if turn.policy not in found and len(self.replays[turn.policy]):
                batch = self._batch(turn.policy, len(turn.prompts))
                prepared[seat] = replace(prepared[seat], batch=batch, restarts=self.restarts)
            found.add(turn.policy)
        return prepared

    @property
    def restarts(self) -> bool:
        """Whether policies go back to the weights that the run began with before they learn."""
        return self.config.restart == "beginning"

    def figures(self, policy: str) -> dict[str, float]:
        """Return how much was good, and how much there is to imitate."""
        return {**self._counted[policy], "buffer": len(self.replays[policy])}

    def warning(self) -> str:
        """Return what to change, once nothing was good for `PATIENCE` iterations."""
        if PATIENCE not in self.barren.values():
            return ""
        policy = next(name for name, count in self.barren.items() if count == PATIENCE)
        cut = self._counted[policy]["good"]
        mend = (
            "pass --no-finished, for good ones are cut off at --max-new-tokens, or raise that"
            if cut
            else "pass a lower --accept, such as top:0.25, or an easier task"
        )
        return (
            f"{policy} has nothing to imitate: no response of the last {PATIENCE} iterations was "
            f"accepted ({'some earn' if cut else 'none earns'} {self.config.accept}): {mend}."
        )

    def state(self) -> dict[str, Any]:
        """Return how far the round is."""
        return {"iterations": self.iterations, "barren": dict(self.barren)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.iterations, self.barren = state["iterations"], dict(state["barren"])

    def tensors(self) -> dict[str, Tensor]:
        """Return the buffers."""
        return {
            f"replay/{name}/{key}": tensor
            for name, replay in self.replays.items()
            for key, tensor in replay.tensors().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` returned."""
        for name in self.replays:
            prefix = f"replay/{name}/"
            own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            self.replays[name] = Replay.of(own)

    def _take_in(self, rollout: Rollout) -> None:
        """Add to the buffers what is wanted of a rollout, and count it."""
        found: dict[str, list[Kept]] = {}
        for seat, turn in enumerate(rollout.turns):
            kept = self.world.gather_list(list(self._kept(rollout, seat)))
            new = [item for row in _capped(kept, self.config.per_query) for item in row.items]
            replay = self.replays[turn.policy]
            self.replays[turn.policy] = replay.add(new, self.config.buffer_size)
            found.setdefault(turn.policy, []).extend(kept)
        for policy, kept in found.items():
            served = {row.query for row in kept if row.good and row.wanted}
            self._counted[policy] = {
                "good": sum(row.good for row in kept) / len(kept),
                "coverage": len(served) / len({row.query for row in kept}),
            }
            self.barren[policy] = 0 if served else self.barren[policy] + 1

    def _kept(self, rollout: Rollout, seat: int) -> Iterator[Kept]:
        """Yield what may be imitated of this process's rows of a turn."""
        turn = rollout.turns[seat]
        good = self._good(turn.task_rewards)
        made = turn.tokens.response_mask.any(1)
        ended = self._ended(turn) | torch.tensor(not self.config.finished, device=good.device)
        wanted = (self.wanted(good, ended) & made).tolist()
        policy = self.policies[turn.policy].labelled("")
        labels = [self.label(is_good) for is_good in good.tolist()]
        versions: list[list[Item]] = []
        for prompts in self._prompts(rollout, seat):
            asked = [label + prompt for label, prompt in zip(labels, prompts, strict=True)]
            ids, mask = policy.encode(asked, turn.tokens.response_ids.shape[1])
            versions.append(items_of(replace(turn.tokens, prompt_ids=ids, prompt_mask=mask)))
        rows = zip(rollout.queries, zip(*versions, strict=True), good.tolist(), wanted, strict=True)
        yield from (Kept(*row) for row, kept in zip(rows, made.tolist(), strict=True) if kept)

    def _prompts(self, rollout: Rollout, seat: int) -> Iterator[list[str]]:
        """Yield the prompts behind which the responses of a turn are imitated."""
        if seat == 0 or self.config.distill != "solo":
            yield rollout.turns[seat].prompts
        if seat and self.config.distill != "own":
            yield rollout.turns[0].prompts

    def _good(self, rewards: Tensor) -> Tensor:
        """Return (B,) bool: which responses have earned enough, of all processes' together."""
        share = self.config.share
        if share is None:
            return rewards >= self.config.bound
        everybody = self.world.gather(rewards)
        # Where most earn as little as can be, the best share is none of them.
        return (rewards >= everybody.quantile(1 - share)) & (rewards > everybody.min())

    def _ended(self, turn: Turn) -> Tensor:
        """Return (B,) bool: which responses have ended by themselves."""
        tokens = turn.tokens
        last = (tokens.response_mask.sum(1, keepdim=True) - 1).clamp(min=0)
        stop_ids = self.policies[turn.policy].backbone.stop_ids
        return torch.isin(tokens.response_ids.gather(1, last)[:, 0], stop_ids)

    def _batch(self, policy: str, rows: int) -> TokenBatch:
        """Return this process's rows of all that a policy has to imitate, in whole batches.

        Args:
            policy: whose.
            rows: of this process in a batch of episodes.
        """
        backbone = self.policies[policy].backbone
        items = whole(self.replays[policy].items, rows * self.world.size)
        own = items[self.world.rows(len(items))]
        return token_batch(own, int(backbone.tokenizer.pad_token_id), backbone.device)  # type: ignore[arg-type]


def _capped(kept: list[Kept], most: int) -> Iterator[Kept]:
    """Yield what is wanted: of a query so many different good ones and bad ones, the first."""
    counts: dict[tuple[str, bool], set[tuple[Item, ...]]] = {}
    for row in kept:
        known = counts.setdefault((row.query, row.good), set())
        if row.wanted and row.items not in known and len(known) < most:
            known.add(row.items)
            yield row
