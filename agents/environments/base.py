"""What the learners see of somebody else's environment: who is on turn, what it reads, what it got.

An agent looks, acts, and looks again: what it has earned since its last action comes with the next
look, and the look after its last action says how it ended. Simultaneous moves are looks one after
the other, none of which shows what others do in the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from gymnasium.spaces import Discrete, Space, Text
from numpy.typing import NDArray

from agents.errors import LostError, PlayError

Describe = Callable[[Any], str]
LegalActions = Callable[[Any], Iterable[str]]
"""Of an observation: the texts of the actions that may be taken."""
Legal = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the agent on turn learns."""

    agent: str
    reward: float
    """What it has earned since its last action, or since the beginning."""
    ended: Literal["no", "terminated", "truncated"]
    """Whether its episode goes on; a truncated one would have, and has been cut."""
    text: str
    """What it reads; empty where its episode has terminated."""
    legal: Legal | None
    """(C,) which actions it may take; None for all, or where actions are texts."""


class Environment(Protocol):
    """One environment, an episode after the other."""

    name: str
    """For people."""
    agents: tuple[str, ...]
    """All that there may be, in their order."""
    actions: tuple[str, ...] | None
    """(C,) the texts of the actions; None where an action is any text."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        ...

    def look(self) -> Look | None:
        """Return what the agent on turn learns; None once the episode is over for everybody."""
        ...

    def act(self, action: int | str) -> None:
        """Let the agent on turn act."""
        ...

    def cut(self) -> list[Look]:
        """Stop the episode for all whose episode goes on, and return how each of them ended."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@contextmanager
def failing(name: str) -> Iterator[None]:
    """Say in one line what an environment of somebody else's has raised.

    Raises:
        LostError: if it cannot be reached.
        PlayError: if it has raised anything else.
    """
    try:
        yield
    except PlayError:
        raise
    except Exception as error:  # an environment may raise anything: this is the boundary
        text = str(error).strip().splitlines()
        reason = f"{type(error).__name__}{f': {text[0]}' if text else ''}"
        kind = LostError if isinstance(error, ConnectionError | TimeoutError) else PlayError
        raise kind(f"Expected {name} to play on, got {reason}.") from error


def expect_reward(name: str, agent: str, reward: Any) -> float:
    """Return a reward as a number.

    Raises:
        PlayError: if it is none, or not finite.
    """
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise PlayError(f"Expected finite rewards from {name}, got {reward!r} for {agent}.")
    return number


def expect_legal(name: str, agent: str, mask: Any, count: int) -> Legal | None:
    """Return a mask of legal actions; None if there is none.

    Raises:
        PlayError: if it has another shape, or allows nothing.
    """
    if mask is None:
        return None
    legal = np.asarray(mask)
    if legal.shape != (count,) or not legal.any() or not np.isin(legal, (0, 1)).all():
        raise PlayError(
            f"Expected an action mask of {count} zeros and ones from {name} that allows something, "
            f"got {np.array2string(legal, threshold=8)} for {agent}."
        )
    return legal.astype(bool)


def legal_mask(
    name: str, legal_actions: LegalActions, actions: tuple[str, ...], observation: Any
) -> Legal:
    """Return which actions a function of the user's allows, (C,).

    Raises:
        PlayError: if it fails, or allows what is no action.
    """
    with failing("legal_actions"):
        texts = list(legal_actions(observation))
    if unknown := [text for text in texts if text not in actions]:
        raise PlayError(
            f"Expected legal_actions to return some of the --actions of {name}, got {unknown[0]!r}."
        )
    return np.isin(actions, texts)


def expect_text(name: str, describe: Describe | None, observation: Any) -> str:
    """Return what an agent reads of an observation.

    Raises:
        PlayError: if that is no text, or an empty one.
    """
    if describe is None:
        text = _undescribed(observation)
    else:
        with failing("describe"):
            text = describe(observation)
    if not isinstance(text, str):
        mend = "pass --describe FILE with describe(observation) -> str" if describe is None else (
            "let describe return one"
        )  # fmt: skip
        kind = type(text).__name__
        raise PlayError(f"Expected a text to read in {name}, got {kind}: {mend}.")
    if not text.strip():
        raise PlayError(f"Expected a text to read in {name}, got an empty one.")
    return str(text)


def mask_of(observation: Any, info: Any) -> Any:
    """Return the mask of legal actions, wherever it is; None if there is none."""
    if _has_mask(observation):
        return observation["action_mask"]
    return info.get("action_mask") if isinstance(info, Mapping) else None


def _undescribed(observation: Any) -> Any:
    """Return what is read where nothing describes an observation."""
    if _has_mask(observation):
        return observation["observation"]
    if isinstance(observation, Mapping) and "text" in observation:
        return observation["text"]
    return observation


def _has_mask(observation: Any) -> bool:
    return isinstance(observation, Mapping) and "action_mask" in observation


def action_texts(name: str, space: Space[Any], given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the texts of the actions of a space; None where an action is any text.

    Args:
        name: of the environment.
        space: of its actions.
        given: by the user; empty for numbers, or for any text where actions are texts.

    Raises:
        ValueError: if actions are neither discrete nor texts, or their number is another.
    """
    if isinstance(space, Text):
        return given or None
    if not isinstance(space, Discrete):
        raise ValueError(
            f"Expected discrete actions or texts in {name}, got {space}: wrap the environment."
        )
    count = int(space.n)
    if given and len(given) != count:
        raise ValueError(
            f"Expected {count} texts for the actions of {name}, got {len(given)}: "
            f"{', '.join(given)}."
        )
    return given or tuple(str(number) for number in range(count))


def action_of(space: Space[Any], actions: tuple[str, ...] | None, chosen: int | str) -> Any:
    """Return an action as an environment takes it.

    Args:
        space: of its actions.
        actions: their texts; None where an action is any text.
        chosen: the place of an action among them; or a text, which loses the characters that the
            space does not have, and what is too long.
    """
    if isinstance(chosen, int):
        if isinstance(space, Text):
            assert actions is not None
            return actions[chosen]
        return chosen + int(getattr(space, "start", 0))
    if not isinstance(space, Text):
        return chosen
    known = space.character_set
    return "".join(c for c in chosen if c in known)[: space.max_length]
