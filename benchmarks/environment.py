"""What the environment costs: steps per second beside PettingZoo's own, microseconds a response.

    python -m benchmarks.environment                     # a table, ratios first; about a minute
    python -m benchmarks.environment --json FILE         # the same figures for programs
    python -m benchmarks.environment --short             # a few seconds: checks that it runs

Needs `pip install -e ".[benchmarks]"`. Times are the processor's, of one thread, and medians
over rounds in which all candidates take turns: a busy machine slows all alike. Trust the ratios.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import tyro
from pettingzoo import AECEnv
from pettingzoo.classic import rps_v2, tictactoe_v3
from rich.console import Console
from rich.table import Table

import cory_env
from cory_env.tokenization import load_tokenizer
from cory_env.types import Example, Float64Array

VOCABULARIES = (4096, 50_257)
BATCHES = (1, 16, 64, 256, 1024)
ROUNDS = 3
"""Where everybody is asked several times."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    steps: int = 20_000
    """AEC steps of each candidate in each round."""
    rounds: int = 7
    """Rounds, of which the median counts."""
    episodes: int = 100_000
    """Episodes of the memory test."""
    short: bool = False
    """Run everything for a moment only."""
    json: Path | None = None
    """Write the figures to this file as well."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    goal: str = ""


class WideTokenizer:
    """The embedded tokenizer with a vocabulary made larger by ids that repeat its own."""

    def __init__(self, vocab_size: int) -> None:
        self._inside = load_tokenizer("embedded")
        self.vocab_size = vocab_size
        self.eos_token_id = self._inside.eos_token_id

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Return the ids of the embedded tokenizer."""
        return self._inside.encode(text, begin=begin)

    def fits(self, text: str, max_tokens: int) -> bool:
        """Return what the embedded tokenizer does."""
        return self._inside.fits(text, max_tokens)

    def decode(self, ids: Sequence[int], *, begin: bool = True) -> str:
        """Return the text of the embedded ids."""
        return self._inside.decode([i % self._inside.vocab_size for i in ids], begin=begin)


def no_reward(examples: Sequence[Example], responses: Sequence[str]) -> Float64Array:
    """Score nothing, in no time."""
    return np.zeros(len(responses))


def steps_per_second(env: AECEnv, choose: Callable[[AECEnv], int], num_steps: int) -> float:
    """Play whole episodes in the loop of PettingZoo's documentation; count steps of the living."""
    env.reset(seed=0)
    taken = 0
    start = time.process_time()
    while taken < num_steps:
        for _ in env.agent_iter():
            _, _, termination, truncation, _ = env.last()
            if termination or truncation:
                env.step(None)
            else:
                env.step(choose(env))
                taken += 1
        env.reset()
    return taken / (time.process_time() - start)


def any_of(num_actions: int) -> Callable[[AECEnv], int]:
    """Return a chooser that goes through random actions drawn beforehand: it costs no time."""
    actions = np.random.default_rng(0).integers(1, num_actions, size=4096).tolist()
    drawn = iter(actions * 1000)
    return lambda env: next(drawn)


def first_free_square(env: AECEnv) -> int:
    """Choose a legal move of tic-tac-toe."""
    board = env.unwrapped.board  # pyright: ignore[reportAttributeAccessIssue]
    return board.squares.index(0)


def aec_figures(arguments: Arguments) -> list[Figure]:
    """Compare token steps with PettingZoo's own games, all wrapped, one environment each."""
    candidates: dict[str, tuple[AECEnv, Callable[[AECEnv], int]]] = {
        "rps": (rps_v2.env(), any_of(3)),
        "tictactoe": (tictactoe_v3.env(), first_free_square),
    }
    for size in VOCABULARIES:
        candidates[f"V={size}"] = cory_env.env("imdb", tokenizer=WideTokenizer(size)), any_of(size)
    long_prompt = cory_env.env("imdb", tokenizer=WideTokenizer(50_257), max_prompt_tokens=4096)
    candidates["V=50257, L=4096"] = long_prompt, any_of(50_257)
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(arguments.rounds):
        for name, (env, choose) in candidates.items():
            rates[name].append(steps_per_second(env, choose, arguments.steps))
    ratio = lambda a, b: median(x / y for x, y in zip(rates[a], rates[b], strict=True))  # noqa: E731
    small, large = (f"V={size}" for size in VOCABULARIES)
    return [
        Figure("AEC token steps, V = 4,096, to rps", ratio(small, "rps"), "x", ">= 1"),
        Figure("AEC token steps, V = 4,096, to tictactoe", ratio(small, "tictactoe"), "x"),
        Figure("V = 50,257 slower than V = 4,096", ratio(small, large), "x", "<= 1.5"),
        Figure("L = 4,096 slower than L = 240", ratio(large, "V=50257, L=4096"), "x"),
        *(Figure(f"AEC steps/s, {name}", median(each), "1/s") for name, each in rates.items()),
    ]


