"""Both seats in the Tinker cookbook: a group is some games of one query, centred together.

Not run with Tinker, a service; written for `tinker_cookbook/rl/types.py` of November 2026.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

from tinker import types
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, StepResult

from cory_env.adapters.tables import Tables


@dataclass
class CorySeatEnv(Env):
    """One seat of one game; its partner is another environment of the group."""

    tables: Tables
    seat: str
    game: str
    seed: int
    tokenizer: object
    pool: ThreadPoolExecutor

    async def initial_observation(self):
        """Return what the seat reads, once it is on turn."""
        prompt = await self._wait(self.tables.sit, self.seat, self.game, self.seed)
        return self._shown(self.tokenizer.encode(prompt))

    async def step(self, action, *, extra=None):
        """Answer, and return what the seat is paid, once the game is over."""
        text = self.tokenizer.decode(action, skip_special_tokens=True)
        end = await self._wait(self.tables.answer, self.seat, self.game, text)
        return StepResult(end.reward, True, *self._shown([]))

    def _shown(self, tokens):
        return types.ModelInput.from_ints(tokens), [self.tokenizer.eos_token_id]

    async def _wait(self, call, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self.pool, call, *arguments)


@dataclass
class CoryGroupBuilder(EnvGroupBuilder):
    """`num_games` games of the query that `seed` draws."""

    tables: Tables
    seed: int
    tokenizer: object
    num_games: int = 4

    async def make_envs(self):
        """Return an environment for each seat of each game, with a thread that may wait."""
        pool = ThreadPoolExecutor(self.num_games * len(self.tables.seats))
        games = [str(uuid4()) for _ in range(self.num_games)]
        places = [(seat, game) for game in games for seat in self.tables.seats]
        return [CorySeatEnv(self.tables, *p, self.seed, self.tokenizer, pool) for p in places]
