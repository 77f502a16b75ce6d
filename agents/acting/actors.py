"""Who acts: a language model over the texts of given actions, or of its own, or chance.

Discrete actions are scored, not generated (TWOSOME, arXiv 2401.14151): π(a | s) is the softmax,
over the legal actions, of what the model thinks of their texts behind the description of s. An
action that cannot be taken is never said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.environments.base import Legal
from agents.policies.llm import LLMPolicy, response_hidden
from agents.policies.scored import Normalise, Span, divisors, score_spans, spans
from agents.types import TokenBatch

Scores = NDArray[np.float64]
MOST_REMEMBERED = 50_000
"""Prompts whose tokens are remembered."""


class Choice(NamedTuple):
    """What an agent does."""

    action: int | str
    """Its place among the actions, or its text."""
    log_prob: float
    """Under the distribution that it was drawn from."""
    tokens: tuple[int, ...]
    """What the model said."""


@dataclass(slots=True, kw_only=True)
class Step:
    """One action of one agent."""

    prompt: str
    legal: Legal | None
    """(C,) which actions it could take; None for all."""
    choice: Choice
    reward: float = 0.0
    """What it has earned until its next action, or the end."""


class Weighed(NamedTuple):
    """What a policy says of N actions now; all (N,) float32, with gradients."""

    log_probs: Tensor
    entropies: Tensor
    """Of all that it could have done."""
    kls: Tensor
    """To the reference, exact at each state."""


class Actor(Protocol):
    """Whoever acts."""

    def forget(self) -> None:
        """Forget what it has thought so far: other episodes begin, maybe with other weights.

        What is computed must not depend on what was asked before, as before a resumption.
        """
        ...

    def act(
        self,
        prompts: Sequence[str],
        legal: Sequence[Legal | None],
        generators: Sequence[np.random.Generator],
        *,
        greedy: bool = False,
    ) -> list[Choice]:
        """Choose an action in each of N states, each by the randomness of its own."""
        ...


class Learnt(Actor, Protocol):
    """An actor that is a language model."""

    @property
    def policy(self) -> LLMPolicy:
        """Return the model."""
        ...

    def weigh(self, steps: Sequence[Step]) -> Weighed:
        """Return what the policy says of actions now, differentiably."""
        ...

    def describe(self, choice: Choice) -> str:
        """Return the text of an action."""
        ...


class RandomActor:
    """Takes any legal action, all alike.

    Args:
        count: C, actions.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def forget(self) -> None:
        """Forget nothing: nothing is remembered."""

    def act(
        self,
        prompts: Sequence[str],
        legal: Sequence[Legal | None],
        generators: Sequence[np.random.Generator],
        *,
        greedy: bool = False,
    ) -> list[Choice]:
        """Choose."""
        chosen: list[Choice] = []
        for mask, generator in zip(legal, generators, strict=True):
            allowed = np.arange(self._count) if mask is None else mask.nonzero()[0]
            action = int(allowed[int(generator.random() * len(allowed))])
            chosen.append(Choice(action, -float(np.log(len(allowed))), ()))
        return chosen


