"""The critic of whole answers: its losses by hand, its lagged copies, and exact values."""

from __future__ import annotations

import copy

import pytest
import torch

from agents.algorithms.archer import _features
from agents.models.turn_critic import TurnCritic
from tests.agents.algorithms.test_gradients import Enumeration

SEATS, WIDTH = 3, 5
CPU = torch.device("cpu")


def moved(learning_rate: float = 0.0) -> TurnCritic:
    """Return a critic whose eight networks all differ."""
    critic = TurnCritic((WIDTH, SEATS, 4), learning_rate, CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*critic.networks.parameters(), *critic.lagged.parameters()]:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return critic


def drawn(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, SEATS, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_losses_are_those_of_each_twin_turn_by_turn():
    critic, players = moved(), torch.tensor([2, 0, 3])
    states, actions, asked, answered = drawn(4, 1), drawn(4, 2), drawn(6, 3), drawn(6, 4)
    rewards = drawn(4, 5)[..., 0]

    def value(networks, name, twin, features, row, seat):
        told = torch.zeros(SEATS + 4)
        told[seat] = told[SEATS + int(players[seat])] = 1
        x = features[row, seat]
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        return networks[name].twins[twin](torch.cat([x, told]))[0]

    q_loss = v_loss = torch.tensor(0.0)
    with torch.no_grad():
        for twin in range(2):
            for seat in range(SEATS):
                for row in range(4):
                    earned = rewards[row, seat]
                    if seat + 1 < SEATS:
                        earned = earned + value(critic.lagged, "v", twin, states, row, seat + 1)
                    found = value(critic.networks, "q", twin, actions, row, seat)
                    q_loss = q_loss + (found - earned) ** 2 / (4 * SEATS)
                for row in range(6):
                    worth = value(critic.lagged, "q", twin, answered, row, seat)
                    found = value(critic.networks, "v", twin, asked, row, seat)
                    v_loss = v_loss + (found - worth) ** 2 / (6 * SEATS)
        lower = min(value(critic.networks, "q", twin, actions, 1, 2) for twin in range(2))
    assert critic.q(actions, players)[1, 2] == pytest.approx(float(lower), rel=1e-4)
    found = critic.step((states, actions, rewards), (asked, answered), players, 0.5)
    torch.testing.assert_close(found, torch.stack([q_loss, v_loss]), rtol=1e-4, atol=1e-6)


def test_the_first_losses_are_what_was_paid():
    critic = TurnCritic((WIDTH, SEATS, 4), 1e-3, CPU)
    rewards = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, -4.0]])
    first = critic.step((drawn(2, 1), drawn(2, 2), rewards), (drawn(2, 3),) * 2, torch.arange(3), 0)
    biases = [twin[2].bias.item() for name in "qv" for twin in critic.lagged[name].twins]
    q1, q2, v1, v2 = biases  # zero weights: the values of all states
    expected = sum(
        sum((q - r - v) ** 2 for r in (1, 2, 0, 0)) + sum((q - r) ** 2 for r in (3, -4))
        for q, v in ((q1, v1), (q2, v2))
    )
    assert first[0] == pytest.approx(expected / 6, rel=1e-5)
    assert first[1] == pytest.approx((v1 - q1) ** 2 + (v2 - q2) ** 2, rel=1e-5)


@pytest.mark.parametrize("polyak", [0.0, 0.25, 1.0])
def test_lagged_copies_follow_by_their_share_and_have_no_gradient(polyak):
    critic = moved(learning_rate=0.1)
    before = copy.deepcopy(critic.lagged)
    critic.step((drawn(4, 1), drawn(4, 2), drawn(4, 5)[..., 0]), (drawn(2, 3),) * 2,
                torch.arange(3), polyak)  # fmt: skip
    parts = (critic.lagged, before, critic.networks)
    for new, old, own in zip(*(part.parameters() for part in parts), strict=True):
        torch.testing.assert_close(new, (1 - polyak) * old + polyak * own)
        assert new.grad is None
        assert not torch.equal(old, own)


