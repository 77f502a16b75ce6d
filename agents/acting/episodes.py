"""Whole episodes, played side by side: who is on turn anywhere is asked together."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.acting.actors import Actor, Choice, Step
from agents.environments.base import Environment, Look
from agents.errors import LostError, PlayError

MOST_ACTIONS = 10_000
"""After so many an episode is taken not to end, if nobody has said where to cut it."""


TRIES = 3
"""How often episodes are played, if an environment is lost each time."""


@dataclass(slots=True, kw_only=True)
class Trajectory:
    """What one agent did in one episode."""

    agent: str
    steps: list[Step] = field(default_factory=list[Step])
    early_reward: float = 0.0
    """What it got before its first action, which is nobody's doing."""
    last_text: str | None = None
    """What it read last where it was cut, and would have gone on; None where its episode ended."""

    @property
    def total(self) -> float:
        """Return what it has earned, without discount."""
        return self.early_reward + sum(step.reward for step in self.steps)


Episode = dict[str, Trajectory]
"""By agent, of all that there may be."""


def play_episodes(
    environments: Sequence[Environment],
    actors: Mapping[str, Actor],
    generators: Sequence[np.random.Generator],
    *,
    max_steps: int | None = None,
    greedy: bool = False,
) -> list[Episode]:
    """Play an episode in each of E environments.

    If one of them is lost on the way, as one behind a server may be, all episodes are played again,
    with the randomness that they began with.

    Args:
        environments: E of one kind.
        actors: by agent.
        generators: (E,) of the seed and all actions of an episode: what happens in it does not
            depend on the others, up to the rounding of a batch.
        max_steps: actions of all agents together, after which an episode is cut.
        greedy: take the most probable actions.

    Raises:
        PlayError: if an environment fails, or an episode does not end.
    """
    begun = [generator.bit_generator.state for generator in generators]
    for _ in range(TRIES - 1):
        with contextlib.suppress(LostError):
            return _play(environments, actors, generators, max_steps, greedy)
        for generator, state in zip(generators, begun, strict=True):
            generator.bit_generator.state = state
    return _play(environments, actors, generators, max_steps, greedy)


def _play(
    environments: Sequence[Environment],
    actors: Mapping[str, Actor],
    generators: Sequence[np.random.Generator],
    max_steps: int | None,
    greedy: bool,
) -> list[Episode]:
    """Play as `play_episodes` does, once."""
    for actor in actors.values():
        actor.forget()
    games = [
        _Game(environment, generator, max_steps)
        for environment, generator in zip(environments, generators, strict=True)
    ]
    waiting = [(game, look) for game in games if (look := game.advance())]
    while waiting:
        for actor, asked in _by_actor(actors, waiting):
            choices = actor.act(
                [look.text for _, look in asked],
                [look.legal for _, look in asked],
                [game.generator for game, _ in asked],
                greedy=greedy,
            )
            for (game, look), choice in zip(asked, choices, strict=True):
                game.answer(look, choice)
        waiting = [(game, look) for game, _ in waiting if (look := game.advance())]
    return [game.episode for game in games]


class _Game:
    """An episode under way."""

    def __init__(
        self, environment: Environment, generator: np.random.Generator, max_steps: int | None
    ) -> None:
        self.generator = generator
        self.episode = {agent: Trajectory(agent=agent) for agent in environment.agents}
        self._environment = environment
        self._max_steps = max_steps
        self._acts, self._looks = 0, 0
        environment.reset(int(generator.integers(2**31)))

    def advance(self) -> Look | None:
        """Return what the next agent that is to act learns; None once the episode is over."""
        while look := self._environment.look():
            self._looks += 1
            if self._looks > 2 * MOST_ACTIONS:
                raise self._endless()
            self._earn(look)
            if look.ended == "no":
                if self._acts == self._max_steps:
                    for last in self._environment.cut():
                        # What the agent on turn has got it has just been given.
                        self._end(last, earned=last.agent != look.agent)
                    return None
                return look
            self._end(look, earned=False)
        return None

    def answer(self, look: Look, choice: Choice) -> None:
        """Let the agent that has looked act."""
        self._acts += 1
        if self._max_steps is None and self._acts > MOST_ACTIONS:
            raise self._endless()
        step = Step(prompt=look.text, legal=look.legal, choice=choice)
        self.episode[look.agent].steps.append(step)
        self._environment.act(choice.action)

    def _earn(self, look: Look) -> None:
        trajectory = self.episode[look.agent]
        if trajectory.steps:
            trajectory.steps[-1].reward += look.reward
        else:
            trajectory.early_reward += look.reward

    def _end(self, look: Look, *, earned: bool) -> None:
        if earned:
            self._earn(look)
        if look.ended == "truncated":
            self.episode[look.agent].last_text = look.text

    def _endless(self) -> PlayError:
        return PlayError(
            f"Expected episodes of {self._environment.name} to end, got one of {MOST_ACTIONS:,} "
            "actions: pass --max-steps N to cut them."
        )


def _by_actor(
    actors: Mapping[str, Actor], waiting: Sequence[tuple[_Game, Look]]
) -> list[tuple[Actor, list[tuple[_Game, Look]]]]:
    """Return who is asked what; one actor may play several agents."""
    asked: dict[int, tuple[Actor, list[tuple[_Game, Look]]]] = {}
    for game, look in waiting:
        actor = actors[look.agent]
        asked.setdefault(id(actor), (actor, []))[1].append((game, look))
    return list(asked.values())
