"""What agents and central critics see: the spaces, and the arrays in them.

The arrays are written in place as tokens come: a step costs one write, and a copy of what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    Args:
        rules: the rules of the game.
        action_level: see `cory_env.raw_env`.
        one_hot: see `cory_env.raw_env`.

    Attributes:
        observation_spaces: for each agent, a space of its own, so that it can be seeded alone.
        action_spaces: for each agent, a space of its own.
        state_space: the space of the joint transcript.
        on_turn: who may play any token; None after the end.
    """

    def __init__(self, rules: Rules, action_level: ActionLevel, one_hot: bool) -> None:
        agents = rules.agents
        V, T, L = rules.tokenizer.vocab_size, rules.max_new_tokens, rules.max_prompt_tokens
        parts: dict[str, spaces.Space[Any]] = {
            "observation": _ids_space(V, L + T, one_hot, lowest=0),
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
        self.state_space = _ids_space(V, L + len(rules.turns) * T, one_hot, lowest=-1)

        self.on_turn: str | None = None
        self._rules = rules
        self._one_hot = one_hot
        self._shows_action_mask = action_level == "token"
        self._ids = {agent: _zeros(parts["observation"]) for agent in agents}
        self._attention_masks = {agent: _zeros(parts["attention_mask"]) for agent in agents}
        self._transcript = _zeros(self.state_space)
        self._any_token = np.ones(V, np.int8)
        self._only_end_token = np.zeros(V, np.int8)
        self._only_end_token[rules.tokenizer.eos_token_id] = 1
        self._roles: dict[str, np.int64] = {}
        self._place = self._transcript_place = 0
        self._share_masks()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Protect the shared masks of a copy, too: a copied array can be written to."""
        self.__dict__.update(state)
        self._share_masks()

    def clear(self, turn_order: Iterable[str]) -> None:
        """Show nothing, as before the first turn."""
        self._roles = {agent: np.int64(place) for place, agent in enumerate(turn_order)}
        for agent in self._roles:
            self._clear(agent)
        self._transcript.fill(0 if self._one_hot else -1)

    def begin_turn(self, turn: int, agent: str, prompt: Sequence[int]) -> None:
        """Show an agent the prompt of a turn, the first being 0."""
        length = len(prompt)
        if turn >= len(self._roles):
            self._clear(agent)
        self._write(self._ids[agent], prompt)
        self._attention_masks[agent][:length] = 1
        if turn == 0:
            self._write(self._transcript, prompt)
        self.on_turn, self._place = agent, length
        self._transcript_place = self._rules.max_prompt_tokens + turn * self._rules.max_new_tokens

    def append(self, token: int) -> None:
        """Show a token of the response of the agent on turn."""
        assert self.on_turn is not None
        seen = (self._place, token) if self._one_hot else self._place
        said = (self._transcript_place, token) if self._one_hot else self._transcript_place
        self._ids[self.on_turn][seen] = self._transcript[said] = 1 if self._one_hot else token
        self._attention_masks[self.on_turn][self._place] = 1
        self._place += 1
        self._transcript_place += 1

    def observation(self, agent: str) -> Observation:
        """Return what an agent sees."""
        observation: Observation = {
            "observation": self._ids[agent].copy(),
            "attention_mask": self._attention_masks[agent].copy(),
        }
        if self._shows_action_mask:
            observation["action_mask"] = (
                self._any_token if agent == self.on_turn else self._only_end_token
            )
        if self._rules.swap_every is not None:
            observation["role"] = self._roles[agent]
        return observation

    def state(self) -> NDArray[Any]:
        """Return the joint transcript."""
        return self._transcript.copy()

    def _clear(self, agent: str) -> None:
        """Show an agent nothing."""
        self._ids[agent].fill(0 if self._one_hot else self._rules.tokenizer.eos_token_id)
        self._attention_masks[agent].fill(0)

    def _write(self, array: NDArray[Any], tokens: Sequence[int]) -> None:
        """Write tokens to the beginning of an array."""
        if self._one_hot:
            array[range(len(tokens)), tokens] = 1
        else:
            array[: len(tokens)] = tokens

    def _share_masks(self) -> None:
        # All observations share them: V ones a step would cost more than the rest of the step.
        self._any_token.flags.writeable = self._only_end_token.flags.writeable = False


def _ids_space(vocab_size: int, length: int, one_hot: bool, *, lowest: int) -> spaces.Box:
    if one_hot:
        return spaces.Box(0, 1, (length, vocab_size), np.float32)
    return spaces.Box(lowest, vocab_size - 1, (length,), np.int64)


def _zeros(space: spaces.Space[Any]) -> NDArray[Any]:
    return np.zeros(space.shape or (), space.dtype)
