"""An environment of Gymnasium: one agent."""

from __future__ import annotations

from typing import Any

import gymnasium

from agents.environments.base import (
    Describe,
    LegalActions,
    Look,
    action_of,
    action_texts,
    expect_legal,
    expect_reward,
    expect_text,
    failing,
    legal_mask,
    mask_of,
)

AGENT = "agent_0"
"""What the only agent is called."""


class SingleEnvironment:
    """A `gymnasium.Env` as learners see it."""

    def __init__(
        self,
        name: str,
        env: gymnasium.Env[Any, Any],
        describe: Describe | None,
        actions: tuple[str, ...],
        legal_actions: LegalActions | None = None,
    ) -> None:
        self.name = name
        self.agents: tuple[str, ...] = (AGENT,)
        self.actions = action_texts(name, env.action_space, actions)
        self._env = env
        self._describe = describe
        self._legal_actions = legal_actions
        self._now: Look | None = None
        self._over = True

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        with failing(self.name):
            observation, info = self._env.reset(seed=seed)
        self._now, self._over = self._look(observation, 0.0, False, False, info), False

    def look(self) -> Look | None:
        """Return what the agent learns; None once its last look has been had."""
        if self._over:
            return None
        look = self._now
        self._over = look is not None and look.ended != "no"
        return look

    def act(self, action: int | str) -> None:
        """Let the agent act."""
        given = action_of(self._env.action_space, self.actions, action)
        with failing(self.name):
            observation, reward, terminated, truncated, info = self._env.step(given)
        self._now = self._look(observation, reward, bool(terminated), bool(truncated), info)

    def cut(self) -> list[Look]:
        """Stop the episode."""
        look, self._over = self._now, True
        assert look is not None
        return [Look(agent=AGENT, reward=0.0, ended="truncated", text=look.text, legal=None)]

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _look(
        self, observation: Any, reward: Any, terminated: bool, truncated: bool, info: Any
    ) -> Look:
        ended = "terminated" if terminated else "truncated" if truncated else "no"
        legal = None
        if ended == "no" and self.actions is not None:
            mask = mask_of(observation, info)
            if mask is None and self._legal_actions:
                mask = legal_mask(self.name, self._legal_actions, self.actions, observation)
            legal = expect_legal(self.name, AGENT, mask, len(self.actions))
        return Look(
            agent=AGENT,
            reward=expect_reward(self.name, AGENT, reward),
            ended=ended,
            text="" if terminated else expect_text(self.name, self._describe, observation),
            legal=legal,
        )
