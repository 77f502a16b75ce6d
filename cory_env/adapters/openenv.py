"""The game behind OpenEnv's server: one seat against a partner, or all seats for several clients.

`seat_app` serves one seat: `reset` begins an episode of its own, `step` answers. `table_app` serves
all seats: clients that give the same `episode_id` to `reset(seat=…, episode_id=…)` play together,
and both calls return when it is the client's turn, or the game is over.

    python -m cory_env.adapters.openenv --task toy --seat observer_0
    python -m cory_env.adapters.openenv --task imdb --seat all --port 8001

Source: openenv 0.10.0, `openenv/core/env_server`.
"""

# It has no types to speak of where the package is not installed, as where this is checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, Unpack
from uuid import uuid4

from cory_env.adapters import missing
from cory_env.adapters.tables import Tables
from cory_env.options import GameOptions
from cory_env.seat import Partner, gym_env
from cory_env.task import Task

try:
    import uvicorn
    from openenv.core.env_server.http_server import create_fastapi_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State
    from pydantic import Field
except ImportError as error:
    raise missing("openenv", error) from error

MAX_SESSIONS = 64
"""Clients at a time, each with an environment of its own."""
HOST = "127.0.0.1"


class CoryAction(Action):
    """A whole response."""

    text: str = Field(description="Your whole answer")


class CoryObservation(Observation):
    """What a seat reads, or how the game has ended."""

    prompt: str = Field(default="", description="What to answer; empty after the end")
    role: str = Field(default="", description="pioneer_0, observer_0, …")
    partner_texts: list[str] = Field(
        default_factory=list, description="What the others have answered so far, in turn order"
    )


class SeatEnvironment(Environment[CoryAction, CoryObservation, State]):
    """One seat; `partner` plays the others. Arguments are those of `cory_env.gym_env`."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(
        self, seat: str, partner: Partner | None, task: str | Task, **options: Unpack[GameOptions]
    ) -> None:
        super().__init__()
        self._env = gym_env(seat, partner, task, action_level="response", **options)
        self._state = State()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **ignored: Any
    ) -> CoryObservation:
        """Begin an episode; the same seed is the same query."""
        _, info = self._env.reset(seed=seed)
        self._state = State(episode_id=episode_id or str(uuid4()))
        return self._observation(prompt=str(info["prompt"]))

    def step(
        self, action: CoryAction, timeout_s: float | None = None, **ignored: Any
    ) -> CoryObservation:
        """Answer, and return what the seat is paid."""
        _, reward, done, _, _ = self._env.step(action.text)
        self._state.step_count += 1
        return self._observation(reward=float(reward), done=done)

    @property
    def state(self) -> State:
        """The episode's id, and whether it has been answered."""
        return self._state

    def _observation(
        self, prompt: str = "", reward: float | None = None, done: bool = False
    ) -> CoryObservation:
        game = self._env.aec_env.current_game()
        texts = {a: r.text for a, r in zip(game.agents, game.responses, strict=False)}
        others = [text for agent, text in texts.items() if agent != self._env.seat]
        return CoryObservation(
            prompt=prompt, role=self._env.seat, partner_texts=others, reward=reward, done=done
        )


class TableEnvironment(Environment[CoryAction, CoryObservation, State]):
    """A client's seat at one of the tables, which all clients share."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self._tables = tables
        self._seat = ""
        self._state = State()

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        seat: str = "pioneer_0",
        timeout_s: float | None = None,
        **ignored: Any,
    ) -> CoryObservation:
        """Take a seat, and return when it is on turn."""
        if not episode_id:
            raise ValueError(
                "Expected an episode_id, got none: those who play together give the same one."
            )
        self.close()
        self._seat, self._state = seat, State(episode_id=episode_id)
        prompt = self._tables.sit(seat, episode_id, seed, timeout_s)
        return CoryObservation(prompt=prompt, role=seat)

    def step(
        self, action: CoryAction, timeout_s: float | None = None, **ignored: Any
    ) -> CoryObservation:
        """Answer, and return when the game is over."""
        episode_id = self._state.episode_id or ""
        outcome = self._tables.answer(self._seat, episode_id, action.text, timeout_s)
        self._state.step_count += 1
        texts = zip(self._tables.seats, outcome.texts, strict=True)
        others = [text for seat, text in texts if seat != self._seat]
        return CoryObservation(
            role=self._seat, partner_texts=others, reward=outcome.reward, done=True
        )

    def close(self) -> None:
        """Get up from the table, if the game still goes on."""
        if self._state.episode_id:
            self._tables.leave(self._seat, self._state.episode_id)

    @property
    def state(self) -> State:
        """The episode's id, and whether the seat has answered."""
        return self._state


def seat_app(
    seat: str = "observer_0",
    partner: Partner | None = None,
    task: str | Task = "imdb",
    **options: Unpack[GameOptions],
) -> Any:
    """Return a FastAPI application for one seat. Same arguments as `cory_env.gym_env`."""
    gym_env(seat, partner, task, action_level="response", **options)  # errors now, not per client
    return _app(partial(SeatEnvironment, seat, partner, task, **options), f"cory_{seat}")


def table_app(
    task: str | Task = "imdb", *, timeout_s: float = 60.0, **options: Unpack[GameOptions]
) -> Any:
    """Return a FastAPI application for all seats. Same arguments as `Tables`."""
    tables = Tables(task, timeout_s=timeout_s, **options)
    return _app(partial(TableEnvironment, tables), "cory")


def _app(environment: Callable[[], Any], name: str) -> Any:
    return create_fastapi_app(
        environment, CoryAction, CoryObservation, max_concurrent_envs=MAX_SESSIONS, env_name=name
    )


def main() -> None:
    """Serve on this machine alone."""
    parser = argparse.ArgumentParser(prog="python -m cory_env.adapters.openenv")
    parser.add_argument("--task", default="imdb", help="registered task")
    parser.add_argument("--seat", default="all", help="one seat, others play at random; or all")
    parser.add_argument("--observers", type=int, default=1, help="agents after the pioneer")
    parser.add_argument("--port", type=int, default=8000)
    flags = parser.parse_args()
    try:
        if flags.seat == "all":
            app = table_app(flags.task, observers=flags.observers)
        else:
            app = seat_app(flags.seat, task=flags.task, observers=flags.observers)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    uvicorn.run(app, host=HOST, port=flags.port)


if __name__ == "__main__":
    main()