class ScoredPolicy:
    """A language model over discrete actions.

    Args:
        policy: the model.
        actions: (C,) their texts, which follow what the model reads behind a space.
        normalise: what their log-probs are divided by: see `agents.policies.scored.divisors`.
    """

    def __init__(self, policy: LLMPolicy, actions: Sequence[str], normalise: Normalise) -> None:
        self.policy = policy
        self.actions = tuple(actions)
        self.normalise: Normalise = normalise
        chat = bool(policy.backbone.tokenizer.chat_template)  # its end is the beginning of a line
        self._candidates = [action if chat else f" {action}" for action in self.actions]
        self._reference = replace(policy, name="reference", learns=False)
        self._spans: dict[str, list[Span]] = {}
        self._scored: dict[str, Scores] = {}
        self._referred: dict[str, Tensor] = {}

    def forget(self) -> None:
        """Forget what the weights so far have said; and what the reference has."""
        self._scored.clear()
        self._referred.clear()
        if len(self._spans) > MOST_REMEMBERED:
            self._spans.clear()

    def act(
        self,
        prompts: Sequence[str],
        legal: Sequence[Legal | None],
        generators: Sequence[np.random.Generator],
        *,
        greedy: bool = False,
    ) -> list[Choice]:
        """Choose; a state in which the policy has been since `forget` costs no forward pass."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._scored]
        if new:
            with torch.no_grad():
                found = self._scores(self.policy, new).double().cpu().numpy()
            self._scored.update(zip(new, found, strict=True))
        scores = np.stack([self._scored[prompt] for prompt in prompts])
        scores[~_masks(legal, len(self.actions))] = -np.inf
        log_probs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        if greedy:
            chosen = log_probs.argmax(1)
        else:
            draws = np.array([generator.random() for generator in generators])
            sums = np.exp(log_probs).cumsum(1)
            # Rounding may leave the last sum below 1, or a draw at the sum itself.
            chosen = (sums <= (draws * sums[:, -1])[:, None]).sum(1)
        return [
            Choice(int(c), float(log_probs[n, c]), self._tokens(prompt, int(c)))
            for n, (c, prompt) in enumerate(zip(chosen, prompts, strict=True))
        ]

    def weigh(self, steps: Sequence[Step]) -> Weighed:
        """Return what the policy says of actions now, differentiably."""
        row_of = {prompt: n for n, prompt in enumerate(dict.fromkeys(s.prompt for s in steps))}
        scores = self._scores(self.policy, list(row_of))
        new = [prompt for prompt in row_of if prompt not in self._referred]
        if new:
            with torch.no_grad():
                found = self._scores(self._reference, new)
            self._referred.update(zip(new, found, strict=True))
        referred = torch.stack([self._referred[prompt] for prompt in row_of])
        rows = torch.tensor([row_of[s.prompt] for s in steps], device=scores.device)
        masks = torch.from_numpy(_masks([s.legal for s in steps], len(self.actions)))
        masks = masks.to(scores.device)
        log_probs, ref_log_probs = (
            x[rows].masked_fill(~masks, -torch.inf).log_softmax(-1) for x in (scores, referred)
        )
        chosen = torch.tensor([s.choice.action for s in steps], device=scores.device)
        probs, finite = log_probs.exp(), log_probs.masked_fill(~masks, 0.0)
        return Weighed(
            log_probs=log_probs.gather(1, chosen[:, None])[:, 0],
            entropies=-(probs * finite).sum(1),
            kls=(probs * (finite - ref_log_probs.masked_fill(~masks, 0.0))).sum(1),
        )

    def describe(self, choice: Choice) -> str:
        """Return the text of an action."""
        return self.actions[int(choice.action)]

    def token_counts(self, prompt: str) -> dict[str, int]:
        """Return how many tokens each action has behind a prompt."""
        rows = self._known_spans(prompt)
        return {a: len(s.ids) - s.start for a, s in zip(self.actions, rows, strict=True)}

    def _scores(self, policy: LLMPolicy, prompts: Sequence[str]) -> Tensor:
        """Return (U, C) float32 of different prompts."""
        rows = [self._known_spans(prompt) for prompt in prompts]
        scores = score_spans(policy, rows)
        return scores / divisors(self._candidates, rows, self.normalise).to(scores.device)

    def _known_spans(self, prompt: str) -> list[Span]:
        if prompt not in self._spans:
            found = spans(self.policy, self.policy.label, prompt, self._candidates)
            _check_different(self.actions, found)
            self._spans[prompt] = found
        return self._spans[prompt]

    def _tokens(self, prompt: str, action: int) -> tuple[int, ...]:
        span = self._known_spans(prompt)[action]
        return span.ids[span.start :]


class WritingPolicy:
    """A language model whose action is the text that it generates.

    Args:
        policy: the model.
        max_new_tokens: T, its longest action.
    """

    def __init__(self, policy: LLMPolicy, max_new_tokens: int) -> None:
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self._reference = replace(policy, name="reference", learns=False)

    def forget(self) -> None:
        """Forget nothing: nothing is remembered."""

    def act(
        self,
        prompts: Sequence[str],
        legal: Sequence[Legal | None],
        generators: Sequence[np.random.Generator],
        *,
        greedy: bool = False,
    ) -> list[Choice]:
        """Write an action in each state."""
        draws = np.stack([generator.random(self.max_new_tokens) for generator in generators])
        texts, tokens = self.policy.generate(
            prompts,
            max_new_tokens=self.max_new_tokens,
            uniforms=torch.from_numpy(draws).float(),
            greedy=greedy,
        )
        log_probs = tokens.sampled_log_probs.double().sum(1).tolist()
        kept = zip(tokens.response_ids.tolist(), tokens.response_mask.tolist(), strict=True)
        ids = [tuple(i for i, keep in zip(*row, strict=True) if keep) for row in kept]
        return [Choice(*parts) for parts in zip(texts, log_probs, ids, strict=True)]

    def weigh(self, steps: Sequence[Step]) -> Weighed:
        """Return what the policy says of actions now, differentiably; sums over their tokens."""
        device = self.policy.backbone.device
        prompt_ids, prompt_mask = self.policy.encode([s.prompt for s in steps], self.max_new_tokens)
        width = max(len(s.choice.tokens) for s in steps)
        lengths = torch.tensor([len(s.choice.tokens) for s in steps])
        pad = int(self.policy.backbone.tokenizer.pad_token_id)  # type: ignore[arg-type]
        ids = [[*s.choice.tokens, *[pad] * (width - len(s.choice.tokens))] for s in steps]
        batch = TokenBatch(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            response_ids=torch.tensor(ids, device=device),
            response_mask=(torch.arange(width)[None] < lengths[:, None]).to(device),
        )
        with torch.no_grad():
            ref_hidden = response_hidden(self._reference.backbone, None, batch)
        scores = self.policy.score(batch, ref_hidden)
        return Weighed(scores.log_probs.sum(1), scores.entropies.sum(1), scores.kls.sum(1))

    def describe(self, choice: Choice) -> str:
        """Return the text of an action."""
        return str(choice.action)


def _masks(legal: Sequence[Legal | None], count: int) -> NDArray[np.bool_]:
    """Return which of C actions are legal in N states, (N, C)."""
    everything = np.ones(count, dtype=bool)
    return np.stack([everything if mask is None else mask for mask in legal])


def _check_different(actions: Sequence[str], found: Sequence[Span]) -> None:
    """Check that the model can tell actions apart.

    Raises:
        ValueError: if two are the same tokens.
    """
    first: dict[tuple[int, ...], str] = {}
    for action, span in zip(actions, found, strict=True):
        if span.ids in first:
            raise ValueError(
                f"Expected actions that the model reads as different tokens, got the same for "
                f"{first[span.ids]!r} and {action!r}: choose other --actions, or another --model."
            )
        first[span.ids] = action


def features(policy: LLMPolicy, prompts: Sequence[str], rows: int = 64) -> Tensor:
    """Return what the frozen reference makes of prompts: (U, D) float32, at their last tokens.

    Args:
        policy: of the same base.
        prompts: U texts.
        rows: that are in memory at a time.
    """
    found: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(prompts), rows):
            ids, mask = policy.encode(prompts[start : start + rows], 1)
            empty = TokenBatch(
                prompt_ids=ids, prompt_mask=mask, response_ids=ids[:, :1], response_mask=mask[:, :1]
            )
            # Prompts are padded on the left: the state before the first new token is the last one.
            found.append(response_hidden(policy.backbone, None, empty)[:, 0].float())
    return torch.cat(found)
