"""A person takes the place of an agent in somebody else's environment."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from agents.acting.actors import Actor, Choice
from agents.acting.episodes import play_episodes
from agents.acting.evaluation import load_players
from agents.environments.base import Legal
from agents.records.folder import RunFolder
from cory_env.names import unknown_name
from cory_env.rendering import visible


class Person:
    """Reads what an agent reads, and types its action.

    Args:
        actions: (C,) the texts of the actions; None where an action is any text.
        console: where they read it.
    """

    def __init__(self, actions: Sequence[str] | None, console: Console) -> None:
        self._actions = actions
        self._console = console

    def forget(self) -> None:
        """Let the person remember."""

    def act(
        self,
        prompts: Sequence[str],
        legal: Sequence[Legal | None],
        generators: Sequence[np.random.Generator],
        *,
        greedy: bool = False,
    ) -> list[Choice]:
        """Ask for an action in each state."""
        return [self._ask(*asked) for asked in zip(prompts, legal, strict=True)]

    def _ask(self, prompt: str, legal: Legal | None) -> Choice:
        self._show(prompt)
        if self._actions is None:
            return Choice(input("your action> "), 0.0, ())
        allowed = [a for n, a in enumerate(self._actions) if legal is None or legal[n]]
        self._show(f"({', '.join(allowed)})")
        while (text := input("your action> ").strip()) not in allowed:
            self._show(unknown_name("an action", allowed, text))
        return Choice(list(self._actions).index(text), 0.0, ())

    def _show(self, text: str) -> None:
        self._console.print(Text(visible(text, self._console.encoding)))


def play_environment(run: Path, *, seat: str = "", seed: int | None = None) -> None:
    """Play episodes until the person has enough, then show the mean return.

    Args:
        run: run folder, whose policies have the other places.
        seat: the person's; empty for the first agent.
        seed: of the episodes; None for new ones every time.

    Raises:
        ValueError: if there is no such run or agent.
    """
    console = Console(highlight=False)
    config, players = load_players(RunFolder(run))
    environment = players.environment
    seat = seat or environment.agents[0]
    if seat not in environment.agents:
        raise ValueError(unknown_name("a --seat", environment.agents, seat))
    policies = list(players.actors.values())
    actors: dict[str, Actor] = {
        agent: policies[n % len(policies)] for n, agent in enumerate(environment.agents)
    }
    actors[seat] = Person(environment.actions, console)
    generator, totals = np.random.default_rng(seed), list[float]()
    console.print(f"You are {seat} in {config.env}; Ctrl-D quits.")
    with closing(environment), contextlib.suppress(EOFError):
        again = True
        while again:
            (episode,) = play_episodes(
                [environment], actors, [generator], max_steps=config.max_steps
            )
            for agent, trajectory in episode.items():
                console.print(f"{agent} has earned {trajectory.total:g}.")
            totals.append(episode[seat].total)
            again = input("Enter = again, q = quit> ").strip().lower() not in ("q", "quit")
    if totals:
        console.print(f"{len(totals)} episodes, {np.mean(totals):.3f} on average.")
