"""ArCHer: what it learns from, what it costs, when it does not learn, and whose gradient it has."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from agents.algorithms.archer import PATIENCE, _correlation, _features
from agents.algorithms.episodes import Episodes
from agents.config.train import TrainConfig
from agents.policies.llm import response_hidden
from agents.training.loop import train
from agents.training.trainer import Trainer
from agents.types import Explored
from tests.agents.algorithms.test_gradients import Enumeration, relative_error
from tests.agents.fakes import tiny_backbone, token_batch
from tests.agents.training.test_trainer import assert_resuming_is_exact

ALWAYS = {"algorithm": "archer", "min_correlation": -1.0}


def test_features_are_the_last_of_the_prompt_and_the_mean_over_the_answer_without_padding():
    backbone = tiny_backbone(moved=0.3)  # the policies have moved, the reference has not
    prompts, answers = ["ab>", "b>", "ab,ba>"], [[5], [3, 4, 2], [4, 4]]
    states, actions = _features(backbone, token_batch(backbone, prompts, answers))
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = torch.tensor([[*backbone.tokenizer(prompt)["input_ids"], *answer]])
        with torch.no_grad():
            hidden = backbone.hidden(
                None, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(ids.shape[1])[None]
            )[0]
        before = ids.shape[1] - len(answer)
        torch.testing.assert_close(states[row], hidden[before - 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(actions[row], hidden[before:].mean(0), rtol=1e-4, atol=1e-5)


def test_the_correlation_is_that_within_seats():
    rewards = torch.tensor([[0.0, 10.0], [2.0, 12.0], [4.0, 14.0]])
    assert _correlation(3 * rewards + 1, rewards) == pytest.approx(1)
    assert _correlation(-rewards, rewards) == pytest.approx(-1)
    # That the second seat earns more is no merit: 1·(−2) + 0 + 1·2 within the first alone.
    values = torch.tensor([[-1.0, 50.0], [0.0, 50.0], [1.0, 50.0]])
    assert _correlation(values, rewards) == pytest.approx(4 / (2 * 16) ** 0.5)
    assert _correlation(values, torch.ones(3, 2)) == 0
    assert _correlation(torch.zeros(3, 2), rewards) == 0


class ExactCritic:
    """Values of all outcomes of an enumerated game, in their order."""

    def __init__(self, game: Enumeration):
        chances = game.probabilities().detach().double().view(31, 31)
        rewards = torch.tensor(game.task_rewards).view(31, 31, 2)
        later = chances / chances.sum(1, keepdim=True)
        worth = (later * rewards[..., 1]).sum(1)
        # Where answers are other tokens of the same text, the same prompt follows, and the same
        # chances.
        first = rewards[:, 0, 0] + worth
        q = torch.stack([first[:, None].expand(31, 31), rewards[..., 1]], dim=2)
        start = (chances.sum(1) * first).sum()
        v = torch.stack([start.expand(31, 31), worth[:, None].expand(31, 31)], dim=2)
        self.exact = q.reshape(-1, 2).float(), v.reshape(-1, 2).float()

    def q(self, actions, players):
        return self.exact[0]

    def v(self, states, players):
        return self.exact[1]

    def step(self, played, fresh, players, polyak):
        return torch.zeros(2)


@pytest.mark.parametrize("kl", ["exact", "k1"])
@pytest.mark.parametrize("seat", [0, 1])
def test_with_exact_values_the_expected_gradient_is_the_exact_one(seat, kl):
    game = Enumeration(2)
    learner = game.learner("archer", kl=kl, min_correlation=-1.0, critic_steps=1)
    rollout = game.rollout(causal=True)
    count = len(rollout.states)
    learner.turn_critic = ExactCritic(game)
    nothing = torch.zeros(count, 2, 1)
    learner.episodes = Episodes(
        prompts=(("", ""),) * count, states=nothing, actions=nothing, rewards=nothing[..., 0]
    )
    batch = learner.prepare(rollout, Explored(fresh=rollout))[seat].batch
    name = list(game.policies)[seat]
    found = game.gradient(learner, name, batch, game.probabilities().detach())
    assert relative_error(found, game.exact_gradient(seat)) < 1e-3


def parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: t.clone() for k, t in trainer.state()[0].items() if k.startswith("policy/")}


@pytest.mark.parametrize("fresh", [1, 3])
def test_policies_learn_from_answers_that_no_reward_has_seen(toy_config, fresh):
    trainer = Trainer(toy_config(**ALWAYS, fresh=fresh, observers=2))
    before = parameters(trainer)
    row = trainer.iterate(0)
    assert row["reward_calls_total"] == 8 * 3
    assert row["responses_total"] == 8 * 3 * (1 + fresh)
    assert row["llm_0/learns"] == 1.0
    assert row["llm_0/episodes"] == 8
    after = parameters(trainer)
    assert all(
        any(not torch.equal(before[key], after[key]) for key in before if f"/llm_{i}/" in key)
        for i in range(3)
    )


def explored(trainer: Trainer, iteration: int):
    rollout = trainer.collect(trainer.assign(iteration))
    return rollout, trainer.explore(rollout, iteration)


def test_earlier_prompts_are_answered_anew_by_who_plays_the_seat_now(toy_config):
    trainer = Trainer(toy_config(**ALWAYS, fresh=2, buffer_size=12, swap="every", swap_every=1))
    algorithm = trainer.algorithm
    first, found = explored(trainer, 0)
    trainer.prepare(first, found)
    second, found = explored(trainer, 1)
    assert [turn.policy for turn in second.turns] == ["llm_1", "llm_0"]
    assert len(algorithm.episodes) == 12
    kept = [*zip(*(t.prompts for t in first.turns), strict=True)][-4:]
    kept += zip(*(t.prompts for t in second.turns), strict=True)
    assert [*algorithm.episodes.prompts] == kept
    paid = torch.stack([turn.task_rewards for turn in second.turns], dim=1)
    assert torch.equal(algorithm.episodes.rewards[-8:], paid)
    fresh = found.fresh
    assert [turn.policy for turn in fresh.turns] == ["llm_1", "llm_0"]
    asked = [*zip(*(turn.prompts for turn in fresh.turns), strict=True)]
    assert len(asked) == 16
    assert set(asked) == set(kept)  # as many of them as there are, before any comes again
    backbone = trainer.policies["llm_0"].backbone
    for turn in fresh.turns:  # sampled by that policy
        scores = trainer.policies[turn.policy].score(
            turn.tokens, response_hidden(backbone, None, turn.tokens)
        )
        torch.testing.assert_close(
            scores.log_probs, turn.tokens.sampled_log_probs, atol=1e-4, rtol=0
        )
    assert algorithm._players(second).tolist() == [1, 0]


def test_advantages_are_whole_answers_and_the_kl_of_what_comes(toy_config):
    trainer = Trainer(toy_config(**ALWAYS, whitening="none", kl_coef=0.0, swap="never"))
    for iteration in range(3):
        rollout, found = explored(trainer, iteration)
        prepared = trainer.prepare(rollout, found)
        trainer.learn(rollout, prepared, iteration)
    algorithm, players = trainer.algorithm, torch.tensor([0, 1])
    states, actions = algorithm._features(found.fresh)
    gained = algorithm.turn_critic.q(actions, players) - algorithm.turn_critic.v(states, players)
    assert gained.std() > 1e-3
    for seat, turn in enumerate(prepared):
        expected = gained[:, seat, None] * turn.batch.response_mask
        torch.testing.assert_close(turn.batch.advantages, expected, rtol=1e-3, atol=1e-4)


def test_who_foretells_nothing_teaches_nothing_and_the_user_is_told(toy_config):
    shown = Console(record=True, width=200)
    config = toy_config(algorithm="archer", min_correlation=1.0, iterations=PATIENCE, observers=0)
    start = parameters(Trainer(config))
    run = train(config, console=shown)
    assert [row["llm_0/learns"] for row in run.metrics] == [0.0] * PATIENCE
    assert {row["llm_0/clip_fraction"] for row in run.metrics} == {0.0}
    assert run.metrics[-1]["llm_0/q_loss"] > 0
    assert run.metrics[-1]["llm_0/kl"] == pytest.approx(0, abs=1e-6)
    assert start
    text = shown.export_text()
    assert "Policies have learnt nothing for 10 iterations" in text
    assert "below 1: pass a lower --min-correlation" in text


@pytest.mark.parametrize("stop", [1, 3])
def test_resuming_is_exact_while_the_buffer_fills_and_once_the_oldest_have_gone(
    tmp_path, toy_config, stop
):
    options = {**ALWAYS, "buffer_size": 20, "fresh": 2, "adapter": "lora", "critic_steps": 5}
    assert_resuming_is_exact(toy_config, tmp_path, stop=stop, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fresh": 0}, "Expected fresh to be at least 1, got 0"),
        ({"polyak": 2}, "polyak"),
        ({"buffer_size": 100}, "Expected buffer_size to be at least batch_size, 128, got 100"),
        ({"gamma": 0.9}, "Expected gamma 1.0 with algorithm archer, .*leave out --gamma"),
        ({"credit": "shared"}, "Expected credit causal .*leave out --credit"),
        ({"practice": "all"}, "Expected practice own .*leave out --practice"),
        ({"reward_scaling": "std"}, "Expected reward_scaling none .*leave out --reward-scaling"),
        ({"reward_sharing": "individual"}, "Expected reward_sharing collective or mean"),
        ({"model": "embedded,smollm2"}, "Expected one base model with algorithm archer"),
        ({"handover": "value"}, "Expected handover with an algorithm that has it"),
    ],
)
def test_bad_options_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig(**{"algorithm": "archer", **changes})
    assert "\n" not in str(caught.value)
