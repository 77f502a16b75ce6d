"""Look further than a rollout: further answers to its prompts, and episodes played on from a state.

`BranchSampler` is what `agents.algorithms.base.Sampler` describes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from agents.distributed.world import World
from agents.engines.base import Engine, unpadded
from agents.errors import EngineError
from agents.ledger import Ledger
from agents.policies.base import Generated, Policy
from agents.policies.prefixes import Prefixes
from agents.rollouts.collect import read_responses
from agents.types import Branches, Generation, Prefix, Rollout
from cory_env.game import GameState, Rules, earnings
from cory_env.types import Float64Array

_ANSWERS, _BRANCHES, _OTHERS = 3, 4, 5
"""Tags of the random streams: an answer shares no number with a branch."""


class BranchSampler:
    """Lets the policies of a rollout answer once more, or go on from any of its states."""

    def __init__(
        self,
        rules: Rules,
        rollout: Rollout,
        policies: Mapping[str, Policy],
        *,
        engine: Engine,
        key: tuple[int, ...],
        world: World,
        ledger: Ledger,
    ):
        """Take hold of a rollout that has ended.

        Args:
            rules: of its game.
            rollout: this process's rows of it.
            policies: by name; their weights are still those of the rollout.
            engine: what generates.
            key: of this iteration's randomness, numbers of at least 0.
            world: the processes whose rows are one batch.
            ledger: of the costs.
        """
        self._rules, self._rollout = rules, rollout
        self._policies = [policies[turn.policy] for turn in rollout.turns]
        self._engine, self._key, self._world, self._ledger = engine, key, world, ledger
        self._first_row = world.rank * len(rollout.states)
        self._answered: Counter[tuple[int, ...]] = Counter()

    def respond(
        self, seat: int, rows: Sequence[int], prefixes: Prefixes | None = None
    ) -> Generated:
        """Let the policy of a seat answer its prompts once more; see `Sampler`."""
        keys = []
        for i, row in enumerate(rows):
            place = (self._first_row + row, seat, len(prefixes[i]) if prefixes else 0)
            keys.append((_ANSWERS, *place, self._answered[place]))
            self._answered[place] += 1
        prompts = [self._rollout.turns[seat].prompts[row] for row in rows]
        return self._answers(seat, prompts, prefixes or [()] * len(rows), keys)

    def answer(self, seat: int, prompts: Sequence[str], numbers: Sequence[int]) -> Generated:
        """Let the policy of a seat answer prompts of other episodes; see `Sampler`."""
        keys = [(_OTHERS, number, seat) for number in numbers]
        return self._answers(seat, prompts, [()] * len(prompts), keys)

    def _answers(
        self,
        seat: int,
        prompts: Sequence[str],
        before: Prefixes,
        keys: Sequence[tuple[int, ...]],
    ) -> Generated:
        """Let the policy of a seat answer, each prompt with the randomness of its key."""
        uniforms = torch.from_numpy(self._uniforms(keys, 1)[:, 0])
        blocks = self._blocks(seat, before)
        parts = [self._ask(seat, prompts, before, uniforms, block) for block in blocks]
        order = torch.tensor([i for block in blocks for i in block]).argsort()
        texts = [text for part in parts for text in part.texts]
        tokens = Generation.join([part.tokens for part in parts]).take(order)
        return Generated([texts[i] for i in order], tokens)

    def branch(self, prefixes: Sequence[Prefix], k: int) -> Branches:
        """Play P states to the end, K times each; see `Sampler`."""
        lines = [prefix for prefix in prefixes for _ in range(k)]
        keys = [
            (_BRANCHES, self._first_row + prefix.row, prefix.seat, prefix.cut, number)
            for prefix in prefixes
            for number in range(k)
        ]
        uniforms = self._uniforms(keys, len(self._policies))
        ended = [self._rollout.states[line.row] for line in lines]
        states = [
            replace(state, responses=state.responses[: line.seat])
            for state, line in zip(ended, lines, strict=True)
        ]
        for seat in range(len(self._policies)):
            playing = [i for i, line in enumerate(lines) if line.seat <= seat]
            before = [states[i] for i in playing]
            after = self._played(seat, [lines[i] for i in playing], before, uniforms[playing])
            for i, state in zip(playing, after, strict=True):
                states[i] = state
        task_rewards, rewards = self._paid(lines, states)
        shape = (len(prefixes), k, len(self._policies))
        device = self._rollout.turns[0].task_rewards.device
        return Branches(
            task_rewards=torch.tensor(task_rewards, dtype=torch.float32, device=device).view(shape),
            rewards=torch.tensor(rewards, dtype=torch.float32, device=device).view(shape),
        )

    def _played(
        self,
        seat: int,
        lines: Sequence[Prefix],
        states: Sequence[GameState],
        uniforms: Float64Array,
    ) -> list[GameState]:
        """Return some branches after the agent of a seat has answered.

        Args:
            seat: in turn order.
            lines: from where they are played on.
            states: of the branches before.
            uniforms: (N, A, T) their randomness.
        """
        turn = self._rollout.turns[seat]
        ids = unpadded(turn.tokens.response_ids, turn.tokens.response_mask)
        before = [ids[line.row][: line.cut] if line.seat == seat else [] for line in lines]
        asked = [
            i for i, line in enumerate(lines) if line.seat < seat or line.cut < len(ids[line.row])
        ]
        prompts = [self._rules.prompt(states[i]) for i in asked]
        for prompt in dict.fromkeys(prompts):
            self._rules.check_prompt(prompt, f"{turn.role} in a branch")
        drawn, starts = torch.from_numpy(uniforms[asked, seat]), [before[i] for i in asked]
        for block in self._blocks(seat, starts):
            tokens = self._ask(seat, prompts, starts, drawn, block).tokens
            rests = unpadded(tokens.response_ids, tokens.response_mask)
            for i, rest in zip(block, rests, strict=bool(block)):
                before[asked[i]] += rest
        said = read_responses(self._rules.max_new_tokens, self._policies[seat], turn.role, before)
        if self._rules.verdict != "none" and seat + 1 < len(self._policies):
            self._ledger.add(reward_calls=len(said))
        return self._rules.respond_all(states, said) if said else []

    def _blocks(self, seat: int, prefixes: Prefixes) -> list[list[int]]:
        """Return which prompts go together: at most as many as a rollout has.

        Where layers are spread over processes, some blocks may be empty: all processes have as
        many.
        """
        size = len(self._rollout.states)
        # Responses of which as much is left end together.
        order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
        blocks = [order[at : at + size] for at in range(0, len(order), size)]
        if self._policies[seat].backbone.sharding:
            most = max(self._world.gather_list([len(blocks)]))
            blocks += [[] for _ in range(most - len(blocks))]
        return blocks

    def _ask(
        self,
        seat: int,
        prompts: Sequence[str],
        prefixes: Prefixes,
        uniforms: torch.Tensor,
        block: Sequence[int],
    ) -> Generated:
        """Ask the policy of a seat with the prompts of a block; with any, if there is none."""
        if not block:
            prompts, prefixes, block = self._rollout.turns[seat].prompts, [()], [0]
            uniforms = torch.zeros(1, self._rules.max_new_tokens, dtype=torch.float64)
        options = {}
        if any(prefixes[i] for i in block):
            if not self._engine.continues:
                raise EngineError(
                    "Expected an engine that continues responses, got "
                    f"{type(self._engine).__name__}, which begins them only: pass --engine builtin."
                )
            options["prefixes"] = [prefixes[i] for i in block]
        generated = self._engine.generate(
            self._policies[seat],
            [prompts[i] for i in block],
            max_new_tokens=self._rules.max_new_tokens,
            uniforms=uniforms[block],
            **options,
        )
        sampled = int(generated.tokens.response_mask.sum())
        self._ledger.add(responses=len(block), tokens=sampled)
        return generated

    def _uniforms(self, keys: Sequence[tuple[int, ...]], agents: int) -> Float64Array:
        """Draw the randomness (N, A, T) of whole branches, each of its key alone."""
        drawn = np.empty((len(keys), agents, self._rules.max_new_tokens))
        for i, key in enumerate(keys):
            np.random.default_rng([*self._key, *key]).random(out=drawn[i])
        return drawn

    def _paid(
        self, lines: Sequence[Prefix], states: Sequence[GameState]
    ) -> tuple[Float64Array, Float64Array]:
        """Return (N, A) task rewards, and shares of those from each state's turn on.

        Both are by turn: where agents take several, A counts turns.
        """
        if not lines:
            return np.zeros((0, len(self._policies))), np.zeros((0, len(self._policies)))
        task_rewards, _ = self._rules.payoffs(states)
        self._ledger.add(reward_calls=task_rewards.size)
        rewards = np.empty_like(task_rewards)
        agents = len(self._rules.roles)
        earned = earnings(task_rewards, self._rules.reward_sharing, agents)
        places = np.arange(len(self._policies)) % agents
        seats = np.array([line.seat for line in lines])
        for seat in range(len(self._policies)):
            at = seats == seat
            rewards[at] = earned[at, seat:].sum(axis=1)[:, places]
        return task_rewards, rewards
