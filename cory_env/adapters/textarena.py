"""The games of TextArena as environments of PettingZoo: texts to read, texts to act by.

    from cory_env.adapters.textarena import env

    game = env("TicTacToe-v0")
    game.reset(seed=0)
    for agent in game.agent_iter():
        observation, reward, termination, truncation, info = game.last()
        game.step(None if termination or truncation else "[4]")

TextArena draws from Python's and numpy's global random states. A game has states of its own here,
which are put in their place while the game's code runs: neither does a game depend on what else
draws, nor the other way round.

Source: textarena 0.7.4, `textarena/core.py`, `textarena/state.py`.
"""

# It has no types to speak of where the package is not installed, as where this is checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Dict, Text
from pettingzoo import AECEnv
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from cory_env.adapters import missing
from cory_env.adapters.texts import read_space, said_space
from cory_env.names import nearest

PLAYER_COUNTS = (2, 1, *range(3, 16))
"""How many players a game is tried with, if nobody says how many."""


class Randomness:
    """The global random states as one game sees them.

    Args:
        seed: of both; None for entropy.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._python = random.Random(seed).getstate()
        (word,) = np.random.SeedSequence(seed).generate_state(1)
        self._numpy = np.random.RandomState(word).get_state()  # games draw from it

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let what runs inside draw from these, and put everybody else's back."""
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class TextArenaEnv(AECEnv[str, dict[str, str], str]):
    """A game of TextArena, turn by turn.

    | | |
    |---|---|
    | Agents | `player_0`, `player_1`, … |
    | Observation | `{"text": …}`: all that its player has been told |
    | Action | a text; what a game does not understand it says to its player, who answers again |
    | Rewards | those of the game, at its end; 0 until then |

    A player who answers wrongly twice in a row loses, or is out, by the game's own rules. All
    agents terminate together: one who is out before has no more turns. `infos` hold the game's
    account of the player at the end, such as `reason` and `invalid_move`.

    Args:
        env_id: such as `TicTacToe-v0`.
        num_players: None for the first of 2, 1, 3, 4, … that the game takes.
        render_mode: `ansi` or None.
        options: of the game's constructor.

    Raises:
        ValueError: if there is no such game, or it takes no such options or players.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "textarena", "render_modes": ["ansi"]}

    def __init__(
        self,
        env_id: str,
        num_players: int | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._textarena = _import_textarena()
        if env_id not in (games := self._textarena.envs.registration.ENV_REGISTRY):
            near = nearest(env_id, games)
            end = f": did you mean {near}?" if near else "."
            raise ValueError(f"Expected a game of TextArena, got {env_id!r}{end}")
        self._env_id, self._options = env_id, options
        self.render_mode = render_mode
        self._randomness = Randomness()
        count = self._count_players() if num_players is None else num_players
        self.possible_agents = [f"player_{n}" for n in range(count)]
        self._texts = {agent: "" for agent in self.possible_agents}
        self._spaces = read_space(), said_space()

    def observation_space(self, agent: str) -> Dict:
        """Return what an agent may read."""
        return self._spaces[0]

    def action_space(self, agent: str) -> Text:
        """Return what an agent may say."""
        return self._spaces[1]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a game; without a seed, one that follows from the games before."""
        if seed is not None:
            self._randomness = Randomness(seed)
        self._game = self._begin(len(self.possible_agents), seed)
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self._texts = dict.fromkeys(self.agents, "")
        self._turn()

    def step(self, action: str | None) -> None:
        """Let the agent on turn act.

        Raises:
            TypeError: if the action is no text.
        """
        agent = self.agent_selection
        if self.terminations[agent]:
            return self._was_dead_step(action)  # type: ignore[arg-type] # None, as it asks for
        if not isinstance(action, str):
            raise TypeError(f"Expected a text as an action of {agent}, got {action!r}.")
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        with self._randomness.in_place():
            done, _ = self._game.step(action=action)
        if done:
            self._end()
        else:
            self._turn()
        self._accumulate_rewards()

    def observe(self, agent: str) -> dict[str, str]:
        """Return what an agent has read when it was last on turn."""
        return {"text": self._texts[agent]}

    def render(self) -> str | None:
        """Return what the agent on turn reads."""
        return self._texts[self.agent_selection] if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Give nothing back: a game holds nothing."""

    def _begin(self, count: int, seed: int | None) -> Any:
        """Return a game of its own: a game that is begun again tells of the one before."""
        with self._randomness.in_place():
            game = self._textarena.make(self._env_id, **self._options)
            game.reset(num_players=count, seed=seed)
        return game

    def _count_players(self) -> int:
        """Return the first number of players that the game takes."""
        refused: Exception | None = None
        for count in PLAYER_COUNTS:
            try:
                self._begin(count, 0)
            except (AssertionError, ValueError) as error:
                refused = refused or error
            else:
                return count
        raise ValueError(f"Expected {self._env_id} to begin, got {refused}.") from refused

    def _turn(self) -> None:
        """Ask the game who is on turn, and what it reads."""
        with self._randomness.in_place():
            player, text = self._game.get_observation()
        self.agent_selection = self.possible_agents[player]
        self._texts[self.agent_selection] = str(text)

    def _end(self) -> None:
        """Pay everybody, and let them go."""
        with self._randomness.in_place():
            rewards, accounts = self._game.close()
        for player, agent in enumerate(self.possible_agents):
            reward = (rewards or {}).get(player, 0.0)
            if not isinstance(reward, Real):
                raise TypeError(f"Expected numbers as rewards of {self._env_id}, got {reward!r}.")
            self.rewards[agent] = float(reward)
            self.infos[agent] = dict((accounts or {}).get(player, {}))
            self.terminations[agent] = True


def env(
    env_id: str,
    num_players: int | None = None,
    render_mode: str | None = None,
    **options: Any,
) -> AECEnv[str, dict[str, str], str]:
    """Return a game of TextArena that insists on the order of calls. Arguments as above."""
    return OrderEnforcingWrapper(TextArenaEnv(env_id, num_players, render_mode, **options))


def _import_textarena() -> Any:
    """Return the package; importing it draws random numbers."""
    with Randomness().in_place():
        try:
            import textarena
        except ImportError as error:
            raise missing("textarena", error) from error
    return textarena
