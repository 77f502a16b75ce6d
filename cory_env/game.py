"""The rules of the game, and nothing else: pure functions from an immutable state to the next.

An episode is one example and, in every round, one response per role, in turn order `pioneer_0`,
`observer_0`, `observer_1`, …; every later shell (`aec`, `parallel`, `vector`) plays by this file.
It knows no PettingZoo and no random numbers, and receives its task, reward and tokenizer as
objects.

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

RewardSharing = Literal["collective", "mean", "individual", "last"] | float
SHARINGS = ("collective", "mean", "individual", "last")
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
    """(K,) who answers in each turn: all agents in every round, in turn order."""
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
    rounds: int = 1
    """How often every agent answers; in later rounds each has read all earlier responses."""
    reward_sharing: RewardSharing = "collective"
    """Each agent gets the sum of all task rewards (`"collective"`), their mean, its own
    (`"individual"`), that of the last response alone (`"last"`), or its own plus a number times the
    others'."""
    knowledge_transfer: bool = True
    """Whether agents see the earlier responses of others."""
    swap_every: int | None = None
    """Episodes after which the roles move on by one agent; None for roles that stay."""
    verdict: Verdicts = "none"
    """Whether observers are told the task's verdict on the responses that they read: on none, on
    all, or only on those that earn the verdict of a reward of 0, the only ones that they read."""

    def __post_init__(self) -> None:
        expect_count("max_new_tokens", self.max_new_tokens, at_least=1)
        expect_count("max_prompt_tokens", self.max_prompt_tokens, at_least=1)
        expect_count("observers", self.observers, at_least=0)
        expect_count("rounds", self.rounds, at_least=1)
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
        if self.verdict != "none" and self.teaches:
            raise ValueError(
                f"Expected verdict none with task {self.task.name}, whose pioneer is told the "
                f"verdicts, got {self.verdict}: leave it out."
            )
        if self.judges:
            self.task.verdict(0.0)

    def __str__(self) -> str:
        """Return who plays what: the arguments that the environments show of themselves."""
        return f"task={self.task.name!r}, agents={list(self.agents)}"

    @property
    def roles(self) -> tuple[str, ...]:
        """(A,) the roles in turn order."""
        return ("pioneer_0", *(f"observer_{i}" for i in range(self.observers)))

    @property
    def turns(self) -> tuple[str, ...]:
        """(K,) the role of each turn."""
        return self.roles * self.rounds

    @property
    def teaches(self) -> bool:
        """Whether the pioneer is a teacher: see `Task.teaches`."""
        return self.task.teaches and self.observers > 0

    @property
    def judges(self) -> bool:
        """Whether somebody is told the task's verdict on earlier answers."""
        return self.verdict != "none" or self.teaches

    def is_answer(self, turn: int) -> bool:
        """Return whether what is said in a turn is an answer, and no message of a teacher."""
        return not (self.teaches and turn % (self.observers + 1) == 0)

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
        return GameState(example, agents * self.rounds, isolated=isolated)

    def agent_on_turn(self, state: GameState) -> str | None:
        """Return who answers next, or None after the end."""
        turn = len(state.responses)
        return state.agents[turn] if turn < len(state.agents) else None

    def prompt(self, state: GameState, turn: int | None = None) -> str:
        """Return what the agent of a turn reads.

        Args:
            state: the episode.
            turn: a turn that has come, 0 for the pioneer's first; None for the one that is on.
        """
        turn = len(state.responses) if turn is None else turn
        query = state.example.query
        if turn == 0:
            return self.task.pioneer_prompt(query)
        seen: Sequence[Response] = state.responses[:turn]
        if state.isolated or not self.knowledge_transfer:  # an agent still knows what it has said
            seen = seen[turn % (self.observers + 1) :: self.observers + 1]
        if self.verdict == "wrong":
            seen = [response for response in seen if response.verdict == self.task.verdict(0.0)]
        texts = [response.text for response in seen]
        if self.is_answer(turn) and (self.verdict == "none" or not seen):
            return self.task.observer_prompt(query, texts)
        verdicts = [response.verdict for response in seen]
        if self.is_answer(turn):
            return self.task.judged_prompt(query, texts, verdicts)
        return self.task.feedback_prompt(query, texts, verdicts)

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
        """Return the response that an action stands for: see `as_response`."""
        return as_response(action, agent, self.tokenizer, self.max_new_tokens)

    def respond(self, state: GameState, response: Response) -> GameState:
        """Return the state after the agent on turn has answered."""
        return self.respond_all([state], [response])[0]

    def respond_all(
        self, states: Sequence[GameState], responses: Sequence[Response]
    ) -> list[GameState]:
        """Return the states after the agents on turn have answered.

        Where verdicts are told, the answers that are read are scored in one call of the reward.

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
        turn = len(states[0].responses)
        if self.judges and self.is_answer(turn) and turn + 1 < len(self.turns):
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
            (B, K) the task reward of each turn, 0 of a teacher's feedback, and (B, A) what each
            agent is paid, in turn order.

        Raises:
            RewardError: if the reward raises or does not return one finite number per response.
        """
        answers = [turn for turn in range(len(self.turns)) if self.is_answer(turn)]
        examples = [state.example for state in states for _ in answers]
        texts = [state.responses[turn].text for state in states for turn in answers]
        task_rewards = np.zeros((len(states), len(self.turns)))
        task_rewards[:, answers] = score(self.reward, examples, texts).reshape(-1, len(answers))
        return task_rewards, share(task_rewards, self.reward_sharing, len(self.roles))


