from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.records.rows import append_rows
from agents.reports.run_page import write_report
from agents.reports.runs_page import write_comparison
from agents.studies.outcomes import FIGURES, read_outcome
from agents.studies.page import write_findings
from agents.studies.plan import Job
from tests.agents.reports.test_run_page import HOSTILE, Page, full_run, metrics_rows, run_folder


def three_runs(folder: Path) -> list[Path]:
    """Two seeds of one configuration, and one of another."""
    runs = [full_run(folder / name) for name in ("a", "b", "c")]
    for run, changes in zip(runs, ({"seed": 1}, {"seed": 2}, {"kl_coef": 0.5}), strict=True):
        config = json.loads((run / "config.json").read_text())
        config |= {"kl_coef": 0.28, "out": str(run), **changes}
        (run / "config.json").write_text(json.dumps(config))
    return runs


def test_only_fields_that_differ_are_in_the_table_and_seeds_share_a_curve(tmp_path):
    page = Page(write_comparison(three_runs(tmp_path), tmp_path / "page.html"))
    differences = page.text.partition("What differs")[2].partition("Training")[0]
    assert "kl_coef" in differences
    assert "seed" in differences
    for same in ("algorithm", "iterations", "out", str(tmp_path)):
        assert same not in differences.partition("alone.")[2]
    assert "3 runs of 2 configurations" in page.text
    legend = [a["class"] for tag, a in page.elements if tag == "li" and "style-0" in str(a)]
    assert legend == ["policy-0 style-0", "policy-1 style-0"]
    # The range between two seeds is drawn as an area, a single run has none.
    assert len(re.findall(r"FillBetween\w*_\d+\"", page.source)) == page.source.count("<figure")


def test_figures_and_texts_of_all_runs_are_side_by_side_and_nothing_is_loaded(tmp_path):
    page = Page(write_comparison(three_runs(tmp_path), tmp_path / "page.html"))
    assert page.text.count("team: llm_1 after llm_0") == 3
    assert page.text.count("llm_1 at 20") == 2 * 3
    assert "llm_0 at 10" not in page.text
    ours = re.sub(r"<script>.*?</script>", "", page.source, flags=re.DOTALL)
    assert not re.search(r"https?:|//[a-z]|@import|<link", ours)
    ids = page.ids()
    assert len(ids) == len(set(ids))


COMPARED = (("a", "", 1), ("a", "", 2), ("b<i>", "", 1))
GRID = (("a", "kl_coef=0.1", 1), ("a", "kl_coef=0.3", 1), ("b", "kl_coef=0.1", 1))


@pytest.fixture
def findings(tmp_path):
    """Yield a function that writes the page of `compare` for runs by variant, setting and seed."""

    def write(runs: Sequence[tuple[str, str, int]]) -> Page:
        jobs = []
        for variant, setting, seed in runs:
            run = full_run(
                tmp_path / "runs" / variant.strip("<>") / (setting or "base") / str(seed)
            )
            rows = [
                {"name": name, **{figure: [mean, mean - 1, mean + 1] for figure in FIGURES}}
                for name, mean in (("reference", 1.0), ("llm_0", 2.0 + seed), ("llm_1", 3.0 + seed))
            ]
            evaluation = {"split": "test", "num_queries": 8, "rows": rows}
            (run / "evaluation.json").write_text(json.dumps(evaluation))
            write_report(run)
            config = TrainConfig(task="imdb", seed=seed, out=str(run))
            jobs.append(Job(variant=variant, setting=setting, config=config))
        return Page(write_findings(jobs, [read_outcome(job) for job in jobs], tmp_path))

    return write


def test_compare_writes_the_page_of_its_runs_with_a_table_before_it(findings, tmp_path):
    page = findings(COMPARED)
    places = [page.text.index(t) for t in ("Variants", "Reward and KL", "What differs", "Training")]
    assert places == sorted(places)
    assert "The same queries" in page.text
    assert "3 runs of 2 configurations" in page.text
    links = [str(attributes["href"]) for tag, attributes in page.elements if tag == "a"]
    assert [link for link in links if link.endswith(".html")] == [
        *("runs/a/base/1/report.html", "runs/a/base/2/report.html", "runs/b%3Ci/base/1/report.html")
    ]
    assert links.count("runs/b%3Ci/base/1/metrics.jsonl") == 1
    assert not {tag for tag, _ in page.elements} & {"img", "i"}
    assert json.loads((tmp_path / "results.json").read_text())[2]["variant"] == "b<i>"


