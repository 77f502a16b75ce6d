"""The game as a PettingZoo AEC environment, one token or one response a step."""

from __future__ import annotations

from typing import Any, Unpack, get_args

import gymnasium
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from pettingzoo import AECEnv  # pyright: ignore[reportMissingTypeStubs] # it ships none
from pettingzoo.utils.wrappers import (  # pyright: ignore[reportMissingTypeStubs]
    OrderEnforcingWrapper,
)

from cory_env.game import GameState, as_integer
from cory_env.names import unknown_name
from cory_env.options import GameOptions, check_options, make_rules
from cory_env.rendering import Screen, transcript
from cory_env.task import Task
from cory_env.types import Float64Array, Response
from cory_env.views import Action, ActionLevel, Observation, Views


def env(
    task: str | Task = "imdb",
    *,
    action_level: ActionLevel = "token",
    one_hot: bool = False,
    render_mode: str | None = None,
    **options: Unpack[GameOptions],
) -> AECEnv[str, Observation, Action]:
    """Return a `raw_env` that also watches over the order of calls. Same arguments."""
    return _OrderEnforcing(
        raw_env(
            task, action_level=action_level, one_hot=one_hot, render_mode=render_mode, **options
        )
    )


class raw_env(AECEnv[str, Observation, Action]):
    """# CORY.

    Two language models answer the same query, one after the other, and share what they earn.

    | Creation           | `cory_env.env(task="imdb", action_level="token")`                    |
    |--------------------|----------------------------------------------------------------------|
    | Actions            | Discrete                                                             |
    | Parallel API       | Yes                                                                  |
    | Manual Control     | No                                                                   |
    | Agents             | `agents= ['pioneer_0', 'observer_0']`                                |
    | Agents             | 2 (any number from 1)                                                |
    | Action Shape       | `Discrete(V)`, or `(T,)` at `action_level="response"`                |
    | Action Values      | 0 to V - 1                                                           |
    | Observation Shape  | `(L + T,)`, in a dictionary with its masks                           |
    | Observation Values | 0 to V - 1                                                           |
    | State Shape        | `(L + N · A · T,)`                                                   |
    | State Values       | -1 to V - 1                                                          |

    V is the size of the vocabulary, L `max_prompt_tokens`, T `max_new_tokens`, A the number of
    agents, N that of rounds. The pioneer reads the query and answers. Each observer reads the query
    and all answers before its own (knowledge transfer), as the task words it, and answers. With
    `rounds=N` all answer again, N times in all, having read all answers so far; then the episode
    ends for all agents together.

    Source: Ma et al., "Coevolving with the Other You: Fine-Tuning LLM with Sequential Cooperative
    Multi-Agent Reinforcement Learning" (NeurIPS 2024, arXiv 2410.06101).

    ## Observation Space

    | Key              | Space                       | Meaning                                     |
    |------------------|-----------------------------|---------------------------------------------|
    | `observation`    | `Box(0, V - 1, (L + T,))`   | the agent's prompt and its response so far  |
    | `attention_mask` | `Box(0, 1, (L + T,), int8)` | 1 for these, 0 for the padding behind them  |
    | `action_mask`    | `Box(0, 1, (V,), int8)`     | legal tokens (`action_level="token"` only)  |
    | `role`           | `Discrete(A)`               | the agent's turn (`swap_every` only)        |

    Before its turn an agent sees padding only. `action_mask` is all ones for the agent on turn and
    allows only the end token, as a no-op, to the others. Do not write to it: it is shared.

    `state()` is the joint transcript, `Box(-1, V - 1, (L + N · A · T,))`: the pioneer's first
    prompt in L places, then each response, in turn order, in T places; -1 where there is no token.
    Ids are int64.

    With `one_hot=True`, for learners that read vectors, `observation` is
    `Box(0, 1, (L + T, V), float32)` and `state()` is `Box(0, 1, (L + N · A · T, V), float32)`: one
    row a token, zeros where there is none. That is meant for tasks with small vocabularies.

    ## Action Space

    At `action_level="token"` an action is one token, and the same agent is selected until its
    response ends: on the end token, or after T tokens (`infos[agent]["truncated_response"]`).

    At `action_level="response"` an action is a whole response: a text (`str`), which is cut after T
    tokens, or at most T token ids. Ids behind the first end token are not read, and the end token
    may be left out.

    ## Rewards

    0 until the end. Then each agent is paid, by `reward_sharing`:

    | `reward_sharing` | Reward                           |
    |------------------|----------------------------------|
    | `"collective"`   | the sum of all task rewards      |
    | `"mean"`         | their mean                       |
    | `"individual"`   | its own                          |
    | `"last"`         | that of the last response        |
    | a number c       | its own + c · those of the others |

    `infos[agent]` holds `role`; from its turn on `prompt`; from its answer on `response` and
    `truncated_response`; and at the end `task_reward`, which is always its own. With several rounds
    these are of its latest turn, and `task_rewards` has those of all.

    ## Arguments

    `task`: a registered name (`"imdb"`, `"toy"`, …) or a task object.

    `action_level`: `"token"` or `"response"`.

    `one_hot`: whether tokens are shown as rows of ones and zeros instead of ids.

    `render_mode`: `"ansi"` (`render()` returns the transcript), `"human"` (the episode is drawn by
    itself as it goes: on a terminal in panels that grow with the responses, elsewhere line by line;
    `close()` gives the terminal back, as before an `input()`), or None.

    `options`: `split`, `observers`, `rounds`, `reward_sharing`, `knowledge_transfer`,
    `swap_every`, `verdict`, `reward`, `tokenizer`, `max_new_tokens` and `max_prompt_tokens`: see
    `cory_env.options.make_rules`.

    `reset(options={"example": Example(...)})` asks that example instead of drawing one.

    ## Version History

    * v0: Initial version (0.1.0)
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 # PettingZoo declares it as it is
        "render_modes": ["human", "ansi"],
        "name": "cory_v0",
        # Observers read the answer before theirs: the game moves on within a cycle of the agents.
        "is_parallelizable": False,
        "render_fps": 1,
    }

    def __init__(
        self,
        task: str | Task = "imdb",
        *,
        action_level: ActionLevel = "token",
        one_hot: bool = False,
        render_mode: str | None = None,
        **options: Unpack[GameOptions],
    ) -> None:
        super().__init__()
        check_options(options, "action_level", "one_hot", "render_mode")
        if action_level not in get_args(ActionLevel):
            raise ValueError(unknown_name("an action_level", get_args(ActionLevel), action_level))
        modes = self.metadata["render_modes"]
        if render_mode not in (None, *modes):
            raise ValueError(unknown_name("a render_mode or None", modes, render_mode))
        self.rules = make_rules(task, **options)
        self.action_level = action_level
        self.render_mode = render_mode
        self._views = Views(self.rules, action_level, one_hot)
        self.possible_agents = list(self.rules.agents)
        self.agents = []
        self.observation_spaces = self._views.observation_spaces
        self.action_spaces = self._views.action_spaces
        self.state_space = self._views.state_space
        self.np_random, _ = seeding.np_random()
        self._episode = 0
        self._game: GameState | None = None
        self._screen = Screen() if render_mode == "human" else None

    def observation_space(self, agent: str) -> spaces.Space[Observation]:
        """Return the space of the agent's observations, always the same object."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Action]:
        """Return the space of the agent's actions, always the same object."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin a new episode.

        Args:
            seed: seeds the draw of examples and starts the count of episodes anew; None goes on.
            options: `{"example": Example(...)}` asks that example instead of drawing one.
        """
        np_random, episode = self.np_random, self._episode
        if seed is not None:
            (np_random, _), episode = seeding.np_random(seed), 0
        example = (options or {}).get("example")
        before = np_random.bit_generator.state
        try:
            if example is None:
                example = self.rules.task.sample(np_random)
            game = self.rules.start(example, episode)
            prompt = self.rules.prompt(game)
            prompt_ids = self.rules.encode_prompt(prompt, game.agents[0])
        except Exception:
            np_random.bit_generator.state = before
            raise

        self.np_random, self._episode, self._game = np_random, episode + 1, game
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self._task_rewards: dict[str, list[float]] = {}
        self._paid: dict[str, float] = {}
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {
            agent: {"role": role}
            for agent, role in zip(game.agents, self.rules.roles, strict=False)
        }
        self._views.clear(game.agents[: len(self.agents)])
        if self._screen is not None:
            self._screen.close()
            self._screen = Screen()
        self._begin_turn(game, prompt, prompt_ids)

    def last(
        self, observe: bool = True
    ) -> tuple[Observation | None, float, bool, bool, dict[str, Any]]:
        """Return observation, reward, termination, truncation and info of the selected agent."""
        observation, reward, termination, truncation, info = super().last(observe)
        return observation, reward, termination, truncation, dict(info)  # theirs to write to

    def observe(self, agent: str) -> Observation:
        """Return what an agent sees now: see the class."""
        self.current_game()
        return self._views.observation(agent)

    def state(self) -> NDArray[Any]:
        """Return the joint transcript: see the class."""
        self.current_game()
        return self._views.state()

    def step(self, action: Action) -> None:
        """Let the selected agent act.

        Args:
            action: see the class; None of an agent that is done.

        Raises:
            RuntimeError: before `reset` and after the end.
            TypeError, ValueError: if the action is illegal; the episode stays as it was.
            RewardError: if the reward fails; the episode stays as it was.
        """
        game = self.current_game()
        if not self.agents:
            raise RuntimeError("Expected a call of reset(), got step() after the end.")
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        if self.action_level == "response":
            self._end_turn(game, self.rules.response(action, agent))
            return
        token = self._legal_token(action)
        if self.rules.ends_response(token, len(self._played)):
            self._end_turn(game, self.rules.response([*self._played, token], agent))
        else:
            self._played.append(token)
            self._views.append(token)
            if self._screen is not None:
                self.render()

    def render(self) -> str | None:
        """Return (`"ansi"`) the episode so far, or draw (`"human"`) what is not drawn yet."""
        game = self.current_game()
        if self.render_mode == "ansi":
            return transcript(self.rules, game, self._paid, self._played)
        if self._screen is not None:
            self._screen.draw(
                self.rules,
                game,
                played=self._played,
                task_rewards=self._task_rewards,
                rewards=self._paid,
            )
        else:
            gymnasium.logger.warn("Expected a render_mode, got None: there is nothing to render.")
        return None

    def close(self) -> None:
        """Give back the terminal that `render_mode="human"` draws on."""
        if self._screen is not None:
            self._screen.close()

    def _begin_turn(self, game: GameState, prompt: str, prompt_ids: list[int]) -> None:
        """Select the agent on turn and show it its prompt."""
        turn = len(game.responses)
        agent = self.agent_selection = game.agents[turn]
        self._played = list[int]()
        self.infos[agent] = {**self.infos[agent], "prompt": prompt}
        self._views.begin_turn(turn, agent, prompt_ids)
        if self._screen is not None:
            self.render()

    def _end_turn(self, game: GameState, response: Response) -> None:
        """Record a whole response and go on to the next turn or to the end.

        What can fail comes first, so that an error leaves the episode as it was.
        """
        game = self.rules.respond(game, response)
        if self.rules.agent_on_turn(game) is None:
            task_rewards, rewards = self.rules.payoffs([game])
            self._record(game, response)
            self._end(game, task_rewards[0], rewards[0])
        else:
            prompt = self.rules.prompt(game)
            prompt_ids = self.rules.encode_prompt(prompt, game.agents[len(game.responses)])
            self._record(game, response)
            self._begin_turn(game, prompt, prompt_ids)

    def _record(self, game: GameState, response: Response) -> None:
        """Take over the new state and show the rest of the response of the selected agent."""
        agent = self.agent_selection
        self._game = game
        for token in response.ids[len(self._played) :]:
            self._views.append(token)
        self.infos[agent] = {
            **self.infos[agent],
            "response": response.text,
            "truncated_response": response.truncated,
        }

    def _end(self, game: GameState, task_rewards: Float64Array, rewards: Float64Array) -> None:
        """Pay all agents and end the episode for all of them."""
        for place, (agent, reward) in enumerate(zip(game.agents, rewards, strict=False)):
            own = self._task_rewards[agent] = task_rewards[place :: len(rewards)].tolist()
            self._paid[agent] = self.rewards[agent] = float(reward)
            self.terminations[agent] = True
            self.infos[agent] = {**self.infos[agent], "task_reward": own[-1]}
            if self.rules.rounds > 1:
                self.infos[agent]["task_rewards"] = own
        self._views.on_turn = None
        self._accumulate_rewards()
        self._deads_step_first()
        if self._screen is not None:
            self.render()

    def current_game(self) -> GameState:
        """Return the episode so far.

        Raises:
            RuntimeError: before `reset`.
        """
        if self._game is None:
            raise RuntimeError("Expected a call of reset() first.")
        return self._game

    def __str__(self) -> str:
        return f"{self.metadata['name']}({self.rules}, action_level={self.action_level!r})"

    __repr__ = __str__

    def _legal_token(self, action: Action) -> int:
        vocabulary = self.rules.tokenizer.vocab_size
        try:
            token = as_integer(action)
        except TypeError:
            token = None
        if token is not None and 0 <= token < vocabulary:
            return token
        error = TypeError if token is None else ValueError
        raise error(
            f"Expected the action of {self.agent_selection} to be a token id from 0 to "
            f"{vocabulary - 1}, got {action!r}."
        )


class _OrderEnforcing(OrderEnforcingWrapper[str, Observation, Action]):
    """PettingZoo's wrapper, with shorter ways to what a step reads and the words of `raw_env`."""

    def __getattr__(self, name: str) -> Any:
        if name in ("agents", "agent_selection") and self._has_reset:
            return getattr(self.env, name)
        return super().__getattr__(name)

    def last(
        self, observe: bool = True
    ) -> tuple[Observation | None, float, bool, bool, dict[str, Any]]:
        return self.env.last(observe)

    def step(self, action: Action) -> None:
        self._has_updated = True
        self.env.step(action)

    def __str__(self) -> str:
        return str(self.env)

    __repr__ = __str__
