"""The learner's foundation: on a game small enough to enumerate, the expected gradient is the exact
one.

The game: one query, two letters, responses of at most two tokens of a vocabulary of six, so 31
responses and 961 joint outcomes. The objective of policy i is J_i = Σ p(a1) p(a2|a1) (R_i − η Σ_t
KL_t); autograd differentiates the enumerated sum, and finite differences check that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from agents.algorithms import ALGORITHMS, Algorithm
from agents.algorithms.kl import KLController
from agents.config.train import TrainConfig
from agents.models.critic import Critic
from agents.policies.llm import LLMPolicy
from agents.rollouts.credit import split_credit
from agents.types import Branches, Generation, Prefix, Rollout, TrainBatch, Turn
from cory_env import Example
from cory_env.game import GameState, earnings, share
from cory_env.tasks.toy import ToyTask
from cory_env.types import Response
from tests.agents.fakes import (
    every_response,
    odd_reward,
    reference_hidden,
    tiny_backbone,
    token_batch,
)

ETA, LENGTH = 0.7, 2


class Enumeration:
    """All outcomes of the game, with the exact objective of each policy as a function of the
    weights."""

    def __init__(
        self,
        agents: int,
        sharing: str | float = "collective",
        temperature: float = 1.0,
        length: int = LENGTH,
        solo: bool = False,
        rounds: int = 1,
    ):
        self.length = length
        self.turns = [seat for _ in range(rounds) for seat in range(agents)]
        names = tuple(f"llm_{i}" for i in range(agents))
        self.backbone = tiny_backbone(names=names, moved=0.15)
        self.task, self.sharing, self.agents = ToyTask(length=length, symbols=2), sharing, agents
        self.policies = {
            name: LLMPolicy(name=name, backbone=self.backbone, temperature=temperature)
            for name in names
        }
        eos = int(self.backbone.tokenizer.eos_token_id)
        single = every_response(self.task.tokenizer.vocab_size, eos, length)
        texts = self.backbone.tokenizer.batch_decode(single, skip_special_tokens=True)
        outcomes = list(product(range(len(single)), repeat=len(self.turns)))
        self.prompts = [[self.task.pioneer_prompt("ab")] * len(outcomes)]
        for turn in range(1, len(self.turns)):
            heard = [[texts[i] for i in o[:turn]] for o in outcomes]
            self.prompts.append([self.task.observer_prompt("ab", texts) for texts in heard])
        self.texts = [[texts[o[turn]] for o in outcomes] for turn in range(len(self.turns))]
        self.tokens = [
            token_batch(self.backbone, self.prompts[turn], [single[o[turn]] for o in outcomes])
            for turn in range(len(self.turns))
        ]
        self.ref_hidden = [
            reference_hidden(
                self.backbone,
                token_batch(
                    self.backbone,
                    self.prompts[0 if solo else turn],
                    [single[o[turn]] for o in outcomes],
                ),
            )
            for turn in range(len(self.turns))
        ]
        self.task_rewards = np.stack([odd_reward(None, texts) for texts in self.texts], axis=1)

    def scores(self):
        policies = list(self.policies.values())
        return [
            policies[seat].score(self.tokens[turn], self.ref_hidden[turn])
            for turn, seat in enumerate(self.turns)
        ]

    def probabilities(self) -> torch.Tensor:
        """Return the probability of each joint outcome, differentiably."""
        return sum(s.log_probs.sum(1) for s in self.scores()).exp()

    def objective(self, seat: int) -> torch.Tensor:
        shares = share(self.task_rewards, self.sharing, self.agents)
        paid = torch.tensor(shares[:, seat], dtype=torch.float32)
        kls = sum(s.kls.sum(1) for s in self.scores()[seat :: self.agents])
        return (self.probabilities() * (paid - ETA * kls)).sum()

    def rollout(self, causal: bool) -> Rollout:
        turns = []
        earned = earnings(self.task_rewards, self.sharing, self.agents)
        for turn, seat in enumerate(self.turns):
            now, later = split_credit(earned, self.turns, turn, causal=causal)
            tokens = self.tokens[turn]
            turns.append(
                Turn(
                    role=f"seat_{seat}",
                    policy=list(self.policies)[seat],
                    prompts=self.prompts[turn],
                    responses=self.texts[turn],
                    tokens=Generation(
                        **{
                            f: getattr(tokens, f)
                            for f in ("prompt_ids", "prompt_mask", "response_ids", "response_mask")
                        },
                        sampled_log_probs=torch.zeros(tokens.response_ids.shape),
                    ),
                    task_rewards=torch.tensor(self.task_rewards[:, turn]),
                    rewards_now=torch.tensor(now, dtype=torch.float32),
                    rewards_later=torch.tensor(later, dtype=torch.float32),
                )
            )
        states = [
            GameState(
                Example("ab", None),
                tuple(f"seat_{seat}" for seat in self.turns),
                tuple(Response(said[row], (), truncated=False) for said in self.texts),
            )
            for row in range(len(self.task_rewards))
        ]
        return Rollout(turns=tuple(turns), states=states)

    def learner(self, algorithm: str, **options) -> Algorithm:
        """Return an algorithm that leaves advantages as they are."""
        kind = ALGORITHMS[algorithm]
        values = {"whitening": "none", "normalization": "constant", "group_size": 1, **options}
        if kind.critic is not None:
            values["gae_lambda"] = 1.0
        values |= {"algorithm": algorithm, "observers": self.agents - 1, "kl_coef": ETA}
        config = TrainConfig(**values).algorithm_config
        # Arbitrary values: with λ = 1 they are a baseline, and no baseline may change the
        # expectation.
        critics = {}
        if kind.critic is not None:
            critics = {
                name: Critic(64, len(self.turns), self.length, seed=3, name=f"critic_{name}")
                for name in self.policies
            }
        for critic in critics.values():
            torch.nn.init.normal_(critic.out.weight, generator=torch.Generator().manual_seed(4))
        controllers = {name: KLController(coef=ETA) for name in self.policies}
        return kind(config, self.policies, critics, controllers, self.length)

    def expected_gradient(self, algorithm: str, seat: int, **options) -> torch.Tensor:
        """Return the gradient of the expected objective that one update of the algorithm
        follows."""
        learner = self.learner(algorithm, **options)
        name = list(self.policies)[seat]
        rollout = self.rollout(learner.config.credit == "causal")
        explored = learner.explore(rollout, ExactSampler(self))
        prepared = learner.prepare(rollout, explored)
        chances = self.probabilities().detach()
        return sum(
            self.gradient(learner, name, prepared[turn].batch, chances)
            for turn in range(seat, len(self.turns), self.agents)
        )

    def gradient(
        self, learner: Algorithm, name: str, batch: TrainBatch, probabilities: torch.Tensor
    ) -> torch.Tensor:
        """Return the ascent direction of a batch whose episodes are drawn with probabilities."""
        weights = batch.weights * (probabilities * len(probabilities))[:, None]
        parameters = list(self.backbone.parameters(name).values())
        loss = learner.loss(name, replace(batch, weights=weights)).loss
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return -self.length * flatten(grads, parameters)

    def exact_gradient(self, seat: int) -> torch.Tensor:
        parameters = list(self.backbone.parameters(list(self.policies)[seat]).values())
        return flatten(
            torch.autograd.grad(self.objective(seat), parameters, allow_unused=True), parameters
        )


class ExactSampler:
    """Branches that are worth what their states are in the mean over all outcomes."""

    def __init__(self, game: Enumeration):
        self.game = game
        self.chances = game.probabilities().detach().double()
        self.said = [
            tokens.response_ids.masked_fill(~tokens.response_mask, -1) for tokens in game.tokens
        ]
        self.shares = [
            torch.tensor(earnings(game.task_rewards, game.sharing)[:, seat:].sum(1))
            for seat in range(game.agents)
        ]

    def branch(self, prefixes: Sequence[Prefix], k: int) -> Branches:
        means = torch.stack([self.value(prefix) for prefix in prefixes])[:, None].float()
        return Branches(task_rewards=means, rewards=means)

    def value(self, prefix: Prefix) -> torch.Tensor:
        """Return what each agent has to expect of a state."""
        chances = self.chances * self.alike(prefix)
        return chances @ self.shares[prefix.seat] / chances.sum()

    def alike(self, prefix: Prefix) -> torch.Tensor:
        """Return which outcomes pass through a state."""
        alike = torch.ones(len(self.chances), dtype=torch.bool)
        for seat, ids in enumerate(self.said[: prefix.seat + 1]):
            known = ids[:, : prefix.cut] if seat == prefix.seat else ids
            alike &= (known == known[prefix.row]).all(1)
        return alike


def flatten(grads, parameters) -> torch.Tensor:
    return torch.cat(
        [
            torch.zeros(p.numel()) if g is None else g.flatten()
            for g, p in zip(grads, parameters, strict=True)
        ]
    )


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def test_the_enumerated_outcomes_are_all_there_are():
    assert float(Enumeration(2).probabilities().sum().detach()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("seat", [0, 1])
def test_autograd_of_the_enumerated_objective_agrees_with_finite_differences(seat):
    game = Enumeration(2)
    exact = game.exact_gradient(seat)
    parameters = list(game.backbone.parameters(list(game.policies)[seat]).values())
    direction = exact / exact.norm()
    step = 3e-3  # float32: smaller steps drown in rounding, larger ones in curvature

    def moved(sign: int) -> float:
        with torch.no_grad():
            start = 0
            for p in parameters:
                p += sign * step * direction[start : start + p.numel()].view_as(p)
                start += p.numel()
            return float(game.objective(seat))

    up = moved(1)
    moved(-1)
    down = moved(-1)
    assert (up - down) / (2 * step) == pytest.approx(float(exact.norm()), rel=5e-3)


@pytest.mark.parametrize("kl", ["exact", "k1"])
@pytest.mark.parametrize("credit", ["causal", "shared"])
@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("algorithm", ["mappo", "ippo", "reinforce++"])
def test_expected_gradient_is_the_exact_gradient(algorithm, seat, credit, kl):
    game = Enumeration(2)
    found = game.expected_gradient(algorithm, seat, credit=credit, kl=kl)
    assert relative_error(found, game.exact_gradient(seat)) < 1e-3  # sums of 961 float32 terms


@pytest.mark.parametrize("kl", ["exact", "k1"])
def test_expected_gradient_of_the_single_agent_baseline_is_exact(kl):
    game = Enumeration(1)
    assert relative_error(game.expected_gradient("ppo", 0, kl=kl), game.exact_gradient(0)) < 1e-3


@pytest.mark.parametrize("algorithm", ["mappo", "vine"])
@pytest.mark.parametrize("sharing", ["mean", "individual", -0.5])
def test_expected_gradient_is_exact_however_rewards_are_shared(sharing, algorithm):
    game = Enumeration(2, sharing=sharing)
    for seat in (0, 1):
        found = game.expected_gradient(algorithm, seat, reward_sharing=str(sharing))
        assert relative_error(found, game.exact_gradient(seat)) < 1e-3


@pytest.mark.parametrize("kl", ["exact", "k1"])
@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize(
    "where", [{"segment": "tokens:1"}, {"segment": "tokens:9"}, {"at": "handover"}]
)
def test_expected_gradient_of_branches_is_exact_wherever_they_begin(where, seat, kl):
    game = Enumeration(2)
    found = game.expected_gradient("vine", seat, kl=kl, **where)
    assert relative_error(found, game.exact_gradient(seat)) < 1e-3


@pytest.mark.parametrize("kl", ["exact", "k1"])
@pytest.mark.parametrize("algorithm", ["mappo", "ippo"])
def test_expected_gradient_is_exact_if_the_observer_is_held_to_the_solo_prompt(algorithm, kl):
    own, solo = Enumeration(2), Enumeration(2, solo=True)
    assert relative_error(own.exact_gradient(1), solo.exact_gradient(1)) > 0.02, "no difference"
    found = solo.expected_gradient(algorithm, 1, kl=kl, kl_prompt="solo")
    assert relative_error(found, solo.exact_gradient(1)) < 1e-3


def test_expected_gradient_is_exact_at_another_temperature():
    game = Enumeration(2, temperature=1.7)
    found = game.expected_gradient("mappo", 0, temperature=1.7)
    assert relative_error(found, game.exact_gradient(0)) < 1e-3


@pytest.mark.parametrize("algorithm", ["happo", "rloo"])
@pytest.mark.parametrize("seat", [0, 1])
def test_the_gradient_is_exact_before_anybody_has_moved_and_without_a_group(algorithm, seat):
    game = Enumeration(2)
    found = game.expected_gradient(algorithm, seat)
    assert relative_error(found, game.exact_gradient(seat)) < 1e-3


@pytest.mark.parametrize(
    ("algorithm", "credit", "kl"),
    [
        ("mappo", "causal", "exact"),
        ("mappo", "shared", "k1"),
        ("ippo", "causal", "k1"),
        ("reinforce++", "shared", "exact"),
        ("rloo", "causal", "exact"),
    ],
)
def test_expected_gradient_of_two_rounds_is_exact(algorithm, credit, kl):
    game = Enumeration(2, length=1, rounds=2)
    for seat in (0, 1):
        found = game.expected_gradient(algorithm, seat, credit=credit, kl=kl)
        assert relative_error(found, game.exact_gradient(seat)) < 1e-3


@pytest.mark.parametrize("sharing", ["last", -0.5])
def test_expected_gradient_of_two_rounds_is_exact_however_rewards_are_shared(sharing):
    game = Enumeration(2, length=1, rounds=2, sharing=sharing)
    for seat in (0, 1):
        found = game.expected_gradient("mappo", seat, reward_sharing=str(sharing))
        assert relative_error(found, game.exact_gradient(seat)) < 1e-3


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce++"])
def test_expected_gradient_of_an_agent_that_answers_three_times_is_exact(algorithm):
    game = Enumeration(1, length=1, rounds=3)
    found = game.expected_gradient(algorithm, 0)
    assert relative_error(found, game.exact_gradient(0)) < 1e-3


def pairs_of_one_agent(game: Enumeration, algorithm: str, **options) -> torch.Tensor:
    """Return the expected gradient over all groups of two independent episodes."""
    learner = game.learner(algorithm, group_size=2, **options)
    single = game.rollout(causal=True)
    (turn,) = single.turns
    count = len(turn.responses)
    rows = [row for i in range(count) for j in range(count) for row in (i, j)]
    index = torch.tensor(rows)
    pairs = replace(
        turn,
        prompts=[turn.prompts[i] for i in rows],
        responses=[turn.responses[i] for i in rows],
        tokens=turn.tokens.take(index),
        **{f: getattr(turn, f)[index] for f in ("task_rewards", "rewards_now", "rewards_later")},
    )
    batch = learner.prepare(replace(single, turns=(pairs,)))[0].batch
    chances = game.probabilities().detach()
    of_pair = (chances[:, None] * chances[None, :]).flatten().repeat_interleave(2) / 2
    return game.gradient(learner, "llm_0", batch, of_pair)


@pytest.mark.parametrize("kl", ["exact", "k1"])
def test_leaving_one_out_keeps_the_gradient_exact(kl):
    game = Enumeration(1)
    found = pairs_of_one_agent(game, "rloo", kl=kl)
    assert relative_error(found, game.exact_gradient(0)) < 1e-3


def test_a_mean_over_the_whole_group_shrinks_the_policy_gradient_by_its_own_share():
    game = Enumeration(1)
    both = pairs_of_one_agent(game, "dr_grpo", kl="k1")
    assert relative_error(2 * both, game.exact_gradient(0)) < 1e-3


def test_dividing_by_the_deviation_of_the_group_turns_the_gradient():
    game = Enumeration(1)
    exact, found = game.exact_gradient(0), pairs_of_one_agent(game, "grpo", kl="k1")
    cosine = float(torch.nn.functional.cosine_similarity(exact, found, dim=0))
    assert 0.5 < cosine < 0.999


def test_happo_gives_the_observer_the_gradient_against_the_pioneer_that_has_learnt():
    errors = {}
    for algorithm in ("happo", "mappo"):
        game = Enumeration(2)
        learner, before = game.learner(algorithm), game.probabilities().detach()
        prepared = learner.prepare(game.rollout(causal=True))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in game.backbone.parameters("llm_0").values():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        learner.after_update("llm_0", [0], prepared)
        found = game.gradient(learner, "llm_1", prepared[1].batch, before)
        errors[algorithm] = relative_error(found, game.exact_gradient(1))
    assert errors["happo"] < 1e-3
    assert errors["mappo"] > 0.02, "the pioneer has not moved far enough to tell"


def test_of_the_penalties_in_the_loss_only_k2_has_the_gradient_of_the_kl_of_its_state():
    """With one token a response there are no later states, so k2 misses nothing."""
    game = Enumeration(1, length=1)
    exact = game.exact_gradient(0)
    errors = {
        kl: relative_error(game.expected_gradient("ppo", 0, kl=kl), exact)
        for kl in ("exact", "k1", "k2", "k3", "detached")
    }
    assert max(errors[kl] for kl in ("exact", "k1", "k2")) < 1e-3
    assert min(errors[kl] for kl in ("k3", "detached")) > 0.02


@pytest.mark.parametrize("kl", ["k2", "k3", "detached"])
def test_penalties_that_do_not_reach_later_states_or_their_own_are_biased(kl):
    game = Enumeration(1)
    error = relative_error(game.expected_gradient("ppo", 0, kl=kl), game.exact_gradient(0))
    assert error > 0.02
