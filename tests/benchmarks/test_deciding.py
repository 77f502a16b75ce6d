"""The deciding experiment: equal responses, choices that are kept, verdicts, and what is scored."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.evaluation.finished import evaluate
from agents.maths.frontier import Contrast, Interval
from agents.publishing.average import average
from benchmarks.deciding import count
from benchmarks.deciding_plan import (
    AVERAGED,
    CLAIMS,
    LAST,
    MERGED,
    RECIPES,
    SHORT,
    SINGLE,
    STUDIES,
    Cell,
    Study,
    by_row,
    grid,
    tuned,
    tuning,
)
from benchmarks.deciding_scores import answers, score
from benchmarks.deciding_tables import judge, write_tables

CHOSEN = {recipe.name: {"rate": 1e-3, "schedule": "constant"} for recipe in RECIPES}
SMALL = {task: replace(study, **SHORT) for task, study in STUDIES.items()}


@pytest.mark.parametrize("study", [*STUDIES.values(), *SMALL.values()])
def test_all_rows_generate_as_many_responses_and_no_two_runs_are_one(study, tmp_path):
    for recipe in RECIPES:
        cell = next(c for c in grid(study, CHOSEN, tmp_path) if c.recipe is recipe)
        configs = cell.configs()
        made = [c.iterations * c.batch_size * (c.observers + 1) for c in configs]
        assert sum(made) == study.responses
    tests = [c for cell in grid(study, CHOSEN, tmp_path) for c in cell.configs()]
    tried = [c for cell in tuning(study, tmp_path) for c in cell.configs()]
    assert len({c.out for c in (*tests, *tried)}) == len(tests) + len(tried)
    assert not {c.seed for c in tests} & {c.seed for c in tried}


def test_what_is_left_is_counted(tmp_path):
    # Six recipes with 18 cells of tuning and 40 of the test, two-ppo with two runs each. Scored are
    # in the tuning what a row is tuned for, else 2, 2 and 1 policies, and 5 of each of three pairs.
    assert count(STUDIES["imdb"], tmp_path) == (
        "imdb: 348 of 348 cells are left, with 406 runs of 2,138,112 responses together, and "
        f"{(18 * 6 + 40 * 20) * 4096:,} to score."
    )
    write_scores(tuning(STUDIES["imdb"], tmp_path)[0], AVERAGED, 0.0)
    assert count(STUDIES["imdb"], tmp_path).startswith("imdb: 347 of 348 cells are left")


def test_the_contrasts_name_rows_that_are_there():
    rows = {name for name, _, _ in by_row([])}
    assert {*CLAIMS.values(), *SINGLE} <= rows
    assert len(CLAIMS) == 2


def write_scores(cell: Cell, deployed: str, gain: float) -> None:
    """Scores on a frontier reward = log(1 + KL), with noise, and something added."""
    rng = np.random.default_rng([cell.seed, round(1000 * cell.kl_coef), len(cell.recipe.name)])
    kl = 1 / cell.kl_coef
    noise = rng.normal(scale=0.01, size=(1, 2, cell.study.queries))
    path = cell.scores_path(deployed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, rewards=np.log1p(kl) + gain + noise, kls=np.full_like(noise, kl))


def test_the_best_of_the_tuning_is_kept(tmp_path):
    study = SMALL["imdb"]
    with pytest.raises(ValueError, match="all of the tuning"):
        tuned(study, tmp_path)
    for cell in tuning(study, tmp_path):
        (deployed,) = cell.recipe.deployed  # what the row is tuned for
        write_scores(cell, deployed, gain=float(cell.rate == study.rates[1]))
    chosen = tuned(study, tmp_path)
    assert {recipe["rate"] for recipe in chosen.values()} == {study.rates[1]}
    for cell in tuning(study, tmp_path):
        write_scores(cell, cell.recipe.deployed[0], gain=float(cell.rate == study.rates[0]))
    assert tuned(study, tmp_path) == chosen


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.5, "holds"), (0.0, "does not hold"), (-0.5, "does not hold")]
)
def test_tables_say_what_the_scores_say(tmp_path, gain, expected):
    seeds = tuple(range(8))  # the least p of eight is 2 / 256
    tests = {
        task: grid(replace(study, seeds=seeds), CHOSEN, tmp_path) for task, study in SMALL.items()
    }
    for task, cells in tests.items():
        queries = cells[0].study.queries
        zeros = {"rewards": np.zeros((1, 1, queries)), "kls": np.zeros((1, 1, queries))}
        (tmp_path / task).mkdir()
        np.savez(tmp_path / task / "reference.npz", **zeros)
        for cell in cells:
            for deployed in cell.recipe.deployed:
                ours = f"{cell.recipe.name} {deployed}" == CLAIMS["practice-all"]
                write_scores(cell, deployed, gain * ours)
    console = Console(file=StringIO(), width=200)
    write_tables(tests, tmp_path, console)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["verdicts"]["practice-all"]["verdict"] == expected
    assert results["verdicts"]["value-handover"]["verdict"] == "does not hold"
    gap = results["contrasts"]["imdb"]["practice-all"]["interval"]["mean"]
    assert gap == pytest.approx(gain, abs=0.02)
    assert "practice-all merged is ahead | arithmetic" in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "frontiers.png").stat().st_size > 10_000
    entries = json.loads((tmp_path / "marl_eval.json").read_text())["cory-env"]
    assert len(entries["imdb eta 0.001"]["two-ppo merged"]) == 8


def test_a_claim_is_judged_by_its_weakest_task():
    def found(p: float, low: float) -> Contrast:
        interval = Interval(mean=low + 0.1, low=low, high=low + 0.2)
        named = {"ours": "a", "theirs": "b", "gaps": (), "improvement": 1.0, "margin": 0.05}
        return Contrast(**named, interval=interval, p=p)

    first, second = CLAIMS
    both = {
        "imdb": {first: found(0.01, 0.1), second: found(0.001, 0.1)},
        "arithmetic": {first: found(0.024, 0.1), second: found(0.03, -0.1)},
    }
    # Largest p over tasks: 0.024 and 0.03; after Holm 0.048 and 0.048.
    assert judge(both)[first] == {"verdict": "holds", "p": pytest.approx(0.048)}
    assert judge(both)[second]["verdict"] == "not decided"


def tiny(**changes) -> Study:
    # The last quarter of six iterations are two: the shortest run that has an average.
    return replace(SMALL["imdb"], **{"iterations": 6, "batch_size": 4, "queries": 6, **changes})


def test_a_cell_is_trained_counted_and_scored_as_evaluate_does(tmp_path):
    recipe = next(recipe for recipe in RECIPES if recipe.name == "value-handover")
    cell = Cell(
        **{"study": tiny(), "recipe": recipe, "kl_coef": 0.1, "seed": 0, "rate": 0.02},
        **{"schedule": "constant", "folder": tmp_path / "cell"},
    )
    cell.train()
    times = {path: path.stat().st_mtime for path in cell.folder.rglob("*")}
    cell.train()
    assert {path: path.stat().st_mtime for path in cell.folder.rglob("*")} == times
    for deployed in recipe.deployed:
        score(cell, deployed, "test")
    assert cell.is_scored
    run = Path(cell.configs()[0].out)
    rows = {row["name"]: row for row in evaluate(run, num_queries=6, samples=2)["rows"]}
    for deployed, called in ((AVERAGED, ""), (LAST, " last")):
        with np.load(cell.scores_path(deployed)) as found:
            assert found["rewards"].shape == (2, 2, 6)
            for place, name in enumerate((f"llm_0{called}", f"llm_1{called}")):
                # The adapter folded into the weights, which rounds otherwise than beside them.
                assert found["kls"][place].mean() == pytest.approx(rows[name]["kl"][0], rel=1e-3)
                rewards = found["rewards"][place].mean()
                assert rewards == pytest.approx(rows[name]["reward"][0], rel=1e-4)
    average([run / "final/llm_0", run / "final/llm_1"], tmp_path / "mean")
    merged = answers(cell.study, tmp_path / "mean", "test")
    assert cell.read(MERGED).kls == pytest.approx(merged.kls.mean(0))
    assert cell.read(MERGED).kls.mean() > 0
    assert (cell.read(AVERAGED).kls != cell.read(LAST).kls).any()
    assert answers(cell.study, None, "test").kls == pytest.approx(0, abs=1e-5)
    other = replace(cell, study=tiny(batch_size=8), folder=cell.folder)
    with pytest.raises(ValueError, match="batch_size"):
        other.train()
