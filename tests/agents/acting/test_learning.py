"""PPO over actions: returns across an agent's own actions, and the gradient of what is earned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.acting.actors import Choice, ScoredPolicy, Step, features
from agents.acting.episodes import Trajectory
from agents.acting.learning import ActorLearner, Batch
from agents.config.environment import EnvConfig
from tests.agents.policies.test_scored import letter_policy

ACTIONS = ("left", "down", "up")


def learner(**values) -> ActorLearner:
    config = EnvConfig(env="gym:Match-v0", **{"gamma": 0.9, "gae_lambda": 0.5, **values})
    actor = ScoredPolicy(letter_policy(), ACTIONS, "word")
    made = ActorLearner(config, actor, ["agent_0", "agent_1"], 0)
    torch.nn.init.normal_(made.critic.out.weight, generator=torch.Generator().manual_seed(0))
    return made


def step(prompt: str, action: int, reward: float, log_prob: float = -1.0) -> Step:
    choice = Choice(action, log_prob, (1,))
    return Step(prompt=prompt, legal=None, choice=choice, reward=reward)


def test_advantages_are_those_of_each_trajectory_alone():
    made = learner()
    cut = Trajectory(agent="agent_1", last_text="Row 9")
    cut.steps = [step("Row 1", 0, 1.0), step("Row 2", 1, 0.0), step("Row 1", 2, -1.0)]
    whole = Trajectory(agent="agent_0", steps=[step("Row 3", 0, 2.0)])
    batch = made.prepare([cut, whole])

    def value(text: str, seat: int) -> float:
        states = features(made.actor.policy, [text])
        return float(made.critic(states[:, None], torch.tensor([seat])).detach())

    values = [value(s.prompt, 1) for s in cut.steps] + [value("Row 9", 1)]
    rewards, expected = [1.0, 0.0, -1.0], []
    for t in range(3):
        total = 0.0
        for k in range(t, 3):
            total += 0.45 ** (k - t) * (rewards[k] + 0.9 * values[k + 1] - values[k])
        expected.append(total)
    expected.append(2.0 - value("Row 3", 0))
    returns = [a + v for a, v in zip(expected, [*values[:3], value("Row 3", 0)], strict=True)]
    torch.testing.assert_close(batch.returns, torch.tensor(returns), atol=1e-5, rtol=1e-5)
    white = (np.array(expected) - np.mean(expected)) / np.std(expected)
    torch.testing.assert_close(batch.advantages.double(), torch.tensor(white), atol=1e-4, rtol=1e-4)
    assert batch.seats.tolist() == [1, 1, 1, 0]
    assert len({round(v, 6) for v in values}) == 3  # Row 1 twice: the critic tells states apart
    with_others = [s.prompt for s in batch.steps]
    assert with_others == ["Row 1", "Row 2", "Row 1", "Row 3"]


def test_the_expected_gradient_is_that_of_what_is_earned():
    # One state, three actions: Σ_a π(a) ∇loss(a) = -∇ Σ_a π(a) A(a) + η ∇KL - c ∇H.
    made = learner(kl_coef=0.3, entropy_coef=0.2, clip=0.2)
    policy, advantages = made.actor.policy, torch.tensor([1.0, -2.0, 0.5])
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    candidates = [f" {action}" for action in ACTIONS]
    parameters = list(policy.parameters().values())
    log_probs = policy.score_texts(["Row 1"], candidates, normalise="word")[0].log_softmax(-1)
    reference = ScoredPolicy(letter_policy(), ACTIONS, "word").policy
    with torch.no_grad():
        ref = reference.score_texts(["Row 1"], candidates, normalise="word")[0].log_softmax(-1)
    probs = log_probs.exp()
    kl, entropy = (probs * (log_probs - ref)).sum(), -(probs * log_probs).sum()
    objective = -(probs * advantages).sum() + 0.3 * kl - 0.2 * entropy
    expected = torch.autograd.grad(objective, parameters, retain_graph=True)
    total = [torch.zeros_like(p) for p in parameters]
    for action in range(3):
        batch = Batch(
            steps=[step("Row 1", action, 0.0, float(log_probs[action]))],
            features=torch.zeros(1, 64), seats=torch.zeros(1, dtype=torch.long),
            old_log_probs=log_probs[action : action + 1].detach(),
            advantages=advantages[action : action + 1],
            values=torch.zeros(1), returns=torch.zeros(1),
        )  # fmt: skip
        loss, metrics = made.loss(batch, torch.tensor([0]))
        assert float(metrics["approx_kl"]) == pytest.approx(0.0, abs=1e-6)
        assert float(metrics["clip_fraction"]) == 0.0
        for sum_, part in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            sum_ += float(probs[action]) * part
    for found, one in zip(total, expected, strict=True):
        torch.testing.assert_close(found, one, atol=1e-6, rtol=1e-3)
    assert max(float(one.abs().max()) for one in expected) > 1e-3


def test_a_ratio_outside_the_clip_range_has_no_gradient():
    made = learner(entropy_coef=0.0, clip=0.2)
    scores = made.actor.weigh([step("Row 1", 0, 0.0)])
    old = float(scores.log_probs[0]) - 0.5  # the ratio is e^0.5 > 1.2
    batch = Batch(
        steps=[step("Row 1", 0, 0.0, old)], features=torch.zeros(1, 64),
        seats=torch.zeros(1, dtype=torch.long), old_log_probs=torch.tensor([old]),
        advantages=torch.tensor([1.0]), values=torch.zeros(1), returns=torch.zeros(1),
    )  # fmt: skip
    loss, metrics = made.loss(batch, torch.tensor([0]))
    grads = torch.autograd.grad(loss, list(made.actor.policy.parameters().values()))
    assert float(metrics["clip_fraction"]) == 1.0
    assert all(float(grad.abs().max()) == 0.0 for grad in grads)


def test_learning_stops_once_the_policy_is_too_far_from_who_acted():
    def run(limit):
        made = learner(max_step_kl=limit, learning_rate=0.01, epochs=8, minibatch_size=2)
        steps, calls = [step("Row 1", a, float(a)) for a in range(3)], []
        drawn = made.actor.weigh(steps).log_probs.tolist()
        steps = [step("Row 1", a, float(a), lp) for a, lp in enumerate(drawn)]
        original = made.step
        made.step = lambda batch, rows: calls.append(original(batch, rows)) or calls[-1]
        made.learn(made.prepare([Trajectory(agent="agent_0", steps=steps)]), torch.Generator())
        return [call["approx_kl"] for call in calls]

    free, held = run(None), run(0.05)
    assert len(free) == 16
    assert len(held) < 16
    assert held[-1] > 0.05 >= max(held[:-1])