def test_tensors_hold_all_that_the_next_step_depends_on():
    critic, players = moved(learning_rate=0.01), torch.arange(3)
    rest = (drawn(4, 1), drawn(4, 2), drawn(4, 5)[..., 0]), (drawn(2, 3), drawn(2, 4)), players
    critic.step(*rest, 0.1)
    saved = {key: tensor.clone() for key, tensor in critic.tensors().items()}
    critic.step(*rest, 0.1)
    other = TurnCritic((WIDTH, SEATS, 4), 0.01, CPU)
    other.load_tensors(saved)
    other.step(*rest, 0.1)
    for key, tensor in critic.tensors().items():
        assert torch.equal(tensor, other.tensors()[key]), key


class TwoTurns:
    """All 36 outcomes of two agents that say one token, with policies that are known exactly."""

    def __init__(self):
        self.game = game = Enumeration(2, length=1)
        parts = [_features(game.backbone, tokens) for tokens in game.tokens]
        self.states, self.actions = (torch.stack(p, dim=1) for p in zip(*parts, strict=True))
        self.rewards = torch.tensor(game.task_rewards, dtype=torch.float32)

    def exact(self, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Q and V, (36, 2), of policies that say each pair of answers so often, (36,)."""
        q, v = torch.zeros(2, 36, 2)
        rewards, counts = self.rewards.view(6, 6, 2), counts.view(6, 6).float()
        for first in range(6):
            chances = counts[first] / counts[first].sum()
            worth = sum(chances[second] * rewards[first, second, 1] for second in range(6))
            for second in range(6):
                q[6 * first + second] = torch.tensor(
                    [rewards[first, second, 0] + worth, rewards[first, second, 1]]
                )
                v[6 * first + second, 1] = worth
        v[:, 0] = sum(counts[i].sum() / counts.sum() * q[6 * i, 0] for i in range(6))
        return q, v

    def policies(self, seed: int) -> torch.Tensor:
        """Return how often two policies say each pair of answers, (36,)."""
        counts = torch.randint(1, 5, (6, 6), generator=torch.Generator().manual_seed(seed))
        # Behind `=` and `==` the hidden states are the same, for attention to the same is the same:
        # one state to the critic, in which the policy must be one, too.
        alike = torch.cdist(self.states[::6, 1], self.states[::6, 1]) < 1e-3
        return counts[alike.int().argmax(1)].flatten()

    def learn(self, critic: TurnCritic, counts: torch.Tensor, players: torch.Tensor, steps: int):
        answered = torch.arange(36).repeat_interleave(counts)
        fresh = self.states[answered], self.actions[answered]
        for _ in range(steps):
            critic.step((self.states, self.actions, self.rewards), fresh, players, 0.1)

    def error(self, critic: TurnCritic, counts: torch.Tensor, players: torch.Tensor) -> float:
        q, v = self.exact(counts)
        found = critic.q(self.actions, players) - q, critic.v(self.states, players) - v
        return float(torch.stack(found).abs().max())


def test_values_of_a_game_of_two_turns_are_exact_also_after_an_exchange_of_roles():
    play = TwoTurns()
    as_now, exchanged = play.policies(0), play.policies(1)
    roles, others = torch.tensor([0, 1]), torch.tensor([1, 0])
    # Not the same thing by chance, nor the mean of the rewards.
    assert (play.exact(as_now)[1] - play.exact(exchanged)[1]).abs().max() > 0.1
    assert play.exact(as_now)[0].std(0).min() > 0.2
    critic = TurnCritic((64, 2, 2), 3e-3, CPU)
    play.learn(critic, as_now, roles, 800)
    assert play.error(critic, as_now, roles) < 1e-2
    assert play.error(critic, exchanged, others) > 1e-2
    play.learn(critic, exchanged, others, 800)
    assert play.error(critic, exchanged, others) < 1e-2
