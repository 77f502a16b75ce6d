"""Games whose seats are taken by different clients, each in a thread of its own.

A table is known by its episode id. Who sits down waits until it is on turn, and who has answered
waits until the game is over: so a client needs no more than `sit` and `answer`, in this order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition
from typing import Unpack

from cory_env.names import unknown_name
from cory_env.options import GameOptions
from cory_env.task import Task
from cory_env.vector import VectorEnv, vector_env


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a seat learns at the end."""

    reward: float
    """What it is paid."""
    texts: tuple[str, ...]
    """What all seats have answered, in turn order."""


@dataclass(slots=True)
class _Table:
    games: VectorEnv
    seed: int | None
    prompt: str = ""
    seated: set[str] = field(default_factory=set[str])
    """Who sits there, or did and has not gone."""
    gone: str = ""
    """Who has left before the end."""


class Tables:
    """Games by episode id; all methods may be called from any thread.

    Args:
        task: a registered name, or a task object.
        timeout_s: seconds to wait for the others, unless a call says otherwise.
        options: see `cory_env.options.make_rules`; agents are named by their roles, so there is no
            `swap_every`, and whoever sits down answers once, so there is one round.
    """

    def __init__(
        self, task: str | Task = "imdb", *, timeout_s: float = 60.0, **options: Unpack[GameOptions]
    ) -> None:
        if options.get("swap_every") is not None:
            raise ValueError(
                "Expected no swap_every, got one: seats exchange roles by taking another seat."
            )
        rules = vector_env(1, task, **options).rules
        if rules.rounds > 1:
            raise ValueError(
                f"Expected one round at a table, where every seat answers once, got "
                f"{rules.rounds}: leave out rounds, or serve one seat."
            )
        # Each table is a game of its own; what takes time to load is loaded once.
        loaded: GameOptions = {"reward": rules.reward, "tokenizer": rules.tokenizer}
        self._options: GameOptions = {**options, **loaded}
        self._task = rules.task
        self._timeout_s = timeout_s
        self._tables: dict[str, _Table] = {}
        self._changed = Condition()
        self.seats = rules.agents

    def sit(
        self,
        seat: str,
        episode_id: str,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """Take a seat, wait until it is on turn, and return its prompt.

        Args:
            seat: `pioneer_0`, `observer_0`, …
            episode_id: of the table. The game begins when its pioneer comes.
            seed: of the query; of those who give one before that, all give the same.
            timeout_s: how long to wait; None for that of the tables.

        Raises:
            ValueError: if there is no such seat, it is taken, or the game has another seed.
            RuntimeError: if somebody has left.
            TimeoutError: if the others don't come or answer in time; the seat is free again.
        """
        if seat not in self.seats:
            raise ValueError(unknown_name("a seat", self.seats, seat))
        with self._changed:
            table = self._table(episode_id, seed)
            if seat in table.seated or table.games.rewards:
                state = "over" if table.games.rewards else "taken"
                raise ValueError(
                    f"Expected a free seat, got {seat} of {episode_id!r}, which is {state}: give "
                    "another seat or episode_id."
                )
            if seat == self.seats[0]:
                table.prompt = table.games.reset(table.seed)[0]
            table.seated.add(seat)
            self._tables[episode_id] = table
            self._changed.notify_all()
            self._wait(episode_id, seat, lambda: table.games.agent_selection == seat, timeout_s)
            return table.prompt

    def answer(
        self, seat: str, episode_id: str, text: str, timeout_s: float | None = None
    ) -> Outcome:
        """Answer, wait until the game is over, and return how it ended for the seat.

        Raises:
            ValueError: if the seat is not on turn, or the text is no Unicode.
            RuntimeError: if somebody has left, or the reward has failed.
            TimeoutError: if the others don't answer in time.
        """
        with self._changed:
            table = self._tables.get(episode_id)
            if table is None or seat not in table.seated or table.games.agent_selection != seat:
                raise ValueError(
                    f"Expected an answer of who is on turn, got one of {seat}: take the seat first."
                )
            prompts = table.games.step([text])
            table.prompt = prompts[0] if prompts else ""
            self._changed.notify_all()
            self._wait(episode_id, seat, lambda: bool(table.games.rewards), timeout_s)
            self._rise(episode_id, seat)
            said = table.games.responses
            texts = tuple(said[agent][0].text for agent in self.seats)
            return Outcome(float(table.games.rewards[seat][0]), texts)

    def leave(self, seat: str, episode_id: str) -> None:
        """Get up: if the game goes on, the others are told."""
        with self._changed:
            table = self._tables.get(episode_id)
            if table is None or seat not in table.seated:
                return
            if not table.games.rewards:
                table.gone = seat
            self._rise(episode_id, seat)
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._tables)

    def _table(self, episode_id: str, seed: int | None) -> _Table:
        """Return a table, known or new, that agrees with a seed."""
        table = self._tables.get(episode_id)
        if table is None:
            table = _Table(vector_env(1, self._task, **self._options), seed)
        if table.seed is None and not table.games.states:
            table.seed = seed
        if seed is not None and seed != table.seed:
            raise ValueError(
                f"Expected the seed {table.seed} that {episode_id!r} was begun with, got {seed}: "
                "give the same one, none, or another episode_id."
            )
        return table

    def _wait(
        self, episode_id: str, seat: str, done: Callable[[], bool], timeout_s: float | None
    ) -> None:
        """Wait for the others; called, as what it calls, by who holds the lock."""
        table = self._tables[episode_id]
        limit = self._timeout_s if timeout_s is None else timeout_s
        end = time.monotonic() + limit
        while not done():
            waited_for = table.games.agent_selection or self.seats[0]
            if table.gone:
                self._rise(episode_id, seat)
                raise RuntimeError(
                    f"Expected {table.gone} to answer in {episode_id!r}, but it has left: begin "
                    "another episode."
                )
            if not self._changed.wait(max(0.0, end - time.monotonic())) and not done():
                table.gone = table.gone or waited_for
                self._rise(episode_id, seat)
                self._changed.notify_all()
                raise TimeoutError(
                    f"Expected {waited_for} to answer in {episode_id!r} within {limit:g} s, got "
                    "nothing: begin another episode."
                )

    def _rise(self, episode_id: str, seat: str) -> None:
        """Free a seat; the last one clears the table."""
        table = self._tables[episode_id]
        table.seated.discard(seat)
        if not table.seated:
            del self._tables[episode_id]
