"""An environment that is served by OpenEnv, as one of Gymnasium: texts to read, texts to act by.

    from cory_env.adapters.openenv_client import ServedEnv

    env = ServedEnv("http://127.0.0.1:8000")
    observation, _ = env.reset(seed=0)
    observation, reward, done, _, _ = env.step("an answer")

It is played through OpenEnv's own client, a session for each environment. A session that is lost
loses its episode: `step` raises, and the next `reset` waits for the server and begins anew.

Source: openenv 0.10.0, `openenv/core/env_client.py`, `openenv/core/sync_client.py`.
"""

# It has no types to speak of where the package is not installed, as where this is checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium

from cory_env.adapters import missing
from cory_env.adapters.texts import read_space, said_space

try:
    from openenv.core import GenericEnvClient
    from websockets.exceptions import ConnectionClosed
    from websockets.protocol import State
except ImportError as error:
    raise missing("openenv", error) from error

READ = ("text", "prompt")
"""Fields of an observation that are read, if nobody names one."""
PAUSE_S = 0.2
"""Between two attempts to reach a server."""


class _Session(GenericEnvClient):
    """A connection that is not made again by itself: a new session would not have been reset."""

    @property
    def is_open(self) -> bool:
        return self._ws is not None and self._ws.state is State.OPEN

    async def _ensure_connected(self) -> None:
        if not self.is_open:
            raise ConnectionError("the connection is closed")


class ServedEnv(gymnasium.Env[dict[str, Any], str]):
    """One session after the other of a served environment.

    An observation is what the server shows, a dictionary, with what is to be read as its `text`.

    Args:
        url: of the server, such as http://127.0.0.1:8000.
        action: field of the server's action that a text goes into.
        read: field of its observations that is read; empty for `text` or `prompt`.
        timeout_s: how long to wait for an answer.
        wait_s: how long to wait for a server that has been there before.

    Raises:
        ValueError: if the URL is none.
    """

    def __init__(
        self,
        url: str,
        action: str = "text",
        read: str = "",
        timeout_s: float = 60.0,
        wait_s: float = 30.0,
    ) -> None:
        if not url.startswith(("http://", "https://", "ws://", "wss://")):
            raise ValueError(f"Expected a URL such as http://127.0.0.1:8000, got {url!r}.")
        self.observation_space, self.action_space = read_space(), said_space()
        self._url, self._action, self._read = url, action, read
        self._timeout_s, self._wait_s = timeout_s, wait_s
        self._client: Any = None
        self._was_there = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode, in the session that there is or in a new one.

        Raises:
            ConnectionError: if the server is not there.
            TimeoutError: if it does not answer.
            RuntimeError: if it refuses.
        """
        super().reset(seed=seed)
        given = {} if seed is None else {"seed": seed}
        if self._client is not None:
            try:
                return self._observation(self._ask(lambda: self._client.reset(**given))), {}
            except ConnectionError:
                pass  # closed since: no episode is lost
        self._connect()
        return self._observation(self._ask(lambda: self._client.reset(**given))), {}

    def step(self, action: str) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Say something. Raises what `reset` does; the episode is lost then."""
        if self._client is None:
            raise ConnectionError(f"no session with {self._url}")
        result = self._ask(lambda: self._client.step({self._action: action}))
        reward = 0.0 if result.reward is None else result.reward
        return self._observation(result), reward, bool(result.done), False, {}

    def close(self) -> None:
        """End the session."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> None:
        """Open a session; a server that was there before is waited for.

        Raises:
            ConnectionError: if there is none.
        """
        end = time.monotonic() + (self._wait_s if self._was_there else 0.0)
        while True:
            session = _Session(
                self._url, connect_timeout_s=self._timeout_s, message_timeout_s=self._timeout_s
            )
            self._client = session.sync()
            try:
                self._client.connect()
            except OSError as error:
                self.close()
                if time.monotonic() >= end:
                    waited = f" within {self._wait_s:g} s" if self._was_there else ""
                    raise ConnectionError(f"no server at {self._url}{waited}") from error
                time.sleep(PAUSE_S)
            else:
                self._was_there = True
                return

    def _ask(self, ask: Callable[[], Any]) -> Any:
        """Return an answer of the server; without one, the session is over."""
        try:
            return ask()
        except TimeoutError as error:
            self.close()
            line = f"no answer of {self._url} within {self._timeout_s:g} s"
            raise TimeoutError(line) from error
        except (ConnectionClosed, OSError) as error:
            self.close()
            raise ConnectionError(f"{self._url} has closed the connection") from error
        except RuntimeError as error:  # in the server's own words, of several lines
            if not self._client.async_client.is_open:
                self.close()
            raise RuntimeError(" ".join(str(error).split())) from error

    def _observation(self, result: Any) -> dict[str, Any]:
        shown = dict(result.observation)
        if self._read and self._read not in shown:
            raise ValueError(
                f"Expected a field of what {self._url} shows ({', '.join(shown)}), got read="
                f"{self._read}."
            )
        field = self._read or next((name for name in READ if name in shown), "")
        return {**shown, "text": shown[field]} if field else shown