def test_no_column_of_the_table_is_out_of_sight_on_a_narrow_screen(findings):
    page = findings(COMPARED)
    heads = ["Task reward", "KL, nats", "Combined", "Distinct-2", "Collapsed", "Runs"]
    labels = [a["data-label"] for tag, a in page.elements if tag == "td" and "data-label" in a]
    assert labels == heads * 2
    assert ".cardlike td::before { content: attr(data-label)" in page.source


def test_figures_take_their_colours_from_the_page_and_settings_have_a_line_style(findings):
    page = findings(GRID)
    drawings = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)
    assert drawings
    assert not re.search(r"(?:stroke|fill): (?:#|rgb)", "".join(drawings))
    reward = page.source[page.source.index("all-task_reward-") :].partition("</svg>")[0]
    assert reward.count("stroke-dasharray") == 1, "the second setting"
    assert page.count("li", "style-1") == 1
    assert "Reward at equal KL" in page.text
    ids = page.ids()
    assert len(ids) == len(set(ids))


def test_what_there_is_of_single_runs_is_folded_where_they_are_many(findings):
    page = findings([(variant, "", seed) for variant in ("a", "b") for seed in range(4)])
    opened = ["open" in attributes for tag, attributes in page.elements if tag == "details"]
    assert opened[:2] == [False, False], "differences, and the evaluation of every run"
    assert opened[2:] == [True] + [False] * (len(opened) - 3), "the texts of the first query"


def test_what_runs_hold_is_never_obeyed(tmp_path):
    runs = three_runs(tmp_path)
    config = json.loads((runs[0] / "config.json").read_text())
    (runs[0] / "config.json").write_text(json.dumps({**config, "task": HOSTILE}))
    sample = {"iteration": 1, "policy": HOSTILE, "role": HOSTILE, "query": HOSTILE}
    append_rows(runs[0] / "samples.jsonl", [{**sample, "response": HOSTILE, "task_reward": None}])
    page = Page(write_comparison(runs, tmp_path / "page.html"))
    assert page.count_tags("script") == 3
    assert page.count_tags("img") == 0


def test_runs_of_one_name_are_told_apart_and_unfinished_ones_have_a_place(tmp_path):
    runs = [tmp_path / "x" / "imdb", tmp_path / "y" / "imdb"]
    run_folder(runs[0], metrics_rows(3))
    run_folder(runs[1], [])
    page = Page(write_comparison(runs, tmp_path / "page.html"))
    assert "x/imdb" in page.text
    assert "y/imdb" in page.text


def test_the_command_takes_one_run_or_several(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [str(run) for run in three_runs(tmp_path)]
    assert main(["report", runs[0]]) == 0
    assert main(["report", *runs]) == 0
    assert main(["report", runs[0], "--out", "one.html"]) == 0
    for name in ("a/report.html", "comparison.html", "one.html"):
        assert (tmp_path / name).is_file()
    capsys.readouterr()
    assert main(["report"]) == 2
    assert main(["report", runs[0], runs[0]]) == 2
    assert "once" in capsys.readouterr().err


def test_the_page_of_a_run_has_curves_by_role_and_a_map_per_policy_and_quantity(tmp_path):
    from agents.records.rows import append_histograms
    from agents.reports.run_page import write_report

    run = run_folder(tmp_path, metrics_rows(3))
    for iteration in range(3):
        edges = {"kl": [0.0, 0.5, 1.0], "log_ratio": [-1.0, 0.0, 1.0]}
        counts = {f"{p}/{q}": [4, iteration] for p in ("llm_0", "llm_1") for q in edges}
        row = {"iteration": iteration, "edges": edges, "counts": counts}
        append_histograms(run / "histograms.jsonl", row)  # type: ignore[arg-type]
    page = Page(write_report(run))
    assert page.count("figure", "panel") == 4 + 3 + 4
    for name in ("By role", "pioneer", "observer", "KL per token, llm_1", "Log-ratio per token"):
        assert name in page.text
    ids = page.ids()
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("role", ["pioneer_0", "observer_0"])
def test_by_role_follows_the_seat_not_the_policy(role):
    from agents.records.rows import by_role

    roles, rows = by_role(metrics_rows(10))
    assert roles == ["pioneer_0", "observer_0"]
    # An observer of `metrics_rows` is further from the reference by one nat.
    shift = 1.0 if role == "observer_0" else 0.0
    assert [row[f"{role}/kl"] for row in rows] == [0.2 * i + shift for i in range(10)]
