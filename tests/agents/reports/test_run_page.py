from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agents.maths.figures import moving_mean, smoothing_window
from agents.records.rows import MetricRow, SampleRow, append_rows
from agents.reports.run_page import write_report
from agents.reports.series import Stage, metric_curves
from agents.reports.svg import curve_svg

HOSTILE = "<script>alert('x')</script> & <img src=x onerror=alert(1)> \x00\x1b[31m $\\frac{"
SWAP_EVERY = 4


class Page(HTMLParser):
    """The elements and the visible text of a page; complains about tags that do not match."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text += data

    def ids(self) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get("id"))]

    def count_tags(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def count(self, tag: str, css_class: str) -> int:
        return sum(
            tag == name and css_class in (attributes.get("class") or "").split()
            for name, attributes in self.elements
        )


def metrics_rows(num_rows: int, num_policies: int = 2) -> list[MetricRow]:
    rows: list[MetricRow] = []
    for iteration in range(num_rows):
        row: MetricRow = {"iteration": iteration, "seconds": 61.0, "tokens_per_second": 812.0}
        for index in range(num_policies):
            name, seat = f"llm_{index}", (index + iteration // SWAP_EVERY) % num_policies
            row[f"{name}/role"] = f"observer_{seat - 1}" if seat else "pioneer_0"
            row[f"{name}/task_reward"] = 0.5 + 0.1 * iteration + index
            # An observer is further from the reference by one nat.
            row[f"{name}/kl"] = 0.2 * iteration + (1.0 if seat else 0.0)
            row[f"{name}/combined_reward"] = None if iteration == 1 else 0.5 + 0.04 * iteration
        rows.append(row)
    return rows


def sample_rows(response: str = " was good.") -> list[SampleRow]:
    slots = [(0, "reference"), (10, "llm_0"), (10, "llm_1"), (20, "llm_0"), (20, "llm_1")]
    return [
        SampleRow(
            iteration=iteration,
            policy=policy,
            role="alone",
            query=query,
            response=f"{response} {policy} at {iteration}",
            task_reward=-0.25 if policy == "reference" else 2.5,
        )
        for query in ("This film", "The acting")
        for iteration, policy in slots
    ]


def run_folder(out: Path, rows: list[MetricRow], **config: object) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    defaults = {"task": "imdb", "algorithm": "mappo", "iterations": 20, "seed": 7}
    (out / "config.json").write_text(json.dumps(defaults | config))
    append_rows(out / "metrics.jsonl", rows)
    return out


def full_run(out: Path) -> Path:
    run_folder(out, metrics_rows(20))
    append_rows(out / "samples.jsonl", sample_rows())
    evaluation = {
        "split": "test",
        "num_queries": 512,
        "rows": [
            {"name": "reference", "reward": [0.21, 0.12, 0.3], "kl": [0.0, 0.0, 0.0]},
            {"name": "llm_0", "reward": [2.74, 2.63, 2.85], "kl": [6.25, None, None]},
            {"name": "team: llm_1 after llm_0", "reward": [2.97, 2.88, 3.06], "kl": None},
        ],
    }
    (out / "evaluation.json").write_text(json.dumps(evaluation))
    return out


def test_rates_have_a_table_of_their_own(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert "Greedy" not in write_report(run).read_text()
    first, *_, last = evaluation["rows"]
    first |= {"pass_at": {"1": [0.25, 0.2, 0.3], "<8": [0.5, 0.4, 0.6]}, "greedy": [0.75, 0.7, 0.8]}
    last |= {"gap": [0.42, 0.35, 0.49]}
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"samples": 8, "k": [1, 8]}))
    source = write_report(run).read_text()
    for part in ("pass@1", "pass@&lt;8", "Greedy", "With partner − alone", "0.75", "0.42"):
        assert part in source
    assert "<8" not in source


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    page = Page(write_report(full_run(tmp_path)))
    ours = re.sub(r"<script>.*?</script>", "", page.source, flags=re.DOTALL)
    assert not re.search(r"https?:|//[a-z]|@import|<link", ours)
    assert re.findall(r"url\((?!#)", page.source) == []
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        for reference in ("href", "xlink:href"):
            assert re.match(r"#|[a-z]+\.jsonl?$", attributes.get(reference) or "#")
        assert not any(name.startswith("on") for name in attributes)


def test_every_id_is_used_once_and_every_reference_finds_its_id(tmp_path: Path) -> None:
    page = Page(write_report(full_run(tmp_path)))
    ids = page.ids()
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", page.source))
    assert {first or second for first, second in referred} <= set(ids)


def test_title_facts_headline_and_configuration_are_on_the_page(tmp_path: Path) -> None:
    text = Page(write_report(full_run(tmp_path))).text
    for fact in ("imdb · mappo", "seed 7", "20 iterations", "20 min", "812 tokens/s"):
        assert fact in text
    assert "unfinished" not in text
    for key in ("task", "algorithm", "iterations", "seed"):
        assert key in text.partition("Configuration")[2]


def test_the_headline_averages_over_a_whole_exchange_of_roles(tmp_path: Path) -> None:
    page = Page(write_report(run_folder(tmp_path, metrics_rows(20))))
    # The last 8 iterations, 12 to 19, hold each role four times: 0.2 · 15.5 + ½.
    assert (
        "Large: mean over the last 8 iterations, in which every policy had each role" in page.text
    )
    assert page.source.count("<strong>3.60</strong>") == 2
    assert "from 0.50" in page.text


def test_an_interval_table_shows_means_with_their_bounds(tmp_path: Path) -> None:
    page = Page(write_report(full_run(tmp_path)))
    assert "512 queries of the test split" in page.text
    assert "2.74 2.63 to 2.85" in page.text
    assert "team: llm_1 after llm_0" in page.text
    assert page.count("svg", "whisker") == 4  # three rewards and one KL have an interval


def test_texts_come_in_order_with_the_reference_first(tmp_path: Path) -> None:
    text = Page(write_report(full_run(tmp_path))).text.partition("The same queries over time")[2]
    block = text[text.rindex("This film") : text.rindex("The acting")]  # behind the tools
    wanted = ("reference at 0", "llm_0 at 10", "llm_0 at 20", "llm_1 at 10", "llm_1 at 20")
    positions = [block.index(words) for words in wanted]
    assert positions == sorted(positions)
    assert block.count("−0.25") == 1
    assert block.count("2.50") == 4


def test_what_a_model_wrote_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    run = run_folder(tmp_path, metrics_rows(3), task=HOSTILE, note={"deep": HOSTILE})
    rows = sample_rows(HOSTILE)
    for row in rows:
        row["query"] = row["role"] = HOSTILE
    append_rows(run / "samples.jsonl", rows)
    evaluation = {"split": HOSTILE, "num_queries": HOSTILE, "rows": [{"name": HOSTILE}]}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    page = Page(write_report(run))
    assert page.count_tags("script") == 3
    assert page.count_tags("img") == 0
    assert page.text.count("<script>alert('x')</script>") > len(rows)
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", page.source)


def test_roles_in_the_metrics_cannot_break_a_figure(tmp_path: Path) -> None:
    rows = metrics_rows(3)
    for row in rows:
        row["llm_0/role"] = HOSTILE
    page = Page(write_report(run_folder(tmp_path, rows)))
    assert page.count_tags("script") == 3


def test_swaps_are_marked_in_every_curve_at_the_iterations_where_roles_change(
    tmp_path: Path,
) -> None:
    page = Page(write_report(run_folder(tmp_path, metrics_rows(20))))
    for metric in ("task_reward", "kl", "combined_reward"):
        marked = [name for name in page.ids() if name.startswith(f"{metric}-swap-")]
        assert marked == [f"{metric}-swap-{iteration}" for iteration in (4, 8, 12, 16)]
    assert "roles exchanged, 4 times" in page.text


def test_a_swap_line_stands_between_the_iterations_it_parts() -> None:
    rows = metrics_rows(20)
    curves = metric_curves(rows, "kl", {"llm_0": 0, "llm_1": 1})
    svg = curve_svg(curves, Stage.of(rows), "kl-")
    swaps = re.findall(r'id="kl-swap-(\d+)">\s*<path d="M ([\d.]+)', svg)
    (first, first_x), *_, (last, last_x) = [(int(it), float(x)) for it, x in swaps]
    # The first curve drawn is llm_0's, one point per iteration, from the first to the last.
    scale = (last_x - first_x) / (last - first)
    faint = re.search(r'<path d="M ([\d.]+) [^"]*\nL ([\d.]+) \S+\s*"[^>]*opacity: 0\.35', svg)
    assert faint is not None
    assert first_x == pytest.approx(float(faint[1]) + scale * (first - 0.5), abs=1e-3)
    assert scale == pytest.approx((float(faint[2]) - float(faint[1])) / 19, abs=1e-3)


def test_a_run_without_swaps_has_no_swap_lines_and_says_nothing_of_them(tmp_path: Path) -> None:
    page = Page(write_report(run_folder(tmp_path, metrics_rows(SWAP_EVERY))))
    assert not [name for name in page.ids() if "swap" in name]
    assert "exchanged" not in page.text


def test_an_unfinished_run_of_one_policy_has_a_report(tmp_path: Path) -> None:
    page = Page(write_report(run_folder(tmp_path, metrics_rows(1, num_policies=1))))
    assert "unfinished" in page.text
    assert "1 of 20 iterations" in page.text
    assert page.count("article", "card") == 1
    assert page.count("figure", "panel") == 4
    assert "Evaluation" not in page.text
    assert "same queries" not in page.text


def test_a_run_before_its_first_iteration_has_a_report(tmp_path: Path) -> None:
    page = Page(write_report(run_folder(tmp_path, [])))
    assert "No iteration has finished yet." in page.text
    assert page.count("figure", "panel") == 0


def test_metrics_that_are_all_null_leave_their_panel_out(tmp_path: Path) -> None:
    rows = metrics_rows(3)
    for row in rows:
        row["llm_0/entropy"] = row["llm_1/entropy"] = None
    page = Page(write_report(run_folder(tmp_path, rows)))
    assert "Entropy" not in page.text
    assert "Task reward" in page.text


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    first = write_report(full_run(tmp_path / "a" / "run")).read_bytes()
    second = write_report(full_run(tmp_path / "b" / "run")).read_bytes()
    assert first == second


def test_both_schemes_are_there_and_curves_take_their_colours_from_them(tmp_path: Path) -> None:
    page = Page(write_report(full_run(tmp_path)))
    assert "prefers-color-scheme: dark" in page.source
    drawings = re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL)
    assert drawings
    for drawing in drawings:
        assert not re.search(r"(stroke|fill): #", drawing)
    variables = set(re.findall(r"var\((--[\w-]+)", page.source))
    light, dark = re.findall(r":root \{(.*?)\}", page.source, flags=re.DOTALL)
    for variable in variables - {"--own"}:
        assert f"{variable}:" in light
        assert f"{variable}:" in dark


def test_a_failed_write_leaves_the_old_report_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = full_run(tmp_path)
    before = write_report(run).read_bytes()
    files = sorted(tmp_path.iterdir())

    def fail(*_: object) -> None:
        raise OSError("no space left")

    append_rows(run / "metrics.jsonl", [metrics_rows(21)[-1]])
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("kind", ["no such folder", "an empty folder", "a folder with neither"])
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    if kind != "no such folder":
        run.mkdir()
    if kind == "a folder with neither":
        (run / "notes.txt").touch()
    with pytest.raises(ValueError, match=rf"Expected a run folder .*, got {kind}\. Give") as error:
        write_report(run)
    assert "\n" not in str(error.value)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["config.json", "evaluation.json"])
@pytest.mark.parametrize("content", ["[1]", '{"task": '])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    run = full_run(tmp_path)
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=rf"Expected a JSON object in .*{name}, got"):
        write_report(run)


def test_a_moving_mean_is_centred_cut_off_at_the_ends_and_blind_to_nan() -> None:
    assert moving_mean([0.0, 3.0, 6.0, 0.0], 3) == [1.5, 3.0, 3.0, 3.0]
    assert moving_mean([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]
    assert math.isnan(moving_mean([math.nan], 3)[0])


@pytest.mark.parametrize(("num_rows", "window"), [(1, 1), (23, 1), (24, 3), (60, 5), (100, 9)])
def test_a_longer_run_is_smoothed_more(num_rows: int, window: int) -> None:
    assert smoothing_window(num_rows) == window
