"""Evaluation: the same queries and the same dice for everyone, and a table that fits a terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from rich.console import Console

from agents.evaluation.answers import Answers, Decoding, collect_answers
from agents.evaluation.rows import rates
from agents.evaluation.score import evaluate_policies, exchange_loss, wrong_votes
from agents.evaluation.tables import print_evaluation
from agents.training.trainer import Trainer
from cory_env import Example
from cory_env.rewards.answer import AnswerReward


class FirstLetter:
    """1 where a response begins with the first letter of its query, else 0."""

    def __call__(self, examples, responses):
        pairs = zip(examples, responses, strict=True)
        return np.array([float(r[:1] == e.query[:1]) for e, r in pairs])


@pytest.fixture
def trainer(toy_config):
    trainer = Trainer(toy_config(learning_rate=0.01))
    trainer.iterate(0)
    return trainer


@pytest.fixture
def evaluate(trainer):
    def run(**options):
        reward = options.pop("reward", trainer.parts.reward)
        names = ("split", "num_queries")
        values = {"split": "test", "num_queries": 24}
        values |= {name: options.pop(name) for name in names if name in options}
        return evaluate_policies(
            trainer.config,
            trainer.policies,
            trainer.parts.test_task,
            reward,
            **values,
            decoding=Decoding(**options),
        )

    return run


def test_the_reference_has_no_kl_and_the_policies_have_moved(evaluate):
    rows = {row["name"]: row for row in evaluate()["rows"]}
    assert rows["reference"]["kl"] == pytest.approx((0, 0, 0), abs=1e-6)
    assert min(rows["llm_0"]["kl"][0], rows["llm_1"]["kl"][0]) > 1e-4


def test_combined_is_reward_less_the_price_of_kl(evaluate):
    for row in evaluate()["rows"]:
        assert row["combined"][0] == pytest.approx(row["reward"][0] - 0.1 * row["kl"][0])


def test_the_same_seed_gives_the_same_figures_and_another_does_not(evaluate):
    assert evaluate(seed=1) == evaluate(seed=1)
    assert evaluate(seed=1) != evaluate(seed=2)
    assert evaluate(greedy=True, seed=1)["rows"] == evaluate(greedy=True, seed=2)["rows"]


def test_no_more_queries_than_there_are(evaluate):
    assert evaluate(num_queries=10_000)["num_queries"] == 256


def test_the_table_fits_eighty_columns_uncut(evaluate):
    evaluation = evaluate()
    for row in evaluation["rows"]:
        row["kl"], row["combined"] = (12.345, 11.0, 13.0), (-10.0, -11.0, -9.0)
    text = io.StringIO()
    print_evaluation(evaluation, Console(file=text, width=80))
    assert "…" not in text.getvalue()
    assert "llm_1 after llm_0" in text.getvalue()
    assert "12.35 ±1.00" in text.getvalue()


def answers_of(trainer, seat=1, **options) -> Answers:
    team = list(trainer.policies.values())
    task = trainer.parts.test_task
    # Queries of different lengths, so that sorting moves them.
    queries = [e.query[: 1 + i % 3] for i, e in enumerate(task.examples[:13])]
    examples = [Example(query, reference=query[::-1]) for query in queries]
    decoding = Decoding(**options)
    return collect_answers(trainer.config, team, task, trainer.parts.reward, examples, decoding)[
        seat
    ]


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 5, 26])
def test_what_is_answered_does_not_depend_on_the_batch(trainer, seat, batch_size):
    expected = answers_of(trainer, seat, k=(2,), batch_size=39)
    found = answers_of(trainer, seat, k=(2,), batch_size=batch_size)
    assert found.texts == expected.texts
    np.testing.assert_array_equal(found.rewards, expected.rewards)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    # Padding of another length changes float32 sums in their last places.
    np.testing.assert_allclose(found.kls, expected.kls, rtol=1e-4, atol=1e-6)


def test_answers_keep_the_order_of_the_queries(trainer):
    task, reward = trainer.parts.test_task, trainer.parts.reward
    answers = answers_of(trainer, 0, k=(3,), batch_size=4)
    queries = [e.query[: 1 + i % 3] for i, e in enumerate(task.examples[:13])]
    for texts, rewards in zip(answers.texts, answers.rewards, strict=True):
        examples = [Example(query, reference=query[::-1]) for query in queries]
        # Rewards travel as float32.
        np.testing.assert_allclose(rewards, reward(examples, texts), rtol=1e-6)
    assert answers.texts[0] != answers.texts[1]


def test_the_first_sample_is_that_of_an_evaluation_with_one(trainer):
    assert answers_of(trainer, 0, k=(3,)).texts[0] == answers_of(trainer, 0).texts[0]


def test_rates_are_those_of_the_subsets_of_the_samples(evaluate, trainer):
    evaluation = evaluate(reward=FirstLetter(), k=(1, 3), samples=4)
    examples = trainer.parts.test_task.examples[:24]
    [answers] = collect_answers(
        trainer.config, [trainer.policies["llm_1"]], trainer.parts.test_task, FirstLetter(),
        examples, Decoding(samples=4)
    )  # fmt: skip
    row = next(row for row in evaluation["rows"] if row["name"] == "llm_1")
    for k in (1, 3):
        best = [answers.rewards[list(part)].max(0) for part in combinations(range(4), k)]
        assert row["pass_at"][str(k)][0] == pytest.approx(np.mean(best), rel=1e-9)
    assert 0 < row["pass_at"]["1"][0] < row["pass_at"]["3"][0] < 1
    # One draw per query of its mean: the interval of pass@1 is that of the mean reward.
    assert row["pass_at"]["1"] == pytest.approx(row["reward"], rel=1e-9)
    assert "majority_at" not in row  # only `answer` has numbers to vote for


def test_a_reward_between_0_and_1_has_no_pass_at_k(evaluate):
    evaluation = evaluate(k=(2,))
    assert not any("pass_at" in row for row in evaluation["rows"])
    text = io.StringIO()
    print_evaluation(evaluation, Console(file=text, width=80))
    assert "No pass@k" in text.getvalue()


def test_the_gap_is_the_reward_behind_the_partner_less_alone_by_query(evaluate, trainer):
    rows = {row["name"]: row for row in evaluate(samples=2)["rows"]}
    for name, other in (("llm_0", "llm_1"), ("llm_1", "llm_0")):
        row = rows[f"{name} after {other}"]
        expected = row["reward"][0] - rows[name]["reward"][0]
        assert row["gap"][0] == pytest.approx(expected, abs=1e-12)
        assert row["gap"][1] < row["gap"][0] < row["gap"][2]
        assert "gap" not in rows[name]


def test_the_greedy_figure_beside_the_samples_is_that_of_a_greedy_evaluation(evaluate):
    both, greedy = evaluate(greedy_too=True, k=(2,)), evaluate(greedy=True)
    for row, alone in zip(both["rows"], greedy["rows"], strict=True):
        assert row["greedy"] == alone["reward"]
        assert row["name"] == alone["name"]
    assert [row["reward"] for row in both["rows"]] != [row["reward"] for row in greedy["rows"]]


def test_wrong_answers_are_counted_as_numbers():
    texts = [["It is 9.", "5"], ["7", "no idea"], ["#### 7.0", "5"], ["8", "the 6th"]]
    rewards = AnswerReward()
    examples = [Example("?", reference="9"), Example("?", reference="5")]
    answers = replace(
        Answers.empty(4, 2), texts=texts, rewards=np.array([rewards(examples, t) for t in texts])
    )
    assert [sorted(votes) for votes in wrong_votes(answers)] == [[1, 2], [1]]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k": (0,)}, "k to be at least 1, got 0"),
        ({"k": (8,), "samples": 4}, "at least 8, got 4"),
        ({"k": (2,), "greedy": True}, "one response per query"),
        ({"batch_size": 0}, "batch size of at least 1"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Decoding(**options)


def test_rates_are_printed_within_eighty_columns_and_survive_json(evaluate):
    evaluation = json.loads(json.dumps(evaluate(reward=FirstLetter(), k=(1, 16), greedy_too=True)))
    text = io.StringIO()
    print_evaluation(evaluation, Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert "…" not in text.getvalue()
    assert max(map(len, lines)) <= 80
    assert all(f" {name} " in text.getvalue() for name in ("pass@1", "pass@16", "greedy", "gap"))
    assert list(rates(evaluation["rows"][0])) == ["greedy", "pass@1", "pass@16"]


def test_exchange_loss_is_the_teams_reward_in_its_own_seats_less_that_in_others():
    own, first, second = np.array([1.0, 0.5]), np.array([0.0, 0.5]), np.array([0.5, 0.0])
    # 0.75 less the mean of 0.25 and 0.25.
    assert exchange_loss([own, first, second])[0] == pytest.approx(0.5)


def test_only_a_team_has_an_exchange_loss(evaluate, trainer, toy_config):
    evaluation = evaluate()
    rows = {row["name"]: row["reward"][0] for row in evaluation["rows"]}
    # In the first assignment llm_0 answers first, and alone it answers as there.
    own = (rows["llm_0"] + rows["llm_1 after llm_0"]) / 2
    exchanged = (rows["llm_1"] + rows["llm_0 after llm_1"]) / 2
    assert evaluation["exchange_loss"][0] == pytest.approx(own - exchanged)
    assert "Exchange loss" in repr(evaluation)
    alone = Trainer(toy_config(observers=0))
    found = evaluate_policies(
        alone.config,
        alone.policies,
        alone.parts.test_task,
        alone.parts.reward,
        split="test",
        num_queries=4,
    )
    assert "exchange_loss" not in found
