"""Evaluation: the same queries and the same dice for everyone, and a table that fits a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agents.evaluation import evaluate_policies, print_evaluation
from agents.trainer import Trainer


@pytest.fixture
def evaluate(toy_config):
    trainer = Trainer(toy_config(learning_rate=0.01))
    trainer.iterate(0)

    def run(**options):
        values = {"split": "test", "num_queries": 24, **options}
        return evaluate_policies(
            trainer.config,
            trainer.policies,
            trainer.test_task,
            trainer.reward,
            **values,
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
