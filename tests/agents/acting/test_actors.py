"""Who acts: distributions over legal actions, their draws, and what is remembered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from agents.acting.actors import RandomActor, ScoredPolicy, Step, WritingPolicy
from tests.agents.policies.test_scored import letter_policy

ACTIONS = ("left", "down", "up")
LEGAL = [None, np.array([True, False, True]), np.array([False, True, False])]
PROMPTS = ["Row 1", "Row 2", "Row 1"]


def generators(count: int, seed: int = 0):
    return [np.random.default_rng([seed, n]) for n in range(count)]


def distribution(policy, prompt, legal) -> list[float]:
    """Return the softmax of scores over legal actions, written out."""
    scores = policy.score_texts([prompt], [f" {a}" for a in ACTIONS], normalise="word")[0].tolist()
    exps = [
        math.exp(s) if legal is None or ok else 0.0
        for s, ok in zip(scores, [True] * 3 if legal is None else legal, strict=True)
    ]
    return [e / sum(exps) for e in exps]


def test_actions_are_drawn_from_the_softmax_over_the_legal_ones():
    policy = letter_policy(temperature=3.0)
    actor = ScoredPolicy(policy, ACTIONS, "word")
    count = 4000
    for prompt, legal in zip(PROMPTS, LEGAL, strict=True):
        choices = actor.act([prompt] * count, [legal] * count, generators(count))
        expected = distribution(policy, prompt, legal)
        for action, p in enumerate(expected):
            found = np.mean([choice.action == action for choice in choices])
            # Five standard errors: one draw in 10^6 fails, and the draws are the same every time.
            assert abs(found - p) <= 5 * math.sqrt(p * (1 - p) / count) + 1e-9
        for choice in choices[:20]:
            assert choice.log_prob == pytest.approx(math.log(expected[choice.action]), abs=1e-5)
        greedy = actor.act([prompt], [legal], generators(1), greedy=True)[0]
        assert greedy.action == int(np.argmax(expected))


def test_what_is_learnt_of_is_what_was_drawn_from():
    policy = letter_policy()
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(0)
            )
    actor = ScoredPolicy(policy, ACTIONS, "token")
    choices = actor.act(PROMPTS, LEGAL, generators(3))
    steps = [
        Step(prompt=p, legal=m, choice=c) for p, m, c in zip(PROMPTS, LEGAL, choices, strict=True)
    ]
    weighed = actor.weigh(steps)
    drawn = torch.tensor([c.log_prob for c in choices])
    torch.testing.assert_close(weighed.log_probs, drawn, atol=1e-5, rtol=0)
    # Twins: entropy and KL as sums over the legal actions.
    reference = letter_policy()
    reference = ScoredPolicy(reference, ACTIONS, "token")
    for n, (prompt, legal) in enumerate(zip(PROMPTS, LEGAL, strict=True)):
        allowed = [0, 1, 2] if legal is None else legal.nonzero()[0].tolist()
        scores = [
            a.policy.score_texts([prompt], [f" {x}" for x in ACTIONS], normalise="token")[0]
            for a in (actor, reference)
        ]
        p, q = (s[allowed].softmax(-1).tolist() for s in scores)
        entropy = -sum(x * math.log(x) for x in p)
        kl = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        assert float(weighed.entropies[n]) == pytest.approx(entropy, abs=1e-5)
        assert float(weighed.kls[n]) == pytest.approx(kl, abs=1e-5)
    assert float(weighed.kls[0]) > 1e-4  # it has moved
    assert float(weighed.entropies[2]) == pytest.approx(0.0, abs=1e-6)  # one legal action


def test_a_state_that_was_met_costs_nothing_until_the_weights_change(monkeypatch):
    policy = letter_policy()
    actor, rows = ScoredPolicy(policy, ACTIONS, "word"), []
    hidden = type(policy.backbone).hidden

    def counted(self, name, ids, *rest):
        rows.append(len(ids))
        return hidden(self, name, ids, *rest)

    monkeypatch.setattr(type(policy.backbone), "hidden", counted)
    before = actor.act(["Row 1"] * 64, [None] * 64, generators(64))
    actor.act(["Row 1"] * 64, [None] * 64, generators(64))
    assert len(rows) == 1
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.mul_(1.1)
    actor.forget()
    after = actor.act(["Row 1"] * 64, [None] * 64, generators(64))
    assert len(rows) == 2
    assert before[0].log_prob != after[0].log_prob


def test_actions_that_the_model_cannot_tell_apart_are_refused():
    policy = letter_policy()
    policy.backbone.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    actor = ScoredPolicy(policy, ("Up", "down", "up"), "word")
    with pytest.raises(ValueError, match="different tokens, got the same for 'Up' and 'up'"):
        actor.token_counts("Row 1")


def test_chance_takes_each_legal_action_alike():
    count, legal = 6000, np.array([True, False, True, True])
    choices = RandomActor(4).act([""] * count, [legal] * count, generators(count))
    counts = np.bincount([c.action for c in choices], minlength=4)
    assert counts[1] == 0
    assert abs(counts[[0, 2, 3]] - 2000).max() < 5 * math.sqrt(count * 2 / 9)
    assert choices[0].log_prob == pytest.approx(-math.log(3))


def test_what_is_written_is_weighed_as_it_was_sampled():
    policy = letter_policy()
    actor = WritingPolicy(policy, 6)
    choices = actor.act(PROMPTS, [None] * 3, generators(3))
    assert actor.act(PROMPTS[1:2], [None], generators(3)[1:2])[0].action == choices[1].action
    steps = [Step(prompt=p, legal=None, choice=c) for p, c in zip(PROMPTS, choices, strict=True)]
    weighed = actor.weigh(steps)
    drawn = torch.tensor([c.log_prob for c in choices])
    torch.testing.assert_close(weighed.log_probs, drawn, atol=1e-4, rtol=0)
    torch.testing.assert_close(weighed.kls, torch.zeros(3), atol=1e-4, rtol=0)
    lengths = [len(c.tokens) for c in choices]
    assert max(lengths) <= 6
    assert all(c.log_prob < -len(c.tokens) for c in choices)  # of 97 about equal ones each