def as_response(action: object, agent: str, tokenizer: Tokenizer, max_new_tokens: int) -> Response:
    """Return the response that an action stands for.

    Args:
        action: a text, which is cut at the token limit, since its author cannot count tokens; or a
            sequence of token ids, read up to the first end token. The end token may be left out.
        agent: who acts, for the error message.
        tokenizer: what the ids are of.
        max_new_tokens: longest response.

    Raises:
        TypeError: if the action is neither.
        ValueError: if an id is out of range, there are more ids than may be played, or the text is
            no Unicode.
    """
    if isinstance(action, str):
        _expect_unicode(f"response of {agent}", action)
        try:
            ids = tokenizer.encode(action, begin=False)
        except ValueError as error:  # a character that it does not know
            raise ValueError(f"{error} That was the response of {agent}.") from error
        kept = ids[:max_new_tokens]
        text = action if len(kept) == len(ids) else tokenizer.decode(kept, begin=False)
    else:
        kept = _legal_ids(action, agent, tokenizer, max_new_tokens)
        text = tokenizer.decode(kept, begin=False)
    truncated = len(kept) == max_new_tokens
    if not truncated:
        kept = [*kept, tokenizer.eos_token_id]
    return Response(text, tuple(kept), truncated)


def _legal_ids(action: object, agent: str, tokenizer: Tokenizer, max_new_tokens: int) -> list[int]:
    """Return the ids before the first end token."""
    vocabulary, end = tokenizer.vocab_size, tokenizer.eos_token_id
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
        limit = max_new_tokens - 1  # the end token takes a place
    else:
        limit = max_new_tokens
    if len(kept) > limit:
        raise ValueError(
            f"Expected at most max_new_tokens={max_new_tokens} token ids of {agent} up to "
            f"the end token, got {len(kept) + max_new_tokens - limit}."
        )
    return kept


def share(
    task_rewards: Float64Array, sharing: RewardSharing, num_agents: int | None = None
) -> Float64Array:
    """Return what each agent is paid.

    Args:
        task_rewards: (B, K) of each turn.
        sharing: see `Rules.reward_sharing`.
        num_agents: A, who take turns; None for as many as turns.

    Returns:
        (B, A) `Σ_k r_k`, its mean, the sum `r_i` of the own ones, the last one, or
        `r_i + c Σ_{j≠i} r_j`.
    """
    episodes, turns = task_rewards.shape
    agents = num_agents or turns
    # No -1 for the rounds: of no episodes, any number of them would do.
    own = task_rewards.reshape(episodes, turns // agents, agents).sum(axis=1)
    total = task_rewards.sum(axis=1, keepdims=True)
    if sharing == "collective":
        return np.broadcast_to(total, own.shape).copy()
    if sharing == "mean":
        return np.broadcast_to(total / turns, own.shape).copy()
    if sharing == "last":
        return np.broadcast_to(task_rewards[:, -1:], own.shape).copy()
    if sharing == "individual":
        return own
    return own + sharing * (total - own)


def earnings(
    task_rewards: Float64Array, sharing: RewardSharing, num_agents: int | None = None
) -> Float64Array:
    """Return (B, K, A) what each turn earns each agent: see `share`, which is their sum."""
    turns = np.eye(task_rewards.shape[1])
    shares = [share(task_rewards * turn, sharing, num_agents) for turn in turns]
    return np.stack(shares, axis=1)


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
