"""B episodes side by side, one turn at a time: the form that learners of language models drive.

Prompts go out and responses come back as batches, and the reward is called once per batch. It is
not a `gymnasium.vector` environment: nothing resets by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from gymnasium.utils import seeding

from cory_env.game import GameState, earnings, expect_count
from cory_env.options import GameOptions, check_options, make_rules
from cory_env.task import Task
from cory_env.types import Example, Float64Array, Response

Action = str | Sequence[int] | np.ndarray[Any, np.dtype[np.integer[Any]]] | Response


class VectorEnv:
    """B episodes of one game.

    Attributes:
        rules: the rules of the game.
        num_envs: B.
        agents: (A,) who plays, whatever the role.
        agent_selection: who is on turn in all episodes; None before `reset` and after the end.
        states: (B,) the episodes; none before `reset`.
        roles: the role of each agent in these episodes.
        examples: (B,) what is asked.
        rows: which episodes are asked: all of them until the end.
        ends_next: whether the responses to what is asked end all episodes.
        responses: for each agent that has answered, (B,) its latest responses.
        turn_rewards: after the end, (B, K) the task reward of each turn.
        task_rewards: after the end, for each agent (B,) its own, of its latest responses.
        rewards: after the end, for each agent (B,) what it is paid.
        earned: after the end, (B, K, A) what each turn has earned each agent, in turn order.
        gold: (B,) responses that are right; None where none is known.
        max_new_tokens: longest response.
        max_asks: how often an agent is asked in an episode.
        reward_calls: responses that the reward scores in all episodes.
        np_random: draws the examples.

    Example:
        >>> import cory_env
        >>> games = cory_env.vector_env(num_envs=2, task="toy", split="test")
        >>> prompts = games.reset(seed=0)
        >>> while prompts:
        ...     prompts = games.step(["abc"] * len(prompts))
        >>> games.rewards["observer_0"].shape
        (2,)
    """

    def __init__(self, num_envs: int, task: str | Task, **options: Unpack[GameOptions]) -> None:
        check_options(options, "num_envs")
        expect_count("num_envs", num_envs, at_least=1)
        self.rules = make_rules(task, **options)
        self.num_envs = num_envs
        self.agents = self.rules.agents
        self.np_random, _ = seeding.np_random()
        self.turn_rewards: Float64Array = np.zeros((num_envs, 0))
        self.task_rewards: dict[str, Float64Array] = {}
        self.rewards: dict[str, Float64Array] = {}
        self._episode = 0
        self.states: list[GameState] = []

    @property
    def agent_selection(self) -> str | None:
        """Who is on turn in all episodes; None before `reset` and after the end."""
        return self.rules.agent_on_turn(self.states[0]) if self.states else None

    @property
    def roles(self) -> dict[str, str]:
        """The role of each agent in these episodes."""
        return dict(zip(self._turn_order, self.rules.roles, strict=False))

    @property
    def rows(self) -> range:
        """Which episodes are asked: all of them until the end."""
        return range(self.num_envs if self.agent_selection else 0)

    @property
    def ends_next(self) -> bool:
        """Whether the responses to what is asked end all episodes."""
        return bool(self.states) and len(self.states[0].responses) + 1 == len(self._turn_order)

    @property
    def earned(self) -> Float64Array:
        """After the end, (B, K, A) what each turn has earned each agent, in turn order."""
        return earnings(self.turn_rewards, self.rules.reward_sharing, len(self.rules.roles))

    @property
    def gold(self) -> list[str | None]:
        """(B,) responses that are right; None where none is known."""
        return [self.rules.task.worked_answer(example) for example in self.examples]

    @property
    def max_new_tokens(self) -> int:
        """Longest response."""
        return self.rules.max_new_tokens

    @property
    def max_asks(self) -> int:
        """How often an agent is asked in an episode."""
        return self.rules.rounds

    @property
    def reward_calls(self) -> int:
        """Responses that the reward scores in all episodes, those of verdicts included."""
        answers = sum(map(self.rules.is_answer, range(len(self.rules.turns))))
        return self.num_envs * (answers + (answers - 1 if self.rules.judges else 0))

    @property
    def examples(self) -> list[Example]:
        """(B,) what is asked."""
        return [state.example for state in self.states]

    @property
    def responses(self) -> dict[str, list[Response]]:
        """For each agent that has answered, (B,) its latest responses."""
        if not self.states:
            return {}
        turns = zip(*(state.responses for state in self.states), strict=True)
        return {agent: list(turn) for agent, turn in zip(self._turn_order, turns, strict=False)}

    def reset(
        self,
        seed: int | None = None,
        examples: Sequence[Example] | None = None,
        isolated: Sequence[bool] | None = None,
    ) -> list[str]:
        """Begin B new episodes.

        Args:
            seed: seeds the draw of examples and starts the count of episodes anew; None goes on.
            examples: (B,) what to ask; None to draw from the task. A `reset` counts as one episode
                for `swap_every`: the agents of all B games exchange roles together.
            isolated: (B,) in which episodes observers do not read the earlier responses; None for
                none.

        Returns:
            (B,) the prompts of the first agent.
        """
        if examples is not None and len(examples) != self.num_envs:
            raise ValueError(f"Expected {self.num_envs} examples, got {len(examples)}.")
        isolated = [False] * self.num_envs if isolated is None else isolated
        if len(isolated) != self.num_envs:
            raise ValueError(
                f"Expected {self.num_envs} truth values as isolated, got {len(isolated)}."
            )
        np_random, episode = self.np_random, self._episode
        if seed is not None:
            (np_random, _), episode = seeding.np_random(seed), 0
        before = np_random.bit_generator.state
        try:
            if examples is None:
                examples = [self.rules.task.sample(np_random) for _ in range(self.num_envs)]
            states = [
                self.rules.start(example, episode, isolated=alone)
                for example, alone in zip(examples, isolated, strict=True)
            ]
            prompts = self._prompts(states)
        except Exception:
            np_random.bit_generator.state = before
            raise
        self.np_random, self._episode, self.states = np_random, episode + 1, states
        self.turn_rewards = np.zeros((self.num_envs, 0))
        self.task_rewards, self.rewards = {}, {}
        return prompts

    def step(self, responses: Sequence[Action]) -> list[str]:
        """Answer in all episodes at once.

        Args:
            responses: (B,) texts or token ids of the agent on turn; see `Rules.response`. A
                `Response` is taken as it is: of an agent with another tokenizer than the game's
                only the text crosses to the others.

        Returns:
            (B,) the prompts of the next agent, or none after the last one.

        Raises:
            RuntimeError: before `reset` and after the end.
            ValueError, TypeError: if a response is illegal; the episodes stay as they were.
        """
        agent = self.agent_selection
        if agent is None:
            missing = "after the end" if self.states else "before the first one"
            raise RuntimeError(f"Expected a call of reset(), got step() {missing}.")
        expected = f"Expected {self.num_envs} responses of {agent}, one per episode"
        if not isinstance(responses, Sequence | np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{expected}, got {responses!r}.")
        if isinstance(responses, str) or len(responses) != self.num_envs:
            raise ValueError(f"{expected}, got {len(responses)}: {responses!r}.")
        played = [self._response(a, f"{agent} in episode {i}") for i, a in enumerate(responses)]
        states = self.rules.respond_all(self.states, played)
        if self.rules.agent_on_turn(states[0]) is not None:
            prompts = self._prompts(states)
        else:
            prompts = []
            self.turn_rewards, rewards = self.rules.payoffs(states)
            turn_order = self._turn_order
            self.task_rewards = dict(zip(turn_order, self.turn_rewards.T.copy(), strict=True))
            self.rewards = dict(zip(turn_order, rewards.T.copy(), strict=False))
        self.states = states
        return prompts

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_envs={self.num_envs}, {self.rules})"

    def _response(self, action: Action, agent: str) -> Response:
        return action if isinstance(action, Response) else self.rules.response(action, agent)

    def get_state(self) -> dict[str, Any]:
        """Return what the next `reset` depends on, as JSON takes it."""
        return {"np_random": self.np_random.bit_generator.state, "episode": self._episode}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what `get_state` returned; episodes under way are not part of it."""
        self.np_random.bit_generator.state = state["np_random"]
        self._episode = state["episode"]

    @property
    def _turn_order(self) -> tuple[str, ...]:
        return self.states[0].agents if self.states else ()

    def _prompts(self, states: Sequence[GameState]) -> list[str]:
        agent = self.rules.agent_on_turn(states[0])
        prompts = [self.rules.prompt(state) for state in states]
        for i, prompt in enumerate(prompts):
            self.rules.check_prompt(prompt, f"{agent} in episode {i}")
        return prompts


def vector_env(
    num_envs: int, task: str | Task = "imdb", **options: Unpack[GameOptions]
) -> VectorEnv:
    """Return B episodes that advance one turn at a time.

    Args:
        num_envs: B.
        task: a registered name, or a task object.
        options: the switches of the game: see `cory_env.options.make_rules`.
    """
    return VectorEnv(num_envs, task, **options)
