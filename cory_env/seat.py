"""One seat of the game as a single-agent Gymnasium environment; partners play the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import gymnasium
import numpy as np
from numpy.typing import NDArray

from cory_env.aec import raw_env
from cory_env.names import unknown_name
from cory_env.options import GameOptions
from cory_env.task import Task
from cory_env.views import Action, ActionLevel, Observation

Partner = Callable[[Observation, dict[str, Any]], Action]
"""A policy: from the observation and the info of the agent on turn to its action."""


class gym_env(gymnasium.Env[Observation, Action]):
    """`raw_env` as it is seen from one seat. Same spaces and rewards, same further arguments.

    `step` returns when the seat is on turn again or the episode is over, so the seat is never asked
    for a no-op.

    Args:
        seat: the agent to play: `"pioneer_0"`, `"observer_0"`, …, or `"llm_0"`, … with
            `swap_every`.
        partner: plays every other seat, called as `partner(observation, info)`; None for random
            legal actions, drawn from this environment's generator.
        task: a registered name, or a task object.
        action_level: see `raw_env`, as for what follows.
        one_hot: see there.
        render_mode: see there.
        options: see there.

    Example:
        >>> import cory_env
        >>> def knows(observation, info):
        ...     return info["prompt"].rstrip(">")[::-1]
        >>> seat = cory_env.gym_env("observer_0", knows, task="toy", action_level="response")
        >>> observation, info = seat.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = seat.step(info["prompt"].rstrip("="))
        >>> reward, terminated
        (2.0, True)
    """

    metadata: dict[str, Any] = raw_env.metadata

    def __init__(
        self,
        seat: str = "observer_0",
        partner: Partner | None = None,
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
        if seat not in self.aec_env.possible_agents:
            raise ValueError(unknown_name("a seat", self.aec_env.possible_agents, seat))
        if partner is not None and not callable(partner):
            raise TypeError(f"Expected partner to be callable or None, got {partner!r}.")
        self.seat = seat
        self.render_mode = render_mode
        self.observation_space = self.aec_env.observation_space(seat)
        self.action_space = self.aec_env.action_space(seat)
        self._partner = self._random_action if partner is None else partner

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a new episode. Same arguments as `raw_env.reset`."""
        self.aec_env.reset(seed, options)
        super().reset(seed=seed)
        if seed is not None:  # the examples are drawn from the seed itself: see `raw_env`
            self.np_random = self.np_random.spawn(1)[0]
        self._play_partners()
        return self._observation(), self._info()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Let the seat act, and after it the partners until it is on turn again.

        Args:
            action: see `raw_env`.

        Returns:
            Observation, reward, terminated, truncated (always False) and info of the seat.

        Raises:
            RuntimeError: before `reset`, after the end and after a partner has failed.
            TypeError, ValueError: if the action is illegal; the episode stays as it was.
        """
        if not self._is_on_turn():
            raise RuntimeError("Expected a call of reset(): the seat is not on turn.")
        self.aec_env.step(action)
        self._play_partners()
        return (
            self._observation(),
            self.aec_env.rewards[self.seat],
            self.aec_env.terminations[self.seat],
            False,
            self._info(),
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """Return (V,) which tokens are legal: what sb3-contrib's `MaskablePPO` asks for."""
        if self.aec_env.action_level != "token":
            level = self.aec_env.action_level
            raise ValueError(f"Expected action_level 'token' for action masks, got {level!r}.")
        return self.aec_env.observe(self.seat)["action_mask"].astype(np.bool_)

    def render(self) -> str | None:
        """Return or print the episode so far."""
        return self.aec_env.render()

    def close(self) -> None:
        """Close the environment inside."""
        self.aec_env.close()

    def __str__(self) -> str:
        rules, level = self.aec_env.rules, self.aec_env.action_level
        return f"{type(self).__name__}(seat={self.seat!r}, {rules}, action_level={level!r})"

    __repr__ = __str__

    def _play_partners(self) -> None:
        inside = self.aec_env
        while not inside.terminations[self.seat] and inside.agent_selection != self.seat:
            agent = inside.agent_selection
            inside.step(self._partner(inside.observe(agent), dict(inside.infos[agent])))

    def _is_on_turn(self) -> bool:
        inside = self.aec_env
        return (
            bool(inside.agents)
            and inside.agent_selection == self.seat
            and not inside.terminations[self.seat]
        )

    def _observation(self) -> Observation:
        observation = self.aec_env.observe(self.seat)
        if "action_mask" in observation:  # Gymnasium lets users write to what they are given
            observation["action_mask"] = observation["action_mask"].copy()
        return observation

    def _info(self) -> dict[str, Any]:
        return dict(self.aec_env.infos[self.seat])

    def _random_action(self, observation: Observation, info: dict[str, Any]) -> Action:
        tokenizer, level = self.aec_env.rules.tokenizer, self.aec_env.action_level
        size = self.aec_env.rules.max_new_tokens if level == "response" else None
        return self.np_random.integers(tokenizer.vocab_size, size=size)
