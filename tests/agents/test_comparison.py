from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agents.cli import main
from agents.comparison import write_comparison
from agents.records import append_rows
from tests.agents.test_report import HOSTILE, Page, full_run, metrics_rows, run_folder


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
    assert page.count("li", "policy-0") == page.count("li", "policy-1") == 1
    # The range between two seeds is drawn as an area, a single run has none.
    assert len(re.findall(r"FillBetween\w*_\d+\"", page.source)) == page.source.count("<figure")


def test_figures_and_texts_of_all_runs_are_side_by_side_and_nothing_is_loaded(tmp_path):
    page = Page(write_comparison(three_runs(tmp_path), tmp_path / "page.html"))
    assert page.text.count("team: llm_1 after llm_0") == 3
    assert page.text.count("llm_1 at 20") == 2 * 3
    assert "llm_0 at 10" not in page.text
    assert not re.search(r"https?:|//[a-z]|@import|<link|<script", page.source)
    ids = page.ids()
    assert len(ids) == len(set(ids))


def test_what_runs_hold_is_never_obeyed(tmp_path):
    runs = three_runs(tmp_path)
    config = json.loads((runs[0] / "config.json").read_text())
    (runs[0] / "config.json").write_text(json.dumps({**config, "task": HOSTILE}))
    sample = {"iteration": 1, "policy": HOSTILE, "role": HOSTILE, "query": HOSTILE}
    append_rows(runs[0] / "samples.jsonl", [{**sample, "response": HOSTILE, "task_reward": None}])
    page = Page(write_comparison(runs, tmp_path / "page.html"))
    assert not {tag for tag, _ in page.elements} & {"script", "img"}


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
    from agents.records import append_histograms
    from agents.report import write_report

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
    from agents.records import by_role

    roles, rows = by_role(metrics_rows(10))
    assert roles == ["pioneer_0", "observer_0"]
    # An observer of `metrics_rows` is further from the reference by one nat.
    shift = 1.0 if role == "observer_0" else 0.0
    assert [row[f"{role}/kl"] for row in rows] == [0.2 * i + shift for i in range(10)]
