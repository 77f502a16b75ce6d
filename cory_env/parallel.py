"""The game as a PettingZoo parallel environment: all agents act in every step.

PettingZoo's own turn-based converter returns four dictionaries after the end, so this is not it.
"""

from __future__ import annotations

from typing import Any, Unpack

from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv  # pyright: ignore[reportMissingTypeStubs] # it ships none

from cory_env.aec import raw_env
from cory_env.options import GameOptions
from cory_env.task import Task
from cory_env.views import Action, ActionLevel, Observation


class parallel_env(ParallelEnv[str, Observation, Action]):
    """`raw_env` with one action of every agent per step. Same arguments, spaces and rewards.

    Only the action of the agent on turn counts. The others are asked for a no-op, which is the end
    token, the only one in their `action_mask`, or an empty response; whatever legal action they
    give instead changes nothing. `infos[agent]["active_agent"]` says who is on turn.
    """

    metadata: dict[str, Any] = raw_env.metadata

    def __init__(
        self,
        task: str | Task = "imdb",
        *,
        action_level: ActionLevel = "token",
        one_hot: bool = False,
        render_mode: str | None = None,
        **options: Unpack[GameOptions],
    ) -> None:
        self.aec_env = raw_env(
            task, action_level=action_level, one_hot=one_hot, render_mode=render_mode, **options
        )
        self.render_mode = render_mode
        self.possible_agents = self.aec_env.possible_agents
        self.observation_spaces = self.aec_env.observation_spaces
        self.action_spaces = self.aec_env.action_spaces
        self.state_space = self.aec_env.state_space
        self.agents = []

    def observation_space(self, agent: str) -> spaces.Space[Observation]:
        """Return the space of the agent's observations, always the same object."""
        return self.aec_env.observation_space(agent)

    def action_space(self, agent: str) -> spaces.Space[Action]:
        """Return the space of the agent's actions, always the same object."""
        return self.aec_env.action_space(agent)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Begin a new episode. Same arguments as `raw_env.reset`."""
        self.aec_env.reset(seed, options)
        self.agents = self.possible_agents[:]
        return self._observations(), self._infos()

    def step(
        self, actions: dict[str, Action]
    ) -> tuple[
        dict[str, Observation],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Let all agents act.

        Args:
            actions: one action of every agent; after the end none, which returns five empty
                dictionaries.

        Raises:
            RuntimeError: before `reset`.
            TypeError: if `actions` is no dictionary.
            ValueError: if an agent is missing or unknown, or an action that does not count is
                outside its space; the episode stays as it was. For the action that counts, and for
                the order of calls, see `raw_env.step`.
        """
        self.aec_env.current_game()
        if not isinstance(actions, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Expected a dictionary of actions of {self.agents}, got {actions!r}.")
        if set(actions) != set(self.agents):
            raise ValueError(f"Expected actions of {self.agents}, got {list(actions)}.")
        if not self.agents:
            return {}, {}, {}, {}, {}
        on_turn = self.aec_env.agent_selection
        for agent in self.agents:
            if agent != on_turn and not self.action_space(agent).contains(actions[agent]):
                raise ValueError(
                    f"Expected the action of {agent} in {self.action_space(agent)}, "
                    f"got {actions[agent]!r}."
                )
        self.aec_env.step(actions[on_turn])
        self.agents = [agent for agent in self.agents if not self.aec_env.terminations[agent]]
        return (
            self._observations(),
            dict(self.aec_env.rewards),
            dict(self.aec_env.terminations),
            dict(self.aec_env.truncations),
            self._infos(),
        )

    def state(self) -> NDArray[Any]:
        """Return the joint transcript: see `raw_env`."""
        return self.aec_env.state()

    def render(self) -> str | None:
        """Return or draw the episode: see `raw_env.render`."""
        return self.aec_env.render()

    def close(self) -> None:
        """Close the environment inside."""
        self.aec_env.close()

    def __str__(self) -> str:
        return str(self.aec_env).replace(self.metadata["name"], type(self).__name__, 1)

    __repr__ = __str__

    def _observations(self) -> dict[str, Observation]:
        return {agent: self.aec_env.observe(agent) for agent in self.possible_agents}

    def _infos(self) -> dict[str, dict[str, Any]]:
        active = self.aec_env.agent_selection if self.agents else None
        return {
            agent: {**self.aec_env.infos[agent], "active_agent": active}
            for agent in self.possible_agents
        }
