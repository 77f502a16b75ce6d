"""The game in TRL's `GRPOTrainer`: one seat as an environment with a tool, or both seats at once.

`CorySeat` is made by `environment_factory`: the model in training calls the tool `answer`, and
someone else has the other seats. `CoryRollout` is a `rollout_func`: the model in training has all
seats, as one policy. Neither imports TRL, and neither needs a server.

Source: trl 1.16.0, `trl/trainer/grpo_trainer.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from cory_env.options import GameOptions
from cory_env.seat import Partner, gym_env
from cory_env.task import Task
from cory_env.types import Example
from cory_env.vector import VectorEnv, vector_env


class CorySeat:
    """One seat of an episode: `environment_factory=lambda: CorySeat("observer_0", task="imdb")`.

    Rows of the data set with a column `seed` are episodes that can be played again: all generations
    of a group then answer the same query, as GRPO takes for granted. Every public method but
    `reset` and `get_reward` is a tool, so there is one.

    Args:
        seat: see `gym_env`, as for what follows.
        partner: see there.
        task: see there.
        options: see there.
    """

    def __init__(
        self,
        seat: str = "observer_0",
        partner: Partner | None = None,
        task: str | Task = "imdb",
        **options: Unpack[GameOptions],
    ) -> None:
        self._env = gym_env(seat, partner, task, action_level="response", **options)
        self._reward: float | None = None

    def reset(self, seed: int | None = None, **columns: Any) -> str:
        """Begin an episode, and return what the seat reads: TRL appends it to the user's message.

        Args:
            seed: of the episode; None to go on.
            columns: the other columns of the row, which are not looked at.
        """
        del columns
        self._reward = None
        _, info = self._env.reset(seed=seed)
        return str(info["prompt"])

    def answer(self, text: str) -> str:
        """Give your answer, which ends the game.

        Args:
            text: Your whole answer, and nothing else.

        Returns:
            That the game is over.
        """
        if self._reward is not None:
            raise ValueError("Expected one answer, got another: the game is over.")
        _, reward, _, _, _ = self._env.step(text)
        self._reward = float(reward)
        return "The game is over."

    def get_reward(self) -> float:
        """Return what the seat was paid; 0 for a model that has not called the tool."""
        return self._reward or 0.0


class CoryRollout:
    """All seats of the game by one policy: `rollout_func` of `GRPOTrainer`.

    Of K turns, one an agent in every round, K generations in a row are those of one game. So a
    group of `num_generations` holds `num_generations / K` games of one query, and what an agent is
    paid is measured against what the agents of all these games were paid. With rewards that are
    shared equally that is the team's reward against those of the other games.

    Responses have the trainer's `max_completion_length`. A tokenizer with a chat template is asked
    in it.

    Args:
        task: a registered name, or a task object.
        options: see `cory_env.options.make_rules`; tokenizer and limit are the trainer's.

    Example:
        >>> from cory_env.adapters.trl import CoryRollout
        >>> rollout = CoryRollout("toy", reward_sharing="mean")
        >>> rollout.rows(2, seed=0)
        [{'prompt': 'gfe'}, {'prompt': 'ccc'}]
    """

    def __init__(self, task: str | Task = "imdb", **options: Unpack[GameOptions]) -> None:
        self._options = options
        self._games = vector_env(1, task, **options)
        self._examples: dict[str, Example] = {}

    def rows(self, count: int, seed: int = 0) -> list[dict[str, str]]:
        """Return rows of a data set, one a query: `Dataset.from_list(rollout.rows(256))`.

        Args:
            count: how many queries.
            seed: of the draw.
        """
        rng = np.random.default_rng(seed)
        drawn = [self._games.rules.task.sample(rng) for _ in range(count)]
        self._examples |= {example.query: example for example in drawn}
        return [{"prompt": example.query} for example in drawn]

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Play the games of a batch.

        Args:
            prompts: (B,) queries of `rows`; the generations of one stand side by side.
            trainer: the `GRPOTrainer`.

        Returns:
            (B,) `prompt_ids` and `completion_ids`, `logprobs` of the sampled tokens where the
            trainer's engine tells them, and of each row the `cory_reward` and `cory_task_reward`.

        Raises:
            ValueError: if the generations of a query are no whole games, or a query is unknown.
        """
        in_a_game = len(self._games.rules.turns)
        if any(prompt != prompts[i - i % in_a_game] for i, prompt in enumerate(prompts)):
            raise ValueError(
                f"Expected generations in groups of {in_a_game}, one for each turn: pass a "
                f"num_generations that {in_a_game} divides."
            )
        games = self._of_size(len(prompts) // in_a_game, trainer)
        turns: list[tuple[list[list[int]], list[list[int]], list[Any]]] = []
        asked = games.reset(examples=[self._example(query) for query in prompts[::in_a_game]])
        while asked:
            ids = [_encoded(prompt, games, trainer.processing_class) for prompt in asked]
            # The one way to generate with whatever the trainer generates with; experimental.
            said, log_probs = trainer._generate_single_turn(ids, None, {}, 1)
            turns.append((ids, said, log_probs or [None] * len(ids)))
            asked = games.step(said)
        return {
            "prompt_ids": _by_row([turn[0] for turn in turns]),
            "completion_ids": _by_row([turn[1] for turn in turns]),
            "logprobs": None if turns[0][2][0] is None else _by_row([turn[2] for turn in turns]),
            "cory_reward": _by_row(
                [games.rewards[agent].tolist() for agent in games.states[0].agents]
            ),
            "cory_task_reward": _by_row(games.turn_rewards.T.tolist()),
        }

    @staticmethod
    def reward(cory_reward: Sequence[float], **columns: Any) -> list[float]:
        """Return what each agent was paid: `reward_funcs=rollout.reward`."""
        del columns
        return list(cory_reward)

    def _example(self, query: str) -> Example:
        if query not in self._examples:
            raise ValueError(
                f"Expected queries of rows(), got {query!r}: pass "
                "train_dataset=Dataset.from_list(rollout.rows(256))."
            )
        return self._examples[query]

    def _of_size(self, num_games: int, trainer: Any) -> VectorEnv:
        options: GameOptions = {
            **self._options,
            "tokenizer": trainer.processing_class,
            "max_new_tokens": trainer.max_completion_length,
        }
        rules = self._games.rules
        return vector_env(num_games, rules.task, **{**options, "reward": rules.reward})


def _encoded(prompt: str, games: VectorEnv, tokenizer: Any) -> list[int]:
    if tokenizer.chat_template is None:
        return games.rules.encode_prompt(prompt, str(games.agent_selection))
    message = {"role": "user", "content": prompt}
    encoded = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def _by_row(turns: Sequence[Sequence[Any]]) -> list[Any]:
    """Return what each turn has of each game, game after game."""
    return [turn for game in zip(*turns, strict=True) for turn in game]
