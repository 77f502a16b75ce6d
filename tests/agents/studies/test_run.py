"""Comparisons: what is planned, run, resumed, counted and shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.records.rows import read_metrics
from agents.registries import VARIANTS
from agents.studies.outcomes import (
    Outcome,
    frontier_lines,
    print_summary,
    summary,
)
from agents.studies.plan import Grid, plan
from agents.studies.run import check_stored_plans

SMALL = (
    *("--iterations", "2", "--batch-size", "8", "--minibatch-size", "8", "--epochs", "1"),
    *("--evaluation-queries", "8", "--sample-every", "9", "--save-every", "1"),
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_configuration_that_differs_in_what_it_says(variant):
    base = {"task": "toy", "model": "tiny", "adapter": "full"}
    (job,) = plan(base, Grid(variants=(variant,), seeds=1), Path("out"))
    changed = job.config.changed().items() - {*base.items(), ("out", job.config.out)}
    plain = TrainConfig().to_json()
    assert dict(changed) == {k: v for k, v in VARIANTS[variant]().items() if v != plain[k]}


def test_plans_have_every_variant_value_and_seed_once_the_first_seeds_first():
    grid = Grid(variants=("ppo", "rloo"), seeds=2, kl_coefs=(0.1, 0.2), learning_rates=(1e-3,))
    jobs = plan({"seed": 5}, grid, Path("out"))
    assert len(jobs) == len({job.config.out for job in jobs}) == 8
    assert [job.config.seed for job in jobs] == [5] * 4 + [6] * 4
    first = jobs[0]
    assert first.config.out == "out/runs/ppo/kl_coef=0.1,learning_rate=0.001/5"
    assert (first.config.algorithm_config.kl_coef, first.config.learning_rate) == (0.1, 1e-3)
    assert jobs[2].config.algorithm == "rloo"


def test_a_value_of_0_is_a_value():
    jobs = plan({}, Grid(variants=("ppo",), seeds=1, kl_coefs=(0.0, 0.1)), Path("out"))
    assert [job.config.algorithm_config.kl_coef for job in jobs] == [0.0, 0.1]


def test_a_run_that_never_began_is_planned_anew(tmp_path):
    def job(kl_coef: float):
        base = {"task": "toy", "kl_coef": kl_coef}
        return plan(base, Grid(variants=("ppo",), seeds=1), tmp_path)[0]

    folder = job(0.1).config.run_folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(job(0.1).config.to_json()))
    check_stored_plans([job(0.2)])
    (folder / "metrics.jsonl").write_text('{"iteration": 0}\n')
    with pytest.raises(ValueError, match=r"kl_coef=0\.1"):
        check_stored_plans([job(0.2)])


@pytest.mark.parametrize(
    ("budget", "iterations", "ends"),
    [
        ("episodes", [60, 60, 60, 30], ""),
        ("responses", [120, 60, 40, 60], "responses=15360"),  # 60 · 128 · 2
        ("tokens=1e6", [60, 60, 60, 60], "tokens=1e6"),
    ],
)
def test_variants_spend_alike(budget, iterations, ends, monkeypatch):
    monkeypatch.setitem(VARIANTS, "large", lambda: {"observers": 0, "batch_size": 256})
    grid = Grid(variants=("ppo", "cory-mappo", "three", "large"), seeds=1, budget=budget)
    jobs = plan({"iterations": 60}, grid, Path("out"))
    assert [job.config.iterations for job in jobs] == iterations
    assert {job.config.budget for job in jobs} == {ends}


def outcome(variant: str, seed: int, reward: float, kl: float, setting: str = "") -> Outcome:
    figures = {"reward": reward, "kl": kl, "combined": reward - kl, "length": 9.0, "distinct_2": 1}
    more = {**figures, "reward": reward + 2, "combined": reward + 2 - kl}
    return Outcome(
        variant=variant,
        setting=setting,
        seed=seed,
        policies={"llm_0": figures, "llm_1": more},
        team=None,
        reference={"reward": 0.0, "kl": 0.0, "combined": 0.0, "length": 9.0, "distinct_2": 1.0},
        collapsed=[],
        costs=None,
    )  # fmt: skip


def test_the_summary_by_hand():
    runs = [outcome("a", seed, reward, 1) for seed, reward in enumerate([1, 2, 3])]
    runs += [outcome("b", seed, reward, 1) for seed, reward in enumerate([2, 3, 4])]
    first, second = summary(runs)
    assert first["reward"][0] == 3  # the policies of a run are 1 above its first one on average
    assert second["reward"][0] == 4
    # t of 2 degrees of freedom: 4.3027.
    assert first["reward"] == pytest.approx((3, 3 - 4.302653 / 3**0.5, 3 + 4.302653 / 3**0.5))
    assert first["gap"] is None
    assert second["gap"] == (1, 1, 1)
    assert first["policies"] == 6
    assert summary([*runs[:3], *runs[3:5]])[1]["gap"] is None  # a seed is missing


def test_the_mean_of_a_pair_s_policies_has_a_row_of_its_own():
    runs = [outcome("ppo", seed, reward, 1) for seed, reward in enumerate([1, 2])]
    pairs = [outcome("pair", seed, reward, 1) for seed, reward in enumerate([1, 2])]
    for run in pairs:
        run["team"] = {**run["policies"]["llm_0"], "combined": 3 + run["seed"]}
    single, pair, team = summary([*runs, *pairs])
    assert [row["team"] for row in (single, pair, team)] == [False, False, True]
    assert "policies" in pair
    assert "policies" not in team
    # The runs of `ppo` have 1 and 2 on average over their policies.
    assert team["combined"][0] == 3.5
    assert team["gap"] == (2, 2, 2)
    # Against the policies of the first variant, also of its own team.
    assert summary(pairs)[1]["gap"] == (2, 2, 2)
    pairs[0]["team"] = None
    assert len(summary(pairs)) == 1


def test_no_figure_of_the_table_is_cut_on_a_narrow_screen(capsys):
    name = "individual-solo-kl-and-much-more"
    runs = [outcome(name, 0, 12.345, 98.7, s) for s in ("kl_coef=0.07", "learning_rate=0.0002")]
    runs += [outcome(name, 1, 10.345, 88.7, s) for s in ("kl_coef=0.07", "learning_rate=0.0002")]
    print_summary(runs, Console(width=80))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    squeezed = " ".join(shown.split())
    assert "variant n reward KL, nats reward − η KL dist-2 lost gap" in squeezed
    assert "2 12.35 ±12.71 93.7 ±63.5 -81.36 ±50.82 1.00 0/4" in squeezed


def test_gaps_at_equal_kl_by_hand():
    # Means over policies: a earns 2 at 1 nat and 3 at 3 nats, b 1 more at either, for two seeds.
    settings = {"kl_coef=1": (1, 1), "kl_coef=0.1": (2, 3)}
    grid = [(s, *at, seed) for seed in (0, 1) for s, at in settings.items()]
    runs = [outcome("a", seed, reward, kl, s) for s, reward, kl, seed in grid]
    runs += [outcome("b", seed, reward + 1, kl, s) for s, reward, kl, seed in grid]
    # a is 1.5 + k / 2 there: its mean over log KL is 1.5 + 1 / log 3 = 2.41.
    assert frontier_lines(runs) == [
        "b: reward less that of a at equal KL, mean over log KL: 1.00 ±0.00 "
        "(2 seeds; 5 % of a: 0.12)"
    ]
    # A seed with a run missing does not count, and one alone has no interval.
    (line,) = frontier_lines([runs[i] for i in (0, 1, 4, 5, 6)])
    assert "log KL: 1.00 (1 seed;" in line
    assert "as many seeds" in frontier_lines(runs[:6])[0]


def test_frontiers_are_over_eta_alone():
    for settings, count in (
        (("", ""), 0),
        (("learning_rate=1", "learning_rate=2"), 0),
        (("kl_coef=1,learning_rate=1", "kl_coef=1,learning_rate=2"), 0),
        (("kl_coef=1", "kl_coef=2"), 1),
        (("kl_coef=1,learning_rate=1", "kl_coef=2,learning_rate=1"), 1),
    ):
        runs = [outcome(v, 0, i, i + 1, s) for v in "ab" for i, s in enumerate(settings)]
        assert len(frontier_lines(runs)) == count, settings


def test_a_comparison_runs_goes_on_and_is_shown(tmp_path, capsys):
    out = tmp_path / "compared"
    arguments = ["compare", "toy", "--variants", "ppo", "cory-mappo", "--seeds", "2", *SMALL]
    arguments += ["--budget", "responses"]
    assert main([*arguments, "--out", str(out), "--jobs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "4/4 " in shown
    assert "cory-mappo" in shown
    results = json.loads((out / "results.json").read_text())
    assert [(r["variant"], r["seed"], len(r["policies"])) for r in results] == [
        *[("ppo", 0, 1), ("cory-mappo", 0, 2), ("ppo", 1, 1), ("cory-mappo", 1, 2)]
    ]
    assert {r["costs"]["responses"] for r in results} == {2 * 8 * 2}
    assert "ppo: 32 responses" in " ".join(shown.split())
    assert len(read_metrics(out / "runs/ppo/base/0/metrics.jsonl")) == 4
    evaluation = json.loads((out / "runs/ppo/base/1/evaluation.json").read_text())
    alone = next(row for row in evaluation["rows"] if row["name"] == "llm_0")
    assert results[2]["policies"]["llm_0"]["reward"] == alone["reward"][0]
    exported = json.loads((out / "marl_eval.json").read_text())["toy"]["base"]["ppo"]
    assert exported["seed_1"]["absolute_metrics"]["reward"] == [alone["reward"][0]]
    assert exported["seed_0"]["step_1"]["step_count"] == 32
    page = (out / "compare.html").read_text()
    assert "<img" not in page
    for run in ("ppo/base/0", "cory-mappo/base/1"):
        assert f'href="runs/{run}/report.html"' in page
    times = {p: p.stat().st_mtime for p in out.rglob("step_2/*")}
    assert main([*arguments, "--out", str(out)]) == 0
    assert "4 of 4 runs are finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime for p in out.rglob("step_2/*")} == times
    assert main([*arguments, "--out", str(out), "--kl-coef", "0.7"]) == 2
    assert "kl_coef" in capsys.readouterr().err


def test_the_exact_optimum_is_drawn_into_the_plane_of_toy(tmp_path, capsys):
    out, arguments = tmp_path / "compared", ["compare", "toy", "--variants", "ppo", "--seeds", "2"]
    arguments += [*SMALL, "--task-options", "length=1,symbols=2", "--out", str(out)]
    pages = []
    for more in ([], ["--oracle"]):
        assert main([*arguments, *more]) == 0
        pages.append((out / "compare.html").read_text())
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    note = "is the exact optimum of one policy alone"
    assert [note in page for page in pages] == [False, True]
    # One line for the reference of each seed, and what ticks a higher axis has.
    assert pages[1].count("<path") >= pages[0].count("<path") + 2
    assert main(["compare", "imdb", "--oracle", *SMALL, "--out", str(tmp_path / "other")]) == 2
    assert "Expected toy with --oracle, of strings" in capsys.readouterr().err
    long = ["--task-options", "length=4", "--out", str(tmp_path / "other")]
    assert main(["compare", "toy", "--oracle", *SMALL, *long]) == 2
    assert "got toy length=4: leave out --oracle" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_run_that_fails_is_reported_and_stops_no_other(tmp_path, capsys):
    out = tmp_path / "compared"
    broken = out / "runs/ppo/base/0/checkpoints/step_1"
    broken.mkdir(parents=True)
    arguments = ["compare", "toy", "--variants", "ppo", "ippo", "--seeds", "1", *SMALL]
    assert main([*arguments, "--out", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "ppo seed 0: FAILED" in shown
    assert [r["variant"] for r in json.loads((out / "results.json").read_text())] == ["ippo"]
    assert "Expected a whole checkpoint" in (out / "runs/ppo/base/0/log.txt").read_text()


def test_an_interrupt_saves_every_run_and_a_second_call_goes_on(tmp_path):
    out = tmp_path / "compared"
    flags = [*SMALL, "--iterations", "400", "--save-every", "1000"]
    command = [sys.executable, "-m", "agents", "compare", "toy", "--variants", "ppo", "--seeds",
               "2", "--jobs", "2", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    rows = [out / f"runs/ppo/base/{seed}/metrics.jsonl" for seed in (0, 1)]
    until = time.monotonic() + 120
    while not all(p.exists() and p.read_text().count("\n") > 2 for p in rows):
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (130, "interrupted\n")
    done = [len(read_metrics(path)) for path in rows]
    saved = [next((p.parent / "checkpoints").iterdir()).name for p in rows]
    assert saved == [f"step_{n}" for n in done]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "nothing"), "a variant or an algorithm"),
        (("--seeds", "0"), "seeds to be at least 1"),
        (("--evaluation-queries", "0"), "evaluation_queries to be at least 1"),
        (("--kl-coefs", "much"), "much"),
        (("--nonsense", "1"), "--nonsense"),
        (("--jobs", "-1"), "jobs to be at least 0"),
        (("--variants", "ppo", "ppo"), "each of variants once"),
        (("--kl-coef", "0.5", "--kl-coefs", "0.1", "0.2"), "leave out --kl-coef"),
        (("--variants", "ppo", "rloo", "--algorithm", "grpo"), "each of ppo, rloo sets"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, tmp_path, capsys):
    assert main(["compare", "toy", *arguments, "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_a_dry_run_only_lists(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", "toy", "--seeds", "1", "--dry-run", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("to do") == 3
    assert not out.exists()
