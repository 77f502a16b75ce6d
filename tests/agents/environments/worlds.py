"""Small environments of other people's interfaces, and what is wrong with some of them."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text
from pettingzoo import AECEnv, ParallelEnv

SEEN = Dict({"observation": Box(0, 9, (1,)), "action_mask": Box(0, 1, (2,), np.int8)})
TWO, THREE = Discrete(2), Discrete(3)


class Match(gymnasium.Env):
    """Say the number that is shown, three times; `fault` says what goes wrong at the second."""

    def __init__(self, steps: int = 3, fault: str = "", start: int = 0):
        self.observation_space = Discrete(4)
        self.action_space = Discrete(4, start=start)
        self.steps, self.fault = steps, fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.done = 0
        return self._show(), {}

    def _show(self):
        self.shown = int(self.np_random.integers(4))
        return self.shown

    def step(self, action):
        assert self.action_space.contains(action), action
        right = float(action - self.action_space.start == self.shown)
        self.done += 1
        info, reward, observation = {}, right, self._show()
        if self.done == 2:
            match self.fault:
                case "raises":
                    raise RuntimeError("the world\nis over")
                case "nan":
                    reward = np.nan
                case "mask":
                    info = {"action_mask": np.zeros(4, np.int8)}
                case "wide mask":
                    info = {"action_mask": np.ones(5, np.int8)}
        over = self.done >= self.steps
        return observation, reward, over and self.fault != "cut", over, info


class Echo(gymnasium.Env):
    """Say the letter that is shown: texts come and go."""

    def __init__(self):
        self.observation_space = Text(8)
        self.action_space = Text(max_length=2, charset="ab")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = "ab"[int(self.np_random.integers(2))]
        return f"say {self.shown}", {}

    def step(self, action):
        assert self.action_space.contains(action) or action == "", action
        return "", float(action[:1] == self.shown), True, False, {}


class Letters(Echo):
    """Remember what has been said, of any letters."""

    def step(self, action):
        self.taken = action
        return "", 0.0, True, False, {}


class Count(AECEnv):
    """Two agents take one or two of some matches; the last match wins. Taking two may be illegal.

    What happens beside: agent_1 is paid 0.25 whenever agent_0 takes.
    """

    metadata: ClassVar = {"name": "count_v0", "is_parallelizable": False}

    def __init__(self, matches: int = 5, fault: str = ""):
        super().__init__()
        self.matches, self.fault = matches, fault
        self.possible_agents = ["agent_0", "agent_1"]

    def observation_space(self, agent):
        return SEEN

    def action_space(self, agent):
        return TWO

    def observe(self, agent):
        on_turn = agent == self.agent_selection
        mask = np.array([on_turn, on_turn and self.left > 1], np.int8)
        return {"observation": np.array([self.left], np.float32), "action_mask": mask}

    def reset(self, seed=None, options=None):
        self.left = self.matches
        self.agents = self.possible_agents[:]
        self.agent_selection = "agent_0"
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        assert self.observe(agent)["action_mask"][action], action
        self._cumulative_rewards[agent] = 0.0
        other = "agent_1" if agent == "agent_0" else "agent_0"
        self.left -= action + 1
        self.rewards = {"agent_0": 0.0, "agent_1": 0.25 * (agent == "agent_0")}
        if self.left == 0:
            self.rewards[agent] += 1.0
            self.rewards[other] -= 1.0
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = other
        self._accumulate_rewards()
        if self.fault == "stranger":
            self.agents = [*self.agents, "agent_2"]
            self.agent_selection = "agent_2"
            for kept in (self._cumulative_rewards, self.rewards):
                kept["agent_2"] = 0.0
            self.terminations["agent_2"] = self.truncations["agent_2"] = False
            self.infos["agent_2"] = {}


class Pennies(ParallelEnv):
    """Both say heads or tails at once, twice; agent_0 wants them equal."""

    metadata: ClassVar = {"name": "pennies_v0"}

    def __init__(self):
        self.possible_agents = ["agent_0", "agent_1"]

    def observation_space(self, agent):
        return THREE

    def action_space(self, agent):
        return TWO

    def reset(self, seed=None, options=None):
        self.agents, self.round = self.possible_agents[:], 0
        return dict.fromkeys(self.agents, 0), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.round += 1
        gain = 1.0 if actions["agent_0"] == actions["agent_1"] else -1.0
        over = dict.fromkeys(self.agents, self.round == 2)
        found = (
            dict.fromkeys(self.agents, self.round),
            {"agent_0": gain, "agent_1": -gain},
            over,
            dict.fromkeys(self.agents, False),
            {agent: {} for agent in self.agents},
        )
        if self.round == 2:
            self.agents = []
        return found


def env(**options):
    return Count(**options)


def describe(observation):
    """Say what is there."""
    if isinstance(observation, dict):
        return f"{int(observation['observation'][0])} left:"
    return f"n{observation}:"


def numbered(observation):
    """Say a number instead of a text."""
    return 3


for name, made in (("Match-v0", Match), ("Echo-v0", Echo)):
    if name not in gymnasium.registry:
        gymnasium.register(name, made)
