"""Branches: an episode that is played on from a state is the episode that would have been."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import cory_env
from agents.distributed.world import World
from agents.engines.builtin import BuiltinEngine
from agents.errors import EngineError
from agents.ledger import Ledger
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.rollouts.branches import BranchSampler
from agents.rollouts.collect import collect
from agents.rollouts.credit import split_credit
from agents.types import Prefix, Rollout
from cory_env import RewardError
from cory_env.game import earnings
from cory_env.tasks.toy import ToyTask
from tests.agents.fakes import odd_reward, tiny_backbone

ROWS, K = 6, 3


class Game:
    """A rollout of three agents, and all that it was made of."""

    def __init__(self, sharing: str | float = 0.5, rows: int = ROWS):
        backbone = tiny_backbone(names=("llm_0", "llm_1", "llm_2"), moved=0.3)
        self.games = cory_env.vector_env(
            rows, ToyTask(length=2, symbols=2), tokenizer=backbone.tokenizer, observers=2,
            reward=odd_reward, reward_sharing=sharing,
        )  # fmt: skip
        self.length = self.games.rules.max_new_tokens
        self.games.reset(seed=0)
        self.examples = self.games.examples
        self.policies = {
            role: LLMPolicy(name=f"llm_{i}", backbone=backbone, temperature=1 + i)
            for i, role in enumerate(self.games.rules.roles)
        }
        self.uniforms = {
            role: draw_uniforms(rows, self.length, torch.Generator().manual_seed(i))
            for i, role in enumerate(self.policies)
        }
        self.rollout = self.play(self.uniforms)
        self.lengths = [turn.tokens.response_mask.sum(1).tolist() for turn in self.rollout.turns]

    def play(self, uniforms) -> Rollout:
        return collect(self.games, self.policies, uniforms, examples=self.examples)

    def sampler(
        self, rollout=None, *, engine=None, key=(7, 0), world=None, ledger=None
    ) -> BranchSampler:
        return BranchSampler(
            self.games.rules,
            rollout or self.rollout,
            {policy.name: policy for policy in self.policies.values()},
            engine=engine or BuiltinEngine(),
            key=key,
            world=world or World(),
            ledger=ledger or Ledger(),
        )

    def prefixes(self) -> list[Prefix]:
        """Return every state there is, those at the end of a response included."""
        return [
            Prefix(row, seat, cut)
            for seat, lengths in enumerate(self.lengths)
            for row, length in enumerate(lengths)
            for cut in range(length + 1)
        ]

    def replayed(self, prefix: Prefix, drawn: np.ndarray) -> np.ndarray:
        """Play the whole batch again, in one row with what a branch (A, T) has drawn."""
        uniforms = {role: u.clone() for role, u in self.uniforms.items()}
        for seat, own in enumerate(uniforms.values()):
            if seat >= prefix.seat:
                cut = prefix.cut if seat == prefix.seat else 0
                own[prefix.row, cut:] = torch.from_numpy(drawn[seat, : self.length - cut])
        self.play(uniforms)
        return np.array([self.games.task_rewards[a][prefix.row] for a in self.games.agents])


@pytest.fixture(scope="module")
def game() -> Game:
    return Game()


def test_branches_are_replays_of_the_game_with_their_own_randomness(game):
    sampler, prefixes = game.sampler(), game.prefixes()
    found = sampler.branch(prefixes, 2)
    kinds = set()
    for p, prefix in enumerate(prefixes):
        for number in range(2):
            key = (4, prefix.row, prefix.seat, prefix.cut, number)
            expected = game.replayed(prefix, sampler._uniforms([key], 3)[0])
            np.testing.assert_allclose(found.task_rewards[p, number], expected, rtol=1e-6)
            earned = earnings(expected[None], 0.5)
            now, later = split_credit(earned, range(3), prefix.seat, causal=True)
            assert float(found.rewards[p, number, prefix.seat]) == pytest.approx(now + later)
        kinds.add((prefix.seat, prefix.cut == game.lengths[prefix.seat][prefix.row]))
    assert len(kinds) == 6, "no state is inside, or at the end, of some turn"


def test_what_an_agent_has_of_the_turns_from_a_state_on_by_hand():
    rewards = np.array([[1.0, 20.0, 300.0]])
    for seat, sharing, expected in (
        (1, "collective", [320, 320, 320]),
        (1, "individual", [0, 20, 300]),
        (2, 0.5, [150, 150, 300]),
        (3, "mean", [0, 0, 0]),
    ):
        assert earnings(rewards, sharing)[:, seat:].sum(1).tolist() == [expected]


def test_what_was_said_before_a_state_stays_as_it_was(game):
    """All that a branch draws anew is behind its state: the end of an episode draws nothing."""
    last = [Prefix(row, 2, game.lengths[2][row]) for row in range(ROWS)]
    expected = torch.stack([turn.task_rewards for turn in game.rollout.turns], dim=1)
    found = game.sampler().branch(last, K).task_rewards
    torch.testing.assert_close(found, expected[:, None].expand(-1, K, -1))


def test_a_hand_over_is_the_first_state_of_the_next_agent(game):
    ends = [Prefix(row, 0, game.lengths[0][row]) for row in range(ROWS)]
    firsts = [Prefix(row, 1, 0) for row in range(ROWS)]
    found = game.sampler().branch([*ends, *firsts], 60).task_rewards
    (one, other), (spread, spread_of_other) = found.mean(1).split(ROWS), found.var(1).split(ROWS)
    torch.testing.assert_close(one[:, 0], other[:, 0])
    error = ((spread + spread_of_other) / 60).sqrt()
    assert ((one - other).abs()[:, 1:] < 5 * error[:, 1:]).all()


def test_a_branch_depends_on_no_other_branch_and_on_no_process(game):
    prefixes = game.prefixes()
    whole = game.sampler().branch(prefixes, K).task_rewards
    backwards = game.sampler().branch(prefixes[::-1], K + 1).task_rewards
    assert torch.equal(backwards.flip(0)[:, :K], whole)
    turns, half = game.rollout.turns, ROWS // 2
    later = Rollout(
        turns=tuple(
            replace(
                turn,
                prompts=turn.prompts[half:],
                responses=turn.responses[half:],
                tokens=turn.tokens.take(slice(half, None)),
            )
            for turn in turns
        ),
        states=game.rollout.states[half:],
    )
    kept = [i for i, prefix in enumerate(prefixes) if prefix.row >= half]
    moved = [prefixes[i]._replace(row=prefixes[i].row - half) for i in kept]
    found = game.sampler(later, world=World(1, 2)).branch(moved, K).task_rewards
    assert torch.equal(found, whole[kept])


def test_every_iteration_state_and_number_has_randomness_of_its_own(game):
    sampler = game.sampler()
    keys = [(4, row, seat, cut, j) for row in (0, 1) for seat in (0, 1) for cut in (0, 1)
            for j in (0, 1)] + [(3, 0, 0, 0, 0)]  # fmt: skip
    drawn = sampler._uniforms(keys, 1)[:, 0, 0]
    assert len({*drawn, *game.sampler(key=(7, 1))._uniforms(keys, 1)[:, 0, 0]}) == 2 * len(keys)
    assert np.array_equal(drawn, sampler._uniforms(keys, 1)[:, 0, 0])


def test_answers_are_the_policys_and_differ_from_each_other(game):
    sampler = game.sampler()
    texts, tokens = sampler.respond(1, [0] * 400 + [3])
    prompt = game.rollout.turns[1].tokens
    for row, of in ((0, 0), (400, 3)):
        own = tokens.prompt_ids[row][tokens.prompt_mask[row]].tolist()
        assert own == prompt.prompt_ids[of][prompt.prompt_mask[of]].tolist()
    assert len(set(texts[:400])) > 5
    more = sampler.respond(1, [0] * 400 + [3])
    assert more.texts != texts, "a second call says the same"
    assert game.sampler().respond(1, [0] * 400 + [3]).texts == texts


def test_answers_to_other_prompts_depend_on_their_numbers_alone(game):
    prompts = ["ab>", "b>", "ab>", "ab>"]
    texts, tokens = game.sampler().answer(0, prompts * 50, range(200))
    rows = zip(tokens.prompt_ids, tokens.prompt_mask, strict=True)
    asked = [ids[mask].tolist() for ids, mask in rows][:4]
    assert asked == game.policies["pioneer_0"].backbone.tokenizer(prompts)["input_ids"]
    assert len({texts[i] for i in range(0, 200, 4)}) > 5
    # Another process asks some of them, in another rollout, after something else.
    other = game.sampler(world=World(1, 2))
    other.respond(0, [0, 1])
    assert other.answer(0, prompts * 20, range(60, 140)).texts == texts[60:140]
    ledger = Ledger()
    game.sampler(ledger=ledger).answer(0, prompts, range(4))
    ledger.settle([ledger.here])
    assert (ledger.totals.responses, ledger.totals.reward_calls) == (4, 0)


def test_an_answer_goes_on_behind_its_prefix(game):
    first = game.rollout.turns[0].tokens.response_ids[:, :1].tolist()
    rows = [row for row in range(ROWS) if game.lengths[0][row] > 1]
    found = game.sampler().respond(0, rows, [first[row] for row in rows]).tokens
    assert int(found.response_mask.sum(1).max()) <= game.length - 1
    for place, row in enumerate(rows):
        assert found.prompt_ids[place][-1] == first[row][0]


def test_the_ledger_counts_what_is_new_in_branches_and_all_that_is_scored(game):
    ledger = Ledger()
    sampler = game.sampler(ledger=ledger)
    prefixes = [Prefix(0, 2, game.lengths[2][0]), Prefix(1, 2, 0), Prefix(2, 0, 0)]
    sampler.branch(prefixes, K)
    ledger.settle([ledger.here])
    assert ledger.totals.responses == K * (0 + 1 + 3)
    assert ledger.totals.reward_calls == K * 3 * 3
    assert ledger.totals.responses <= ledger.totals.tokens <= K * 4 * game.length
    before = ledger.totals.tokens
    tokens = sampler.respond(0, [0, 1, 1]).tokens
    ledger.settle([ledger.here])
    assert ledger.totals.responses == K * 4 + 3
    assert ledger.totals.tokens == before + int(tokens.response_mask.sum())
    assert ledger.totals.reward_calls == K * 9


def test_nothing_to_play_on_is_nothing(game):
    found = game.sampler().branch([], K)
    assert found.rewards.shape == (0, K, 3)


def test_an_engine_that_only_begins_responses_is_refused_where_one_is_continued(game):
    class Beginner(BuiltinEngine):
        continues = False

    sampler = game.sampler(engine=Beginner())
    assert sampler.branch([Prefix(0, 0, 0), Prefix(1, 1, 0)], K).rewards.shape == (2, K, 3)
    row = next(row for row in range(ROWS) if game.lengths[0][row] > 1)
    with pytest.raises(EngineError, match="an engine that continues responses, got Beginner"):
        sampler.branch([Prefix(row, 0, 1)], K)


def test_a_reward_that_fails_in_a_branch_is_a_reward_error():
    game = Game()

    def broken(examples, responses):
        raise ZeroDivisionError("no words")

    object.__setattr__(game.games.rules, "reward", broken)
    with pytest.raises(RewardError, match="ZeroDivisionError"):
        game.sampler().branch([Prefix(0, 0, 0)], K)
