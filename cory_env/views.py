"""What agents and central critics see: the spaces, and the arrays in them.

The arrays are written in place as tokens come, so that an observation costs a copy and no rebuild.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from cory_env.game import Rules

ActionLevel = Literal["token", "response"]
Observation: TypeAlias = dict[str, Any]
"""Arrays by name: see `cory_env.raw_env`."""
Action: TypeAlias = Any
"""A token id, or a text or a sequence of token ids; None of an agent that is done."""


class ResponseSpace(spaces.Box):
    """Whole responses: `T` token ids, of which those behind the first end token are not read.

    Samples have the full length; a shorter sequence of ids and a text belong to the space as well.
    """

    def __init__(self, vocab_size: int, max_new_tokens: int) -> None:
        super().__init__(0, vocab_size - 1, (max_new_tokens,), np.int64)

    def contains(self, x: Any) -> bool:
        """Return whether `x` is a text or at most `T` legal ids."""
        if isinstance(x, str):
            return True
        ids = np.asarray(x)
        if ids.ndim != 1 or ids.size > self.high.size:
            return False
        legal = ids.dtype.kind in "iu" and bool(((ids >= 0) & (ids <= self.high[0])).all())
        return ids.size == 0 or legal


class Views:
    """The arrays of one episode.

    Attributes:
        observation_spaces: for each agent, a space of its own, so that it can be seeded alone.
        action_spaces: for each agent, a space of its own.
        state_space: the space of the joint transcript.
    """

    def __init__(self, rules: Rules, action_level: ActionLevel) -> None:
        agents, end = rules.agents, rules.tokenizer.eos_token_id
        V, T, L = rules.tokenizer.vocab_size, rules.max_new_tokens, rules.max_prompt_tokens
        parts: dict[str, spaces.Space[Any]] = {
            "observation": spaces.Box(0, V - 1, (L + T,), np.int64),
            "attention_mask": spaces.Box(0, 1, (L + T,), np.int8),
        }
        if action_level == "token":
            parts["action_mask"] = spaces.Box(0, 1, (V,), np.int8)
        if rules.swap_every is not None:
            parts["role"] = spaces.Discrete(len(agents))
        self.observation_spaces: dict[str, spaces.Space[Observation]] = {
            agent: spaces.Dict(parts) for agent in agents
        }
        self.action_spaces: dict[str, spaces.Space[Any]] = {
            agent: spaces.Discrete(V) if action_level == "token" else ResponseSpace(V, T)
            for agent in agents
        }
        self.state_space = spaces.Box(-1, V - 1, (L + len(agents) * T,), np.int64)

        self._rules = rules
        self._action_level = action_level
        self._ids = {agent: np.full(L + T, end, np.int64) for agent in agents}
        self._attention_masks = {agent: np.zeros(L + T, np.int8) for agent in agents}
        self._transcript = np.full(self.state_space.shape, -1, np.int64)
        self._any_token = np.ones(V, np.int8)
        self._only_end_token = np.zeros(V, np.int8)
        self._only_end_token[end] = 1
        # Shared by all observations: V ones a step would cost more than the rest of the step.
        self._any_token.flags.writeable = self._only_end_token.flags.writeable = False

    def clear(self) -> None:
        """Show nothing, as before the first turn."""
        for agent in self._rules.agents:
            self._ids[agent].fill(self._rules.tokenizer.eos_token_id)
            self._attention_masks[agent].fill(0)
        self._transcript.fill(-1)

    def show(self, agent: str, turn: int, prompt: Sequence[int], response: Sequence[int]) -> None:
        """Show the prompt and the response so far of the agent that has a turn."""
        length = len(prompt) + len(response)
        self._ids[agent][:length] = [*prompt, *response]
        self._attention_masks[agent][:length] = 1
        if turn == 0:
            self._transcript[: len(prompt)] = prompt
        start = self._rules.max_prompt_tokens + turn * self._rules.max_new_tokens
        self._transcript[start : start + len(response)] = response

    def observation(self, agent: str, *, turn: int, on_turn: bool) -> Observation:
        """Return what an agent sees.

        Args:
            agent: who looks.
            turn: its place in the turn order.
            on_turn: whether it may play any token.
        """
        observation: Observation = {
            "observation": self._ids[agent].copy(),
            "attention_mask": self._attention_masks[agent].copy(),
        }
        if self._action_level == "token":
            observation["action_mask"] = self._any_token if on_turn else self._only_end_token
        if self._rules.swap_every is not None:
            observation["role"] = np.int64(turn)
        return observation

    def state(self) -> NDArray[np.int64]:
        """Return the joint transcript."""
        return self._transcript.copy()
