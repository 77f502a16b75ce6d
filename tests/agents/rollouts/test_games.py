"""Games in which an agent is asked several times, and episodes end at different times."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import cory_env
from agents.algorithms import ALGORITHMS
from agents.algorithms.kl import KLController
from agents.models.critic import Critic
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.rollouts.collect import ask, collect
from agents.rollouts.credit import split_credit
from cory_env import Example
from cory_env.game import GameState
from tests.agents.fakes import tiny_backbone

ETA, LENGTH = 0.3, 2
PLAN = (("left", (0, 1, 2)), ("right", (0, 2)), ("left", (2,)), ("left", (0, 2)), ("right", (2,)))
"""Who is asked where: episode 1 ends first, and in episode 0 `left` waits once."""
EARNED = np.arange(1.0, 31.0).reshape(3, 5, 2)


class Uneven:
    """Three episodes after a plan; a prompt tells what was said before."""

    num_envs, agents, max_new_tokens, max_asks = 3, ("left", "right"), LENGTH, 3
    reward_calls, ends_next, gold = 0, False, (None,) * 3

    def __init__(self):
        self.made = np.array([[b in rows for _, rows in PLAN] for b in range(3)])
        self.earned = EARNED * self.made[:, :, None]
        self.turn_rewards = self.earned[:, :, 0]
        self.at, self.seen = 0, []

    @property
    def agent_selection(self):
        return PLAN[self.at][0] if self.at < len(PLAN) else None

    @property
    def rows(self):
        return PLAN[self.at][1]

    def reset(self, seed=None, examples=None, isolated=None):
        self.at, self.seen = 0, []
        self.states = [GameState(Example(letter), ()) for letter in "aba"]
        return self.prompts()

    def step(self, responses):
        assert len(responses) == len(self.rows)
        who = self.agent_selection
        for b, response in zip(self.rows, responses, strict=True):
            old = self.states[b]
            said = (*old.responses, response)
            self.states[b] = replace(old, agents=(*old.agents, who), responses=said)
        self.at += 1
        return self.prompts() if self.agent_selection else []

    def prompts(self):
        query = [state.example.query for state in self.states]
        heard = ["".join(r.text for r in state.responses) for state in self.states]
        self.seen.append([query[b] + heard[b] + ">" for b in self.rows])
        return self.seen[-1]


@pytest.fixture
def played():
    torch.manual_seed(0)
    backbone = tiny_backbone(names=("llm_0", "llm_1"), moved=0.2)
    policies = {
        role: LLMPolicy(name=name, backbone=backbone)
        for role, name in (("left", "llm_0"), ("right", "llm_1"))
    }
    uniforms = {
        role: draw_uniforms(3, 3 * LENGTH, torch.Generator().manual_seed(i))
        for i, role in enumerate(policies)
    }
    game = Uneven()
    return game, policies, uniforms, collect(game, policies, uniforms)


def test_every_ask_is_a_turn_of_all_episodes_and_counts_in_its_own(played):
    game, _, _, rollout = played
    assert [turn.role for turn in rollout.turns] == [role for role, _ in PLAN]
    for turn, (_, rows), seen in zip(rollout.turns, PLAN, game.seen, strict=True):
        made = turn.tokens.response_mask.any(1).tolist()
        assert [b for b in range(3) if made[b]] == list(rows)
        assert [turn.prompts[b] for b in rows] == seen
        assert [turn.responses[b] for b in range(3) if b not in rows] == [""] * (3 - len(rows))
        assert (turn.tokens.sampled_log_probs[~turn.tokens.response_mask] == 0).all()
    said = [[] for _ in range(3)]
    for turn, (_, rows) in zip(rollout.turns, PLAN, strict=True):
        for b in rows:
            said[b].append(turn.responses[b])
    assert said == [[r.text for r in state.responses] for state in rollout.states]


def test_a_row_has_the_same_randomness_whoever_is_asked_beside_it(played):
    _, policies, uniforms, rollout = played
    for turn, (role, rows) in enumerate(PLAN):
        for b in rows:
            time = sum(r == role and b in others for r, others in PLAN[:turn])
            own = uniforms[role][b : b + 1, time * LENGTH : (time + 1) * LENGTH]
            alone = policies[role].generate(
                [rollout.turns[turn].prompts[b]], max_new_tokens=LENGTH, uniforms=own
            )
            assert alone.texts == [rollout.turns[turn].responses[b]]


def test_credit_by_hand_of_asks_that_are_not_always_made():
    game = Uneven()
    places = [0, 1, 0, 0, 1]
    # Of `left` in episode 0: asks 0 and 3; of episode 1: ask 0; of episode 2: asks 0, 2 and 3.
    now, later = split_credit(game.earned, places, 0, causal=True, asked=game.made)
    assert (now.tolist(), later.tolist()) == ([1, 11, 21], [3, 0, 23])
    now, later = split_credit(game.earned, places, 2, causal=True, asked=game.made)
    assert (now.tolist(), later.tolist()) == ([0, 0, 25], [0, 0, 0])
    now, later = split_credit(game.earned, places, 3, causal=True, asked=game.made)
    assert (now.tolist(), later.tolist()) == ([7, 0, 27], [0, 0, 29])
    # Of `right`: what came before its first ask counts there, or nowhere.
    now, later = split_credit(game.earned, places, 1, causal=True, asked=game.made)
    assert (now.tolist(), later.tolist()) == ([4, 0, 24], [8, 0, 26 + 28])
    now, _ = split_credit(game.earned, places, 1, causal=False, asked=game.made)
    assert now.tolist() == [2 + 4, 0, 22 + 24]
    for causal in (True, False):
        parts = [
            split_credit(game.earned, places, k, causal=causal, asked=game.made) for k in range(5)
        ]
        total = sum(
            now + later for (now, later), place in zip(parts, places, strict=True) if place == 0
        )
        assert total.tolist() == game.earned[:, :, 0].sum(1).tolist()


def made(kind, config, policies):
    """Return an algorithm with arbitrary critics."""
    by_name = {policy.name: policy for policy in policies.values()}
    critics = {}
    if kind.critic is not None:
        shared = Critic(64, len(PLAN), LENGTH, seed=3, name="critic")
        torch.nn.init.normal_(shared.out.weight, generator=torch.Generator().manual_seed(4))
        critics = dict.fromkeys(by_name, shared)
    controllers = {name: KLController(coef=ETA) for name in by_name}
    return kind(config, by_name, critics, controllers, LENGTH)


@pytest.mark.parametrize("kl", ["exact", "k1"])
@pytest.mark.parametrize("algorithm", ["mappo", "ippo", "reinforce++"])
def test_the_asks_of_a_role_are_one_trajectory(played, algorithm, kl):
    """By brute force: all tokens of a role in an episode in one row, rewards at ends of asks."""
    game, policies, _, rollout = played
    gamma, lam = 0.9, 0.8
    options = {"gamma": gamma, "kl": kl}
    if algorithm != "reinforce++":
        options["gae_lambda"] = lam
    kind = ALGORITHMS[algorithm]
    config = kind.Config(whitening="none", kl_coef=ETA, **options)
    learned = made(kind, config, policies)
    prepared = learned.prepare(rollout)
    checked = 0
    for b in range(3):
        for place, role in enumerate(game.agents):
            turns = [k for k, (who, rows) in enumerate(PLAN) if who == role and b in rows]
            if not turns:
                continue
            steps = []  # reward, KL or k1 of the token, value, advantage, return
            for n, k in enumerate(turns):
                turn, scored, batch = rollout.turns[k], prepared[k].scored, prepared[k].batch
                until = turns[n + 1] if n + 1 < len(turns) else len(PLAN)
                length = int(scored.mask[b].sum())
                scores = learned.policies[turn.policy].score(turn.tokens, batch.ref_hidden)
                for t in range(length):
                    last = t + 1 == length
                    reward = game.earned[b, k:until, place].sum() if last else 0.0
                    ratio = scores.log_probs[b, t] - scores.ref_log_probs[b, t]
                    steps.append(
                        (
                            reward,
                            float(scores.kls[b, t]),
                            float(ratio),
                            float(scored.baselines[b, t]),
                            float(batch.advantages[b, t]),
                            float(batch.returns[b, t]),
                        )
                    )
            rewards, kls, ratios, values, advantages, returns = map(list, zip(*steps, strict=True))
            after = [*kls[1:], 0.0]
            pays = [gamma * k for k in after] if kl == "exact" else ratios
            rewards = [r - ETA * p for r, p in zip(rewards, pays, strict=True)]
            if algorithm == "reinforce++":
                values, lam = [0.0] * len(steps), 1.0
            running = 0.0
            for t in reversed(range(len(steps))):
                following = values[t + 1] if t + 1 < len(steps) else 0.0
                running = rewards[t] + gamma * following - values[t] + gamma * lam * running
                assert advantages[t] == pytest.approx(running, rel=1e-4, abs=1e-4)
                assert returns[t] == pytest.approx(running + values[t], rel=1e-4, abs=1e-4)
                checked += 1
    assert checked == sum(int(turn.tokens.response_mask.sum()) for turn in rollout.turns)


def test_the_advantage_of_a_first_ask_by_hand():
    """Two asks of two tokens: r = 0, 1, 0, 2; V = 1, 2, 3, 4; γ = λ = ½."""
    from agents.maths.advantages import gae, token_rewards

    mask, nothing = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    second, _ = gae(
        token_rewards(torch.tensor([2.0]), nothing, mask),
        torch.tensor([[3.0, 4.0]]),
        mask,
        gamma=0.5,
        lam=0.5,
    )
    # δ = 0 + ½·4 − 3, 2 − 4; A = −1 + ¼·(−2), −2.
    assert second.tolist() == [[-1.5, -2.0]]
    worth = 0.5 * (0.5 * 3 + 0.5 * (3 - 1.5))
    first, _ = gae(
        token_rewards(torch.tensor([1.0 + worth]), nothing, mask),
        torch.tensor([[1.0, 2.0]]),
        mask,
        gamma=0.5,
        lam=0.5,
    )
    # δ = ½·2 − 1, 1 + ½·3 − 2; A = 0 + ¼·A', 0.5 + ¼·(−1.5).
    assert first.tolist() == [[0.03125, 0.125]]


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "ppo"])
def test_every_algorithm_learns_from_uneven_episodes_or_says_why_not(played, algorithm):
    _, policies, _, rollout = played
    kind = ALGORITHMS[algorithm]
    if algorithm in ("vine", "archer"):
        return  # they play on in our own game, with one round
    rollout = replace(rollout, gold=["a", "b", "a"])
    labels = {"good_label": "a", "bad_label": "b"} if algorithm == "rcrl" else {}
    options = {**kind.smoke, **labels, "group_size": 1, "kl_coef": ETA}
    learned = made(kind, kind.Config(**options), policies)
    for turn, prepared in zip(rollout.turns, learned.prepare(rollout), strict=True):
        assert prepared.scored.mask.equal(turn.tokens.response_mask)
        if prepared.batch is not None:
            assert torch.isfinite(learned.loss(turn.policy, prepared.batch).loss)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "gspo"])
def test_groups_are_asked_alike(played, algorithm):
    _, policies, _, rollout = played
    kind = ALGORITHMS[algorithm]
    with pytest.raises(ValueError, match="asked alike with group_size 3") as error:
        made(kind, kind.Config(group_size=3), policies).prepare(rollout)
    assert "\n" not in str(error.value)


def test_a_value_cannot_be_handed_over_to_nobody(played):
    _, policies, _, rollout = played
    kind = ALGORITHMS["mappo"]
    with pytest.raises(ValueError, match="handover sampled where some episodes end"):
        made(kind, kind.Config(handover="value"), policies).prepare(rollout)


def test_a_game_that_asks_more_often_than_it_said_is_refused(played):
    game, policies, uniforms, _ = played
    short = {role: numbers[:, : 2 * LENGTH] for role, numbers in uniforms.items()}
    with pytest.raises(ValueError, match="at most max_asks=2 times"):
        ask(game, policies, short)


def test_our_own_game_is_one():
    backbone = tiny_backbone(names=("llm_0", "llm_1"), moved=0.2)
    games = cory_env.vector_env(2, "toy", rounds=2, tokenizer=backbone.tokenizer, max_new_tokens=2)
    assert games.max_asks == 2
    policies = {
        role: LLMPolicy(name=f"llm_{i}", backbone=backbone) for i, role in enumerate(games.agents)
    }
    uniforms = {
        role: draw_uniforms(2, 4, torch.Generator().manual_seed(i))
        for i, role in enumerate(policies)
    }
    examples = [Example("aba", "aba"), Example("bbb", "bbb")]
    rollout = collect(games, policies, uniforms, examples=examples)
    assert [turn.role for turn in rollout.turns] == ["pioneer_0", "observer_0"] * 2
    for number, turn in enumerate(rollout.turns):
        assert turn.prompts == [games.rules.prompt(state, number) for state in rollout.states]
        assert turn.responses == [state.responses[number].text for state in rollout.states]
        np.testing.assert_allclose(turn.task_rewards.numpy(), games.turn_rewards[:, number])