def response_seconds(task: str, batch: int, num_batches: int, rounds: int = 1) -> float:
    """Return seconds per response of `vector_env` under policies that answer at once."""
    games = cory_env.vector_env(
        batch, task, reward=no_reward, rounds=rounds, max_prompt_tokens=240 * rounds
    )
    limit, vocabulary = games.rules.max_new_tokens, games.rules.tokenizer.vocab_size
    rng = np.random.default_rng(0)
    answers = rng.integers(1, min(vocabulary, 4096), size=(batch, limit)).tolist()
    games.reset(seed=0)
    start = time.process_time()
    for _ in range(num_batches):
        prompts = games.reset()
        while prompts:
            prompts = games.step(answers)
    return (time.process_time() - start) / (num_batches * batch * len(games.rules.turns))


def vector_figures(arguments: Arguments) -> list[Figure]:
    """Time what is neither model nor reward: drawing, prompting, checking, decoding, paying."""
    responses = 64 if arguments.short else 4096
    seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    several: list[float] = []
    for _ in range(arguments.rounds):
        for batch in BATCHES:
            seconds[batch].append(response_seconds("imdb", batch, max(1, responses // batch)))
        several.append(response_seconds("imdb", 256, max(1, responses // 768), rounds=ROUNDS))
    growth = median(large / small for small, large in zip(seconds[64], seconds[1024], strict=True))
    return [
        Figure(
            f"vector_env, imdb, B = {batch}",
            median(each) * 1e6,
            "us/response",
            "<= 20" if batch == 256 else "",
        )
        for batch, each in seconds.items()
    ] + [
        Figure(
            f"vector_env, imdb, B = 256, {ROUNDS} rounds", median(several) * 1e6, "us/ask", "<= 40"
        ),
        Figure("us/response at B = 1,024 to B = 64", growth, "x", "about 1: linear in B"),
    ]


def memory_figures(arguments: Arguments) -> list[Figure]:
    """Play many episodes and see what stays."""
    figures: list[Figure] = []
    for name, play in {"vector_env": _play_vector, "env": _play_aec}.items():
        play(min(arguments.episodes, 10_000) // 10)  # what is loaded once
        gc.collect()
        before = psutil.Process().memory_info().rss
        play(arguments.episodes)
        gc.collect()
        grown = (psutil.Process().memory_info().rss - before) / 1e6
        label = f"memory grown by {arguments.episodes:,} episodes of {name}"
        figures.append(Figure(label, grown, "MB", "<= 5"))
    return figures


def _play_vector(num_episodes: int) -> None:
    games = cory_env.vector_env(256, "imdb")
    for _ in range(max(1, num_episodes // games.num_envs)):
        prompts = games.reset()
        while prompts:
            prompts = games.step([" was a joy."] * games.num_envs)


def _play_aec(num_episodes: int) -> None:
    env = cory_env.env("imdb", action_level="response")
    for _ in range(num_episodes):
        env.reset()
        for _ in env.agent_iter():
            _, _, termination, truncation, _ = env.last()
            env.step(None if termination or truncation else " was a joy.")


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    table = Table("figure", "value", "unit", "goal")
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:,.2f}", figure.unit, figure.goal)
    Console().print(table)


def main() -> None:
    """Measure and show."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.short:
        arguments = Arguments(steps=200, rounds=1, episodes=512, short=True, json=arguments.json)
    figures = [
        *aec_figures(arguments),
        *vector_figures(arguments),
        *memory_figures(arguments),
    ]
    show(figures)
    if arguments.json:
        text = json.dumps([asdict(figure) for figure in figures], indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
