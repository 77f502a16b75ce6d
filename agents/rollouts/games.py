"""What learners of language models play: B episodes side by side, one ask at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cory_env.game import GameState
from cory_env.types import Example, Float64Array, Response


class Game(Protocol):
    """B episodes of a game in turns, of which `cory_env.vector.VectorEnv` is one.

    An ask is one prompt to one agent in some of the episodes. An agent may be asked any number of
    times up to `max_asks`, and episodes may end at different times: what is not asked waits, or has
    ended. K asks make a batch of episodes, in the order in which they were made.
    """

    num_envs: int
    """B."""
    agents: tuple[str, ...]
    """(A,) who plays, in turn order."""
    states: list[GameState]
    """(B,) the episodes: what was asked first, and who has answered what."""
    turn_rewards: Float64Array
    """After the end, (B, K) the score of each ask's own response; 0 where nobody was asked."""

    @property
    def max_new_tokens(self) -> int:
        """Longest response."""
        ...

    @property
    def max_asks(self) -> int:
        """How often an agent may be asked in an episode."""
        ...

    @property
    def reward_calls(self) -> int:
        """After the end, how many responses have been scored."""
        ...

    @property
    def agent_selection(self) -> str | None:
        """Who is asked; None after the end of all episodes."""
        ...

    @property
    def rows(self) -> Sequence[int]:
        """In which episodes, in ascending order."""
        ...

    @property
    def ends_next(self) -> bool:
        """Whether the responses to this ask end all episodes; False if that depends on them."""
        ...

    @property
    def earned(self) -> Float64Array:
        """After the end, (B, K, A) what each ask has earned each agent."""
        ...

    @property
    def gold(self) -> list[str | None]:
        """(B,) responses that are right; None where none is known."""
        ...

    def reset(
        self,
        seed: int | None = None,
        examples: Sequence[Example] | None = None,
        isolated: Sequence[bool] | None = None,
    ) -> list[str]:
        """Begin B episodes and return the prompts of the first ask, one for each of `rows`."""
        ...

    def step(self, responses: Sequence[Response]) -> list[str]:
        """Take the responses in `rows`; return the prompts of the next ask, none after the end."""
        ...
