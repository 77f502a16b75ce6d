"""An environment of PettingZoo: agents that act one after the other (AEC)."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

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
from agents.errors import PlayError


class SeveralEnvironment:
    """An `AECEnv` as learners see it."""

    def __init__(
        self,
        name: str,
        env: AECEnv[Any, Any, Any],
        describe: Describe | None,
        actions: tuple[str, ...],
        legal_actions: LegalActions | None = None,
    ) -> None:
        self.name = name
        self._env = env
        self._describe = describe
        self._legal_actions = legal_actions
        self._keys = _keys(name, env)
        self.agents = tuple(self._keys)
        self._spaces = {agent: env.action_space(key) for agent, key in self._keys.items()}
        texts = {action_texts(name, space, actions) for space in self._spaces.values()}
        if len(texts) > 1:
            raise ValueError(f"Expected all agents of {name} to have the same actions.")
        (self.actions,) = texts

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        with failing(self.name):
            self._env.reset(seed=seed)

    def look(self) -> Look | None:
        """Return what the agent on turn learns; one that is out leaves with its look."""
        with failing(self.name):
            if not self._env.agents:
                return None
            agent = self._name(self._env.agent_selection)
            observation, reward, terminated, truncated, info = self._env.last()
        look = self._look(agent, observation, reward, bool(terminated), bool(truncated), info)
        if look.ended != "no":
            with failing(self.name):
                self._env.step(None)
        return look

    def act(self, action: int | str) -> None:
        """Let the agent on turn act."""
        space = self._spaces[self._name(self._env.agent_selection)]
        given = action_of(space, self.actions, action)
        with failing(self.name):
            self._env.step(given)

    def cut(self) -> list[Look]:
        """Stop the episode for all who are in it."""
        looks: list[Look] = []
        with failing(self.name):
            for key in self._env.agents:
                agent, observation = self._name(key), self._env.observe(key)
                terminated = bool(self._env.terminations[key])
                # What `last` shows of the agent on turn; the others have it as well.
                reward = self._env._cumulative_rewards[key]
                looks.append(self._look(agent, observation, reward, terminated, True, {}))
        return looks

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _look(
        self,
        agent: str,
        observation: Any,
        reward: Any,
        terminated: bool,
        truncated: bool,
        info: Any,
    ) -> Look:
        ended = "terminated" if terminated else "truncated" if truncated else "no"
        legal = None
        if ended == "no" and self.actions is not None:
            mask = mask_of(observation, info)
            if mask is None and self._legal_actions:
                mask = legal_mask(self.name, self._legal_actions, self.actions, observation)
            legal = expect_legal(self.name, agent, mask, len(self.actions))
        return Look(
            agent=agent,
            reward=expect_reward(self.name, agent, reward),
            ended=ended,
            text="" if terminated else expect_text(self.name, self._describe, observation),
            legal=legal,
        )

    def _name(self, key: Any) -> str:
        """Return the name of an agent.

        Raises:
            PlayError: if the environment did not say that there may be such an agent.
        """
        agent = str(key)
        if self._keys.get(agent) != key:
            raise PlayError(
                f"Expected {self.name} to keep to its agents ({', '.join(self._keys)}), got "
                f"{key!r}."
            )
        return agent


def _keys(name: str, env: AECEnv[Any, Any, Any]) -> dict[str, Any]:
    """Return the agents by their names.

    Raises:
        ValueError: if the environment does not say which there may be.
    """
    agents = list(getattr(env, "possible_agents", ()))
    for agent in agents:
        if getattr(type(agent), "__hash__", None) is None:
            raise ValueError(
                f"Expected agents of {name} that are texts or numbers, got {agent!r}, which cannot "
                "be a key."
            )
    keys = {str(agent): agent for agent in agents}
    if not keys or len(keys) < len(agents):
        raise ValueError(
            f"Expected {name} to name each of its agents in possible_agents, got {agents}."
        )
    return keys
