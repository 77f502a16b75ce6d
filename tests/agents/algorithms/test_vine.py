"""VinePPO: estimates of the right mean and variance, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from agents.algorithms import ALGORITHMS
from agents.algorithms.configs import VineConfig
from agents.algorithms.kl import KLController
from agents.config.train import TrainConfig
from agents.engines import ENGINES, BuiltinEngine
from agents.parts import build_reward
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.training.loop import train
from agents.training.trainer import Trainer
from agents.types import Branches
from cory_env import RewardError
from tests.agents.algorithms.test_gradients import Enumeration, ExactSampler

QUIET = Console(quiet=True)
COUNT = 20_000
PAID = ("task_rewards", "rewards_now", "rewards_later")


class DrawnSampler(ExactSampler):
    """Branches that end in outcomes drawn with the chances that these have behind their states."""

    def __init__(self, game: Enumeration, rows: list[int]):
        super().__init__(game)
        self.rows = rows
        self.generator = torch.Generator().manual_seed(0)

    def branch(self, prefixes, k):
        found = torch.zeros(len(prefixes), k, self.game.agents)
        kinds: dict[tuple, list[int]] = {}
        for i, prefix in enumerate(prefixes):
            kinds.setdefault((self.rows[prefix.row], *prefix[1:]), []).append(i)
        for (row, seat, cut), places in kinds.items():
            chances = self.chances * self.alike(type(prefixes[0])(row, seat, cut))
            drawn = chances.multinomial(len(places) * k, True, generator=self.generator)
            found[places] = self.shares[seat][drawn].view(len(places), k, -1).float()
        return Branches(task_rewards=found, rewards=found)


def repeated(game: Enumeration, rows: list[int]):
    """Return a rollout of outcomes, one after the other."""
    index = torch.tensor(rows)
    whole = game.rollout(causal=True)
    turns = tuple(
        replace(
            turn,
            prompts=[turn.prompts[i] for i in rows],
            responses=[turn.responses[i] for i in rows],
            tokens=turn.tokens.take(index),
            **{
                f: getattr(turn, f)[index] for f in ("task_rewards", "rewards_now", "rewards_later")
            },
        )
        for turn in whole.turns
    )
    return replace(whole, turns=turns, states=[whole.states[i] for i in rows])


def gained(game: Enumeration, rows: list[int], sampler=None, **options) -> list[torch.Tensor]:
    """Return by turn the (B, T) advantages of the task alone."""
    learner = game.learner("vine", **{"segment": "tokens:1", **options})
    explored = learner.explore(repeated(game, rows), sampler or DrawnSampler(game, rows))
    return [turn.next_values - turn.values for turn in explored.turns]


@pytest.fixture(scope="module")
def three_steps() -> Enumeration:
    return Enumeration(1, length=3)


def exactly_gained(game: Enumeration) -> torch.Tensor:
    """Return (N, T) the exact advantages of all responses."""
    return gained(game, [*range(len(game.task_rewards))], ExactSampler(game))[0]


def telling_response(game: Enumeration) -> int:
    """Return a response of full length, each step of which gains or loses something."""
    least = exactly_gained(game).abs().min(1).values
    assert least.max() > 0.1, "there is nothing to estimate"
    return int(least.argmax())


@pytest.fixture(scope="module")
def estimates(three_steps) -> dict[int, torch.Tensor]:
    """Return 20,000 estimates of the advantages of three steps, by the number of branches."""
    rows = [telling_response(three_steps)] * COUNT
    return {k: gained(three_steps, rows, k=k)[0] for k in (1, 4)}


@pytest.mark.parametrize("k", [1, 4])
def test_the_mean_of_many_estimates_is_the_exact_advantage_of_each_step(three_steps, estimates, k):
    exact = exactly_gained(three_steps)[telling_response(three_steps)]
    error = estimates[k].std(0) / COUNT**0.5
    assert ((estimates[k].mean(0) - exact).abs() < 3 * error).all()


def test_more_branches_lower_the_variance_as_one_over_their_number(estimates):
    # A variance of 20,000 samples is known to a few percent.
    ratio = estimates[1].var(0) / estimates[4].var(0)
    torch.testing.assert_close(ratio, torch.full((3,), 4.0), atol=0, rtol=0.1)


@pytest.mark.parametrize("segment", ["tokens:1", "tokens:2", "tokens:9"])
def test_advantages_add_up_to_what_was_earned_beyond_the_first_value(segment):
    game = Enumeration(2, sharing=0.5)
    rows = [*range(0, len(game.task_rewards), 50)]
    learner = game.learner("vine", segment=segment, reward_sharing="0.5")
    rollout = repeated(game, rows)
    explored = learner.explore(rollout, DrawnSampler(game, rows))
    pioneer, observer = (found.next_values - found.values for found in explored.turns)
    starts = [found.values[:, 0] for found in explored.turns]
    for row in range(len(rows)):
        for seat, (steps, turn) in enumerate(zip((pioneer, observer), rollout.turns, strict=True)):
            length = int(turn.tokens.response_mask[row].sum())
            n = 1 if segment == "tokens:1" else 2 if segment == "tokens:2" else length
            total = float(steps[row, :length:n].sum() + starts[seat][row])
            handed = 0.5 * float(starts[1][row]) if seat == 0 else 0.0
            assert total == pytest.approx(float(turn.rewards_now[row]) + handed, abs=1e-5)
            assert (steps[row, length:] == 0).all()
    assert starts[1].std() > 0


def test_a_response_of_one_segment_has_one_advantage_and_tokens_of_a_segment_share_theirs(
    three_steps,
):
    row = telling_response(three_steps)
    for segment, kinds in (("tokens:9", 1), ("tokens:2", 2), ("tokens:1", 3)):
        (steps,) = gained(three_steps, [row], segment=segment)
        assert len(set(steps[0].tolist())) == kinds


def test_siblings_in_the_same_state_share_its_branches(three_steps):
    row = telling_response(three_steps)
    asked = []

    class Counting(DrawnSampler):
        def branch(self, prefixes, k):
            asked.append(len(prefixes))
            return super().branch(prefixes, k)

    rows = [row, row, row, row]
    for group_size, states in ((1, 12), (2, 6), (4, 3)):
        (steps,) = gained(three_steps, rows, Counting(three_steps, rows), group_size=group_size)
        assert asked.pop() == states
        assert len({tuple(r) for r in steps.tolist()}) == 4 // group_size


@pytest.mark.parametrize("scaling", ["none", "std", "normalize"])
def test_scaled_rewards_are_measured_against_values_of_the_same_scale(three_steps, scaling):
    learner = three_steps.learner("vine", reward_scaling=scaling, kl_coef=0.0)
    learner.controllers = {name: KLController(coef=0.0) for name in learner.policies}
    rollout = three_steps.rollout(causal=True)
    [prepared] = learner.prepare(rollout, learner.explore(rollout, ExactSampler(three_steps)))
    chances = three_steps.probabilities().detach()
    scored, moments = prepared.scored, learner.reward_moments["llm_0"]
    # What the first state is worth is the mean of what is earned from it, in whatever unit.
    assert float(chances @ scored.returns[:, 0]) == pytest.approx(
        float(scored.baselines[0, 0]), abs=1e-4
    )
    (raw,) = gained(three_steps, [0], ExactSampler(three_steps), segment="tokens:4")
    unit = 1.0 if scaling == "none" else moments.std
    assert float(prepared.batch.advantages[0, 0]) == pytest.approx(float(raw[0, 0]) / unit)


def test_the_kl_of_a_response_is_measured_against_that_of_the_others():
    learner = Enumeration(1).learner("vine")
    costs = torch.tensor([[-1.0, -2.0], [-3.0, -5.0], [-7.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    advantages, returns, baselines = learner.advantages(costs * mask, mask, None)
    assert returns.tolist() == [[-3, -2], [-8, -5], [-7, 0]]
    assert baselines.tolist() == [[-7.5, -5], [-5, -2], [-5.5, 0]]
    assert advantages.tolist() == [[4.5, 3], [-3, -3], [-1.5, 0]]
    alone, _, none = learner.advantages(costs[:1], mask[:1], None)
    assert (alone.tolist(), none.tolist()) == ([[-3, -2]], [[0, 0]])


# ---- in a run


def final(config: TrainConfig):
    return load_checkpoint(RunFolder(config.run_folder).checkpoints()[-1])[0]


def test_a_run_stopped_in_a_branch_goes_on_where_it_was(tmp_path, toy_config):
    """What fails in a branch fails before anything is learnt, and is drawn again alike."""
    options = {"algorithm": "vine", "segment": "tokens:1", "save_every": 100}
    whole = toy_config(out=str(tmp_path / "whole"), **options)
    parts = toy_config(out=str(tmp_path / "parts"), **options)
    train(whole, console=QUIET)
    calls = []

    def breaks(config, task):
        reward = build_reward(config, task)

        def score(examples, responses):
            calls.append(len(responses))
            branches = [count for count in calls if count > 2 * 8]
            if len(branches) == 3 and len(responses) > 2 * 8:
                raise ZeroDivisionError
            return reward(examples, responses)

        return score

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.parts.build_reward", breaks)
        with pytest.raises(RewardError, match="ZeroDivisionError"):
            train(parts, console=QUIET)
    assert [p.name for p in RunFolder(parts.run_folder).checkpoints()] == ["step_2"]
    train(parts, resume=True, console=QUIET)
    found, expected = final(parts), final(whole)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_segments_that_never_end_are_one_line_before_anything_is_learnt(toy_config):
    config = toy_config(algorithm="vine", segment="newline")
    with pytest.raises(ValueError, match="got none with segment newline: pass --segment tokens:4"):
        train(config, console=QUIET)
    assert not config.run_folder.exists()
    trainer = Trainer(toy_config(algorithm="vine", segment="newline", at="handover"))
    trainer.iterate(0)
    # Once it has cut, it may come to write no marks any more.
    later = Trainer(config)
    later.algorithm.load_state({**later.algorithm.state(), "has_cut": True})
    later.iterate(0)


def test_branches_change_no_rollout(toy_config):
    """They draw from streams of their own: queries and responses are those of another word."""
    rollouts = []
    for algorithm in ("vine", "reinforce++"):
        trainer = Trainer(toy_config(algorithm=algorithm))
        rollouts.append(trainer.collect(trainer.assign(0)))
        trainer.explore(rollouts[-1], 0)
        rollouts.append(trainer.collect(trainer.assign(1)))
    for one, other in zip(rollouts[:2], rollouts[2:], strict=True):
        assert [t.responses for t in one.turns] == [t.responses for t in other.turns]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k to be at least 1"),
        ({"segment": "words"}, "segment to be newline, sentence, tokens:NUMBER or text:MARK"),
        ({"at": "everywhere"}, "at to be segments or handover|segments, handover"),
        ({"gamma": 0.9}, "gamma 1.0 with algorithm vine.*leave out --gamma"),
        ({"credit": "shared"}, "credit causal with algorithm vine"),
        ({"practice": "all"}, "practice own with algorithm vine"),
        ({"critic_learning_rate": 0.1}, "--algorithm ippo|leave out --critic-learning-rate"),
    ],
)
def test_what_does_not_go_with_branches_is_one_line(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig(algorithm="vine", **values)
    assert "\n" not in str(caught.value)


def test_an_engine_that_cannot_continue_is_refused_before_anything_is_loaded(monkeypatch):
    class Beginner(BuiltinEngine):
        """It begins responses and cannot go on with them."""

        continues = False

    monkeypatch.setitem(ENGINES, "beginner", Beginner)
    with pytest.raises(ValueError, match="continues responses with algorithm vine, got beginner"):
        TrainConfig(algorithm="vine", engine="beginner").check_names()
    TrainConfig(algorithm="vine", engine="beginner", at="handover").check_names()
    TrainConfig(algorithm="mappo", engine="beginner").check_names()


def test_its_defaults_are_the_papers_but_for_short_responses():
    config = TrainConfig(algorithm="vine").algorithm_config
    assert isinstance(config, VineConfig)
    assert (config.k, config.segment, config.at) == (3, "tokens:4", "segments")
    assert ALGORITHMS.find("vine").critic is None
