"""The rules of the game, and nothing else: pure functions from an immutable state to the next.

An episode is one example and one response per role, in turn order `pioneer_0`, `observer_0`,
`observer_1`, …; every later shell (`aec`, `parallel`, `vector`) plays by this file. It knows no
PettingZoo and no random numbers, and receives its task, reward and tokenizer as objects.

Source: Ma et al., "Coevolving with the Other You" (NeurIPS 2024, arXiv 2410.06101), section 3.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal, SupportsIndex, cast

import numpy as np

from cory_env.names import unknown_name
from cory_env.task import Task
from cory_env.types import Example, Float64Array, Response, Reward, Tokenizer

RewardSharing = Literal["collective", "mean", "individual"] | float
SHARINGS = ("collective", "mean", "individual")
Verdicts = Literal["none", "all", "wrong"]
VERDICTS = ("none", "all", "wrong")


class RewardError(RuntimeError):
    """A reward raised, or returned something that is no score."""


@dataclass(frozen=True, slots=True)
class GameState:
    """One episode so far."""

    example: Example
    """What is asked."""
    agents: tuple[str, ...]
    """(A,) who plays, in turn order."""
    responses: tuple[Response, ...] = ()
    """What has been answered, in turn order."""
    isolated: bool = False
    """Whether observers do not read the earlier responses of this episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What stays the same from episode to episode."""

    task: Task
    reward: Reward
    tokenizer: Tokenizer
    max_new_tokens: int
    """Longest response."""
    max_prompt_tokens: int
    """Longest prompt."""
    observers: int = 1
    """Agents after the pioneer: 1 is CORY, 0 the single-agent baseline."""
    reward_sharing: RewardSharing = "collective"
    """Each agent gets the sum of all task rewards (`"collective"`), their mean, its own
    (`"individual"`), or its own plus a number times the others'."""
    knowledge_transfer: bool = True
    """Whether observers see the earlier responses."""
    swap_every: int | None = None
    """Episodes after which the roles move on by one agent; None for roles that stay."""
    verdict: Verdicts = "none"
    """Whether observers are told the task's verdict on the responses that they read: on none, on
    all, or only on those that earn the verdict of a reward of 0, the only ones that they read."""

    def __post_init__(self) -> None:
        expect_count("max_new_tokens", self.max_new_tokens, at_least=1)
        expect_count("max_prompt_tokens", self.max_prompt_tokens, at_least=1)
        expect_count("observers", self.observers, at_least=0)
        if self.swap_every is not None:
            expect_count("swap_every", self.swap_every, at_least=1)
        sharing = self.reward_sharing
        number = isinstance(sharing, int | float)
        if not (math.isfinite(sharing) if number else sharing in SHARINGS):
            raise ValueError(unknown_name("a reward_sharing or a finite number", SHARINGS, sharing))
        if not isinstance(self.knowledge_transfer, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"Expected knowledge_transfer to be True or False, got {self.knowledge_transfer!r}."
            )
        if self.verdict not in VERDICTS:
            raise ValueError(unknown_name("a verdict", VERDICTS, self.verdict))
        if self.verdict != "none":
            self.task.verdict(0.0)

    def __str__(self) -> str:
        """Return who plays what: the arguments that the environments show of themselves."""
        return f"task={self.task.name!r}, agents={list(self.agents)}"

    @property
    def roles(self) -> tuple[str, ...]:
        """(A,) the roles in turn order."""
        return ("pioneer_0", *(f"observer_{i}" for i in range(self.observers)))

    @property
    def agents(self) -> tuple[str, ...]:
        """(A,) the players: named by their role, or `llm_0`, `llm_1`, … where roles are swapped."""
        if self.swap_every is None:
            return self.roles
        return tuple(f"llm_{i}" for i in range(self.observers + 1))

    def start(self, example: Example, episode: int = 0, *, isolated: bool = False) -> GameState:
        """Return the state before the first turn.

        Args:
            example: what is asked.
            episode: number of episodes played before this one; it decides who has which role.
            isolated: whether observers do not read the earlier responses of this episode.
        """
        if not isinstance(example, Example):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Expected an Example, got {example!r}.")
        if not isinstance(example.query, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Expected the query to be a text, got {example.query!r}.")
        _expect_unicode("query", example.query)
        shift = 0 if self.swap_every is None else (episode // self.swap_every) % len(self.roles)
        agents = self.agents[shift:] + self.agents[:shift]
        return GameState(example, agents, isolated=isolated)

    def agent_on_turn(self, state: GameState) -> str | None:
        """Return who answers next, or None after the end."""
        turn = len(state.responses)
        return state.agents[turn] if turn < len(state.agents) else None

    def prompt(self, state: GameState, turn: int | None = None) -> str:
        """Return what the agent of a turn reads.

        Args:
            state: the episode.
            turn: a turn that has come, 0 for the pioneer's; None for the one that is on.
        """
        turn = len(state.responses) if turn is None else turn
        query = state.example.query
        if turn == 0:
            return self.task.pioneer_prompt(query)
        transfer = self.knowledge_transfer and not state.isolated
        seen = state.responses[:turn] if transfer else ()
        if self.verdict == "wrong":
            seen = [response for response in seen if response.verdict == self.task.verdict(0.0)]
        texts = [response.text for response in seen]
        if self.verdict == "none" or not seen:
            return self.task.observer_prompt(query, texts)
        return self.task.judged_prompt(query, texts, [response.verdict for response in seen])

    def encode_prompt(self, prompt: str, agent: str) -> list[int]:
        """Return the ids of a prompt.

        Args:
            prompt: the text.
            agent: who reads it, for the error message.

        Raises:
            ValueError: if it has no tokens, or more than `max_prompt_tokens`.
        """
        ids = self.tokenizer.encode(prompt)
        if not 1 <= len(ids) <= self.max_prompt_tokens:
            raise ValueError(
                f"Expected the prompt of {agent} to have 1 to "
                f"max_prompt_tokens={self.max_prompt_tokens} tokens, got {len(ids)}: pass a larger "
                f"max_prompt_tokens, other queries or fewer observers. It begins {prompt[:80]!r}."
            )
        return ids

    def check_prompt(self, prompt: str, agent: str) -> None:
        """Raise what `encode_prompt` would, in less time where the tokenizer knows a way."""
        if not self.tokenizer.fits(prompt, self.max_prompt_tokens):
            self.encode_prompt(prompt, agent)

    def ends_response(self, token: int, place: int) -> bool:
        """Return whether a response is over after this token in this place, the first being 0."""
        return place + 1 >= self.max_new_tokens or token == self.tokenizer.eos_token_id

    def text_so_far(self, ids: Sequence[int]) -> str:
        """Return what is to be read of a response that goes on: no half of a character."""
        whole = self.tokenizer.decode(ids, begin=False)
        text, kept = whole, len(ids)
        while text.endswith("\ufffd") and len(ids) - kept < 3:  # UTF-8 has at most 4 bytes
            kept -= 1
            text = self.tokenizer.decode(ids[: max(kept, 0)], begin=False)
        return whole if text.endswith("\ufffd") else text

    def response(self, action: object, agent: str) -> Response:
        """Return the response that an action stands for.

        Args:
            action: a text, which is cut at the token limit, since its author cannot count tokens;
                or a sequence of token ids, read up to the first end token. The end token may be
                left out.
            agent: who acts, for the error message.

        Raises:
            TypeError: if the action is neither.
            ValueError: if an id is out of range, there are more ids than may be played, or the
                text is no Unicode.
        """
        if isinstance(action, str):
            _expect_unicode(f"response of {agent}", action)
            try:
                ids = self.tokenizer.encode(action, begin=False)
            except ValueError as error:  # a character that it does not know
                raise ValueError(f"{error} That was the response of {agent}.") from error
            kept = ids[: self.max_new_tokens]
            text = action if len(kept) == len(ids) else self.tokenizer.decode(kept, begin=False)
        else:
            kept = self._legal_ids(action, agent)
            text = self.tokenizer.decode(kept, begin=False)
        truncated = len(kept) == self.max_new_tokens
        if not truncated:
            kept = [*kept, self.tokenizer.eos_token_id]
        return Response(text, tuple(kept), truncated)

    def respond(self, state: GameState, response: Response) -> GameState:
        """Return the state after the agent on turn has answered."""
        return self.respond_all([state], [response])[0]

    def respond_all(
        self, states: Sequence[GameState], responses: Sequence[Response]
    ) -> list[GameState]:
        """Return the states after the agents on turn have answered.

        Where observers are told verdicts, the responses that they may read are scored in one call
        of the reward.

        Args:
            states: (B,) episodes in the same turn.
            responses: (B,) of the agents on turn.

        Raises:
            RuntimeError: if the episodes have ended.
            RewardError: as `payoffs` does.
        """
        if any(self.agent_on_turn(state) is None for state in states):
            raise RuntimeError("Expected an episode that goes on, got one that has ended.")
        pairs = list(zip(states, responses, strict=True))
        if self.verdict != "none" and len(states[0].responses) + 1 < len(self.roles):
            texts = [response.text for response in responses]
            rewards = score(self.reward, [state.example for state in states], texts)
            pairs = [
                (state, replace(response, verdict=self.task.verdict(float(reward))))
                for (state, response), reward in zip(pairs, rewards, strict=True)
            ]
        # `replace` would take as long as all the rest of a turn.
        return [
            GameState(s.example, s.agents, (*s.responses, response), s.isolated)
            for s, response in pairs
        ]

    def payoffs(self, states: Sequence[GameState]) -> tuple[Float64Array, Float64Array]:
        """Score finished episodes in one call of the reward.

        Args:
            states: (B,) finished episodes.

        Returns:
            (B, A) each agent's own task reward and (B, A) what it is paid, both in turn order.

        Raises:
            RewardError: if the reward raises or does not return one finite number per response.
        """
        turns = len(self.roles)
        examples = [state.example for state in states for _ in range(turns)]
        texts = [response.text for state in states for response in state.responses]
        task_rewards = score(self.reward, examples, texts).reshape(len(states), turns)
        return task_rewards, share(task_rewards, self.reward_sharing)

    def _legal_ids(self, action: object, agent: str) -> list[int]:
        """Return the ids before the first end token."""
        vocabulary, end = self.tokenizer.vocab_size, self.tokenizer.eos_token_id
        kept = _integers(action)
        if kept is None:
            raise TypeError(
                f"Expected the response of {agent} to be a text or a sequence of token ids, "
                f"got {action!r}."
            )
        wrong = [token for token in kept if not 0 <= token < vocabulary]
        if wrong:
            raise ValueError(
                f"Expected token ids of {agent} from 0 to {vocabulary - 1}, got {wrong[0]}."
            )
        if end in kept:
            kept = kept[: kept.index(end)]
            limit = self.max_new_tokens - 1  # the end token takes a place
        else:
            limit = self.max_new_tokens
        if len(kept) > limit:
            raise ValueError(
                f"Expected at most max_new_tokens={self.max_new_tokens} token ids of {agent} up to "
                f"the end token, got {len(kept) + self.max_new_tokens - limit}."
            )
        return kept


def share(task_rewards: Float64Array, sharing: RewardSharing) -> Float64Array:
    """Return what each agent is paid.

    Args:
        task_rewards: (B, A) each agent's own.
        sharing: see `Rules.reward_sharing`.

    Returns:
        (B, A) `Σ_j r_j`, its mean, `r_i`, or `r_i + c Σ_{j≠i} r_j`.
    """
    total = task_rewards.sum(axis=1, keepdims=True)
    if sharing == "collective":
        return np.broadcast_to(total, task_rewards.shape).copy()
    if sharing == "mean":
        return np.broadcast_to(total / task_rewards.shape[1], task_rewards.shape).copy()
    if sharing == "individual":
        return task_rewards.copy()
    return task_rewards + sharing * (total - task_rewards)


def score(reward: Reward, examples: Sequence[Example], responses: Sequence[str]) -> Float64Array:
    """Call a reward and check what it returns.

    Args:
        reward: the batched callable.
        examples: (B,) what was asked.
        responses: (B,) the texts.

    Returns:
        (B,) finite scores.

    Raises:
        RewardError: if the reward raises or returns anything else; names the example if one is to
            blame.
    """
    try:
        scores = np.asarray(reward(examples, responses))
    except Exception as error:  # a plug-in may raise anything: this is the boundary
        culprit = _first_that_raises(reward, examples, responses)
        raise RewardError(
            f"Expected the reward to score every response, but it raised {error!r}{culprit}."
        ) from error
    if scores.shape != (len(responses),) or scores.dtype.kind not in "fiu":
        raise RewardError(
            f"Expected the reward to return {len(responses)} numbers, shape ({len(responses)},), "
            f"got shape {scores.shape} of {scores.dtype}."
        )
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        i = int(np.argmin(np.isfinite(scores)))
        raise RewardError(
            f"Expected finite scores, got {scores[i]} for {examples[i]} answered {responses[i]!r}."
        )
    return scores


def _first_that_raises(
    reward: Reward, examples: Sequence[Example], responses: Sequence[str]
) -> str:
    """Rescore one by one to say which response the reward cannot take."""
    for example, response in zip(examples, responses, strict=True):
        try:
            reward([example], [response])
        except Exception:  # whatever it is, the caller has it already
            return f" for {example} answered {response!r}"
    return ""


def _integers(sequence: object) -> list[int] | None:
    """Return a flat sequence of integers as a list, and None for anything else."""
    if not isinstance(sequence, Iterable) or isinstance(sequence, bytes | Mapping | Set):
        return None
    try:
        return [as_integer(item) for item in cast("Iterable[object]", sequence)]
    except TypeError:
        return None


def as_integer(value: object) -> int:
    """Return an integer of any type, such as NumPy's.

    Raises:
        TypeError: if it is none, or a truth value.
    """
    if isinstance(value, bool):
        raise TypeError
    return operator.index(cast("SupportsIndex", value))


def _expect_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Expected the {name} to be Unicode text, got the lone surrogate "
            f"{text[error.start]!r} in place {error.start} of {text[:80]!r}."
        ) from None


def expect_count(name: str, value: object, *, at_least: int) -> None:
    """Raise a ValueError unless the value is an integer that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"Expected {name} to be an integer of at least {at_least}, got {value!r}.")
