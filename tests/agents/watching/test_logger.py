from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.records.rows import (
    MetricRow,
    SampleRow,
    policy_names,
    read_metrics,
    read_samples,
    role_swaps,
)
from agents.watching.display import duration, print_before_after, sparkline
from agents.watching.logger import MetricLogger


def plain_console() -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, width=80), output


def terminal_console(columns: int = 120) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    environment = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
    return Console(file=output, force_terminal=True, _environ=environment), output


def logger_in(out: Path, total_iterations: int = 10) -> MetricLogger:
    return MetricLogger(out, lambda *_: total_iterations, console=plain_console()[0])


def metrics(iteration: int, num_policies: int = 2) -> MetricRow:
    row: MetricRow = {
        "iteration": iteration,
        "seconds": 2.0,
        "tokens_per_second": 812.4,
    }
    for index in range(num_policies):
        role = "pioneer_0" if (index + iteration // 3) % num_policies == 0 else "observer_0"
        row[f"llm_{index}/role"] = role
        row[f"llm_{index}/task_reward"] = 0.5 + 0.25 * iteration
        row[f"llm_{index}/kl"] = 0.1 * iteration
        row[f"llm_{index}/combined_reward"] = 0.5 + 0.2 * iteration
    return row


def sample(iteration: int, policy: str, response: str = " was good.") -> SampleRow:
    return SampleRow(
        iteration=iteration,
        policy=policy,
        role="alone",
        query="This film",
        response=response,
        task_reward=1.25,
    )


def iterations_in(path: Path) -> list[object]:
    return [row["iteration"] for row in read_metrics(path)]


def test_a_row_is_on_disk_as_one_line_when_log_returns(tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    for iteration in range(3):
        logger.log(metrics(iteration))
        lines = (tmp_path / "metrics.jsonl").read_text().split("\n")
        assert lines.pop() == ""
        assert [json.loads(line)["iteration"] for line in lines] == list(range(iteration + 1))


def test_numbers_that_json_cannot_hold_are_written_as_null(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32("nan")}
    logger_in(tmp_path).log({"iteration": 0, **values, "e": np.float32(0.5), "f": np.int64(3)})  # pyright: ignore[reportArgumentType]
    line = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in line
    assert "Infinity" not in line
    nulls = dict.fromkeys("abcd")
    assert json.loads(line) == {"iteration": 0, **nulls, "e": 0.5, "f": 3}


def test_a_value_that_is_no_number_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'llm_0/kl', got list"):
        logger_in(tmp_path).log({"iteration": 0, "llm_0/kl": [1.0]})  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "metrics.jsonl").exists()


def test_reading_skips_a_cut_short_last_line_even_if_cut_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = '{"iteration": 0, "note": "é"}\n{"iteration": 1, "note": "é"}\n'.encode()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = whole[: length + 1].count(b"}\n")  # a row is whole without its line end too
        assert iterations_in(path) == list(range(expected))


def test_a_broken_line_before_the_last_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iterat\n{"iteration": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, got"):
        read_metrics(path)


def test_reading_a_file_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected a file metrics\.jsonl .* got none\. Give"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_resuming_drops_later_rows_and_a_half_written_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = logger_in(tmp_path)
    for iteration in range(6):
        first.log(metrics(iteration))
    with path.open("a") as file:
        file.write('{"iteration": 6, "llm_0/ta')
    resumed = logger_in(tmp_path)
    resumed.truncate_after(3)
    assert iterations_in(path) == [0, 1, 2, 3]
    resumed.log(metrics(4))
    assert iterations_in(path) == [0, 1, 2, 3, 4]
    assert path.read_text().endswith("}\n")


def test_a_half_written_line_does_not_spoil_the_next_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iteration": 1, "llm')
    logger_in(tmp_path).log(metrics(1))
    assert iterations_in(path) == [0, 1]


def test_truncating_keeps_the_old_file_if_the_new_one_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logger_in(tmp_path)
    for iteration in range(3):
        logger.log(metrics(iteration))
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        logger.truncate_after(0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_samples_are_kept_up_to_the_updates_behind_them(tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    for iteration in range(4):
        logger.log(metrics(iteration))
        logger.samples([sample(iteration + 1, "llm_0")])
    logger.truncate_after(1)
    assert [row["iteration"] for row in read_samples(tmp_path / "samples.jsonl")] == [1, 2]


def test_truncating_after_minus_one_starts_anew(tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    logger.samples([sample(0, "reference")])
    logger.log(metrics(0))
    logger.truncate_after(-1)
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    assert read_samples(tmp_path / "samples.jsonl") == []
    logger.log(metrics(0))
    assert iterations_in(tmp_path / "metrics.jsonl") == [0]


def test_an_iteration_that_is_already_there_is_refused(tmp_path: Path) -> None:
    logger_in(tmp_path).log(metrics(4))
    resumed = logger_in(tmp_path)
    with pytest.raises(ValueError, match="after 4, got 4"):
        resumed.log(metrics(4))
    assert iterations_in(tmp_path / "metrics.jsonl") == [4]


def test_a_sample_survives_line_separators_surrogates_and_control_codes(tmp_path: Path) -> None:
    response = " a\u2028b\x85c\nd\x1b[31m\udc80é\U0001f600"
    logger_in(tmp_path).samples([sample(1, "llm_0", response)])
    assert [row["response"] for row in read_samples(tmp_path / "samples.jsonl")] == [response]


def test_of_two_samples_for_one_slot_the_later_counts(tmp_path: Path) -> None:
    logger = logger_in(tmp_path)
    logger.samples([sample(1, "llm_0", " old"), sample(1, "llm_1", " other")])
    logger.samples([sample(1, "llm_0", " new")])
    rows = read_samples(tmp_path / "samples.jsonl")
    assert {row["policy"]: row["response"] for row in rows} == {"llm_0": " new", "llm_1": " other"}


def test_without_a_terminal_each_iteration_is_one_plain_line_with_stable_columns(
    tmp_path: Path,
) -> None:
    console, output = plain_console()
    with MetricLogger(tmp_path, lambda *_: 100, console=console) as logger:
        for iteration in range(12):
            logger.log(metrics(iteration))
        logger.log(metrics(12) | {"llm_0/kl": math.nan, "llm_0/task_reward": -123456.0})
    lines = output.getvalue().splitlines()
    assert len(lines) == 13
    assert output.getvalue().isascii()
    assert "\x1b" not in output.getvalue()
    for word in ("| llm_0", "| llm_1", " reward", " kl", " reward-eta*kl", "tok/s", "| left"):
        assert len({line.index(word) for line in lines}) == 1, word
    assert lines[1].startswith("  2/100 | llm_0 pioneer_0  reward    0.750 kl    0.100")


def test_one_policy_has_one_block_in_the_plain_line(tmp_path: Path) -> None:
    console, output = plain_console()
    MetricLogger(tmp_path, lambda *_: 5, console=console).log(metrics(0, num_policies=1))
    assert output.getvalue().count("llm_") == 1


def test_the_time_left_follows_the_pace_and_a_resumed_run_counts_only_what_remains(
    tmp_path: Path,
) -> None:
    for iteration in range(4):
        logger_in(tmp_path).log(metrics(iteration))
    console, output = plain_console()
    now = 1000.0
    with MetricLogger(tmp_path, lambda *_: 10, console=console, clock=lambda: now) as logger:
        for iteration, duration_s in ((4, 60.0), (5, 30.0), (6, 10.0)):
            now += duration_s
            logger.log(metrics(iteration))
    lines = output.getvalue().splitlines()
    assert [line.rpartition("left ")[2].strip() for line in lines] == [
        "0:00:10",  # 5 iterations of the 2 seconds that the row reports
        "0:02:00",  # 4 of 30 seconds
        "0:01:00",  # 3 of (30 + 10) / 2 seconds
    ]


def test_on_a_terminal_the_live_table_shows_each_policy_its_change_and_its_text(
    tmp_path: Path,
) -> None:
    console, output = terminal_console()
    with MetricLogger(tmp_path, lambda *_: 10, console=console) as logger:
        logger.samples([sample(0, "reference", " never shown"), sample(0, "llm_1", " was [b]x")])
        for iteration in range(4):
            logger.log(metrics(iteration))
    shown = output.getvalue()
    for word in ("4/10", "llm_0", "llm_1", "observer_0", "1.250", "+0.750", "tok/s", "left"):
        assert word in shown
    assert "was [b]x" in shown
    assert "never shown" not in shown


def test_ctrl_c_leaves_the_terminal_with_a_visible_cursor(tmp_path: Path) -> None:
    console, output = terminal_console()

    def train_until_interrupted() -> None:
        with MetricLogger(tmp_path, lambda *_: 10, console=console) as logger:
            logger.log(metrics(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_until_interrupted()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert output.getvalue().count(hide) == output.getvalue().count(show) == 1
    assert output.getvalue().rindex(show) > output.getvalue().rindex(hide)


def test_escape_codes_of_a_model_do_not_reach_the_terminal(tmp_path: Path) -> None:
    console, output = terminal_console()
    rows = [sample(0, "reference"), sample(1, "llm_0", " \x1b]0;owned\x07\x1b[2J bad")]
    with MetricLogger(tmp_path, lambda *_: 10, console=console) as logger:
        logger.samples(rows)
        logger.log(metrics(0))
    print_before_after(rows, console)
    assert output.getvalue().count("bad") >= 2
    assert "\x1b]0;" not in output.getvalue()
    assert "\x1b[2J" not in output.getvalue()


def test_before_and_after_shows_the_reference_and_only_the_last_text_of_each_policy() -> None:
    console, output = plain_console()
    rows = [
        sample(0, "reference", " was long."),
        sample(5, "llm_0", " was middling."),
        sample(10, "llm_0", " was great."),
        sample(10, "llm_1", " was [bold]grand[/bold]."),
    ]
    print_before_after(rows, console)
    shown = output.getvalue()
    positions = [shown.index(word) for word in ("This film", "long", "great", "[bold]grand[/bold]")]
    assert positions == sorted(positions)
    assert "middling" not in shown
    assert shown.count("1.250") == 3


def test_before_and_after_prints_the_query_in_bold() -> None:
    console, output = terminal_console()
    print_before_after([sample(0, "reference")], console)
    assert "\x1b[1mThis film" in output.getvalue()


def test_before_and_after_of_no_samples_prints_nothing() -> None:
    console, output = plain_console()
    print_before_after([], console)
    assert output.getvalue() == ""


def test_a_sparkline_rises_with_its_values_and_leaves_gaps_blank() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], cells=2) == "▁█"
    assert sparkline([0, math.nan, 7]) == "▁ █"
    assert sparkline([3.0, 3.0]) == "▄▄"
    assert sparkline([]) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (math.nan, "-:--:--")],
)
def test_a_duration_reads_as_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_policies_come_in_the_order_of_their_numbers() -> None:
    keys = ["seconds", "llm_10/kl", "llm_2/kl", "llm_0/kl"]
    assert policy_names([dict.fromkeys(keys, 0.0)]) == ["llm_0", "llm_2", "llm_10"]


def test_swaps_are_where_a_role_differs_from_the_row_before() -> None:
    rows: list[MetricRow] = [{"iteration": i, "llm_0/role": r} for i, r in enumerate("ppooop")]
    assert role_swaps(rows) == [2, 5]
