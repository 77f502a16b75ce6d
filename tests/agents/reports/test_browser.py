"""The page of a run in a real browser: what a reader can do with it, and what a text cannot."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.records.rows import append_rows
from agents.reports.run_page import write_report
from agents.reports.runs_page import write_comparison
from agents.reports.serve import ReportServer
from tests.agents.reports.test_run_page import (
    HOSTILE,
    full_run,
    metrics_rows,
    run_folder,
    sample_rows,
)
from tests.agents.reports.test_runs_page import three_runs
from tests.browser import Tab, browser

KEYS = "[...document.querySelectorAll('.keys')]"
ATTACKS = (
    HOSTILE,
    "</script><script>window.hostile = 1</script>",
    '"><svg onload="window.hostile = 1">',
    "<a href=javascript:window.hostile=1>x</a>",
    "{{ 7 * 7 }} {% raw %} ]]> <!-- ",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Tab]:
    with browser() as opened:
        yield opened


@pytest.fixture
def tab(chromium: Tab) -> Iterator[Tab]:
    chromium.begin()
    yield chromium
    assert chromium.errors == []


def open_run(tab: Tab, page: Path | str, charts: int = 3) -> None:
    tab.open(page)
    tab.wait(f"document.querySelectorAll('.uplot').length >= {charts}")


def values(tab: Tab, chart: int = 0) -> str:
    return tab.run(f"{KEYS}[{chart}].textContent")


def test_the_cursor_shows_values_in_all_charts_and_keys_move_it(tab, tmp_path):
    open_run(tab, write_report(full_run(tmp_path)))
    assert values(tab).startswith("last iteration")
    x, y = tab.run(
        "(() => { const b = document.querySelector('.u-over').getBoundingClientRect();"
        " return [b.left + b.width * 5.5 / 20, b.top + 20]; })()"
    )
    tab.mouse("mouseMoved", x, y)
    tab.wait(f"{KEYS}[0].textContent.startsWith('iteration 5')")
    # llm_0 earns 0.5 + 0.1 · 5 there, and both charts stand at the same iteration.
    assert "llm_0 1.00" in values(tab)
    assert values(tab, 1).startswith("iteration 5")
    tab.run("document.querySelector('.chart').focus()")
    tab.press("ArrowRight")
    assert values(tab).startswith("iteration 6")
    assert values(tab, 2).startswith("iteration 6")


def test_zoom_by_keys_by_buttons_and_by_dragging_holds_for_all_charts(tab, tmp_path):
    open_run(tab, write_report(full_run(tmp_path)))
    assert tab.run("document.querySelector('[data-zoom=all]').disabled")
    tab.run("document.querySelector('.chart').focus()")
    tab.press("+")
    assert not tab.run("document.querySelector('[data-zoom=all]').disabled")
    tab.press("Escape")
    assert tab.run("document.querySelector('[data-zoom=all]').disabled")
    box = tab.run(
        "(() => { const b = document.querySelectorAll('.u-over')[1].getBoundingClientRect();"
        " return [b.left, b.top, b.width]; })()"
    )
    tab.mouse("mouseMoved", box[0] + box[2] * 0.2, box[1] + 30)
    tab.mouse("mousePressed", box[0] + box[2] * 0.2, box[1] + 30)
    tab.mouse("mouseMoved", box[0] + box[2] * 0.4, box[1] + 30)
    tab.mouse("mouseReleased", box[0] + box[2] * 0.4, box[1] + 30)
    tab.wait("!document.querySelector('[data-zoom=all]').disabled")
    tab.run("document.querySelector('.chart').focus()")
    tab.press("End")
    # From 20 % to 40 % of 20 iterations: the last one shown is 7, in the chart beside it, too.
    assert values(tab).startswith("iteration 7")
    assert values(tab, 1).startswith("iteration 7")
    tab.run("document.querySelector('[data-zoom=all]').click()")
    tab.run("document.querySelector('.chart').focus()")
    tab.press("End")
    assert values(tab).startswith("iteration 19")


def test_a_line_is_hidden_in_all_charts_by_its_name(tab, tmp_path):
    open_run(tab, write_report(full_run(tmp_path)))
    tab.run(f"{KEYS}[0].querySelector('button').focus()")
    tab.press("Enter")
    pressed = "[...document.querySelectorAll('.keys button')].filter(b => "
    pressed += "b.textContent.startsWith('llm_0')).map(b => b.getAttribute('aria-pressed'))"
    assert set(tab.run(pressed)) == {"false"}
    tab.press("Enter")
    assert set(tab.run(pressed)) == {"true"}


def visible_texts(tab: Tab) -> list[str]:
    shown = "[...document.querySelectorAll('.column li')].filter(li => li.offsetParent)"
    return tab.run(shown + ".map(li => li.querySelector('.response').textContent)")


def change(tab: Tab, control: str, value: str) -> None:
    tab.run(
        f"(() => {{ const c = document.getElementById('{control}'); c.value = '{value}';"
        " c.dispatchEvent(new Event('input')); })()"
    )


def test_texts_are_searched_sorted_filtered_and_marked(tab, tmp_path):
    run = full_run(tmp_path)
    rich = {"iteration": 30, "policy": "llm_0", "role": "alone", "query": "This film"}
    append_rows(run / "samples.jsonl", [{**rich, "response": " was gold.", "task_reward": 9.0}])
    open_run(tab, write_report(run))
    assert len(visible_texts(tab)) == 9
    assert tab.run("document.getElementById('found').textContent") == "9 of 9 texts"
    change(tab, "search", "GOLD")
    assert visible_texts(tab) == ["was gold."]
    change(tab, "search", "this film")
    assert len(visible_texts(tab)) == 5
    change(tab, "order", "down")
    assert visible_texts(tab)[0] == "was gold."
    change(tab, "search", "")
    change(tab, "query", "1")
    assert len(visible_texts(tab)) == 4
    tab.run("document.querySelectorAll('#policies input')[0].click()")
    assert all("llm_1" in text for text in visible_texts(tab))
    assert tab.run("getComputedStyle(document.querySelector('mark')).textDecorationLine") != "none"
    tab.run("document.getElementById('marks').click()")
    assert tab.run("getComputedStyle(document.querySelector('mark')).textDecorationLine") == "none"


def test_what_a_model_wrote_does_nothing_in_a_browser(tab, tmp_path):
    rows = metrics_rows(4)
    run = run_folder(tmp_path / "run", rows, task=HOSTILE, note=list(ATTACKS))
    sample = {"iteration": 1, "policy": "llm_0", "task_reward": 1.0}
    append_rows(
        run / "samples.jsonl",
        [{**sample, "role": attack, "query": attack, "response": attack} for attack in ATTACKS],
    )
    evaluation = {"split": HOSTILE, "rows": [{"name": a, "reward": [1, 0, 2]} for a in ATTACKS]}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    for page in (write_report(run), write_comparison([run, full_run(tmp_path / "b")], run / "c")):
        tab.open(page.rename(page.with_suffix(".html")))
        tab.wait("document.querySelectorAll('.uplot').length >= 1")
        assert tab.run("window.hostile === undefined && document.images.length === 0")
        assert tab.run("document.scripts.length") == 3  # two of ours, and the values
        said = tab.run("document.body.textContent")
        assert "<script>window.hostile = 1</script>" in said
        assert "{{ 7 * 7 }}" in said


def test_a_script_that_slipped_through_would_not_run(chromium, tmp_path):
    page = write_report(full_run(tmp_path))
    source = page.read_text(encoding="utf-8")
    page.write_text(source.replace("</main>", "<script>window.hostile = 1</script></main>"))
    chromium.begin()
    chromium.open(page)
    assert chromium.run("window.hostile === undefined")
    assert any("Content Security Policy" in error for error in chromium.errors)


def test_the_page_loads_nothing_from_elsewhere(tab, tmp_path):
    open_run(tab, write_report(full_run(tmp_path)))
    assert {request.partition(":")[0] for request in tab.requests} <= {"file", "about"}
    assert len({*tab.requests} - {"about:blank"}) == 1


def test_without_scripts_and_on_paper_there_are_drawings(tab, tmp_path):
    page = write_report(full_run(tmp_path))
    some = "[...document.querySelectorAll('{}')].some(s => s.getClientRects().length)"
    drawings, charts = some.format("[data-chart] > svg"), some.format(".chart, .tools")
    tab.look(1200, 3000)
    open_run(tab, page, 6)
    assert not tab.run(drawings)
    assert tab.run(charts)
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert tab.run(drawings)
    assert not tab.run(charts)
    tab.send("Emulation.setEmulatedMedia", media="")
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(page)
    # The page may run nothing now; what a debugger asks still is answered.
    assert tab.run(drawings)
    assert not tab.run(charts)


@pytest.mark.parametrize("make", ["run", "runs"])
def test_nothing_is_wider_than_a_phone_and_dark_is_dark(tab, tmp_path, make):
    runs = three_runs(tmp_path)
    page = write_report(runs[0]) if make == "run" else write_comparison(runs, tmp_path / "c.html")
    tab.look(390, 844, dark=True, phone=True)
    open_run(tab, page, 1)
    assert tab.run("document.documentElement.scrollWidth") == 390
    background = tab.run("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 26)"


def test_a_served_page_renews_itself_and_keeps_what_the_reader_has_set(tab, tmp_path):
    run = run_folder(tmp_path / "run", metrics_rows(5))
    append_rows(run / "samples.jsonl", sample_rows())
    with ReportServer([run], 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        open_run(tab, server.address)
        assert "5 of 20 iterations" in tab.run("document.body.textContent")
        change(tab, "search", "llm_1")
        before = visible_texts(tab)
        assert before
        tab.wait("document.getElementById('live').textContent.startsWith('live')")
        append_rows(run / "metrics.jsonl", metrics_rows(6)[5:])
        tab.wait("document.body.textContent.includes('6 of 20 iterations')")
        tab.wait("document.querySelectorAll('.uplot').length >= 3")
        assert visible_texts(tab) == before
        assert tab.run("document.getElementById('search').value") == "llm_1"
        server.shutdown()


def ask(server: ReportServer, path: str, host: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(server.address + path)
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_server_has_the_page_and_raw_files_and_nothing_else(tmp_path):
    run = full_run(tmp_path / "run")
    (tmp_path / "secret").write_text("secret")
    with ReportServer([run], 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server.server_address[0] == "127.0.0.1"
        assert ask(server, "")[0] == 200
        assert ask(server, "files/metrics.jsonl") == (200, (run / "metrics.jsonl").read_bytes())
        for path in ("files/../secret", "..%2fsecret", "files/report.html", "metrics.jsonl", "x"):
            assert ask(server, path)[0] == 404, path
        # A page of another site whose name leads here says so in its request.
        assert ask(server, "", host="example.org")[0] == 403
        assert ask(server, "files/metrics.jsonl", host="example.org:80")[0] == 403
        before = ask(server, "version")
        assert ask(server, "version") == before
        (run / "evaluation.json").write_text("[1]")
        assert ask(server, "version") != before
        status, text = ask(server, "")
        assert status == 503
        assert b"Expected a JSON object" in text
        server.shutdown()


def test_a_server_of_several_runs_has_the_files_of_each(tmp_path):
    runs = three_runs(tmp_path)
    with ReportServer(runs, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert b"3 runs of 2 configurations" in ask(server, "")[1]
        for place, run in enumerate(runs):
            assert (
                ask(server, f"files/{place}/config.json")[1] == (run / "config.json").read_bytes()
            )
        server.shutdown()


def test_a_port_that_is_taken_and_a_page_for_two_ends_are_refused_in_a_line(tmp_path, capsys):
    run = full_run(tmp_path / "run")
    with ReportServer([run], 0) as server:
        port = str(server.server_address[1])
        assert main(["report", str(run), "--serve", "--port", port]) == 2
        assert f"got {port}: give another" in capsys.readouterr().err
    assert main(["report", str(run), "--serve", "--out", str(tmp_path / "x.html")]) == 2
    assert main(["report", str(tmp_path), "--serve", "--port", "0"]) == 2
    assert "Expected a run folder" in capsys.readouterr().err
