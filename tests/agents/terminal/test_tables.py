"""No figure is cut or left out, however wide the terminal is."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from agents.evaluation.tables import print_evaluation
from agents.studies.outcomes import print_summary
from agents.terminal.tables import Column, fitting, natural_width, stacked
from agents.watching.display import Progress, live_view, print_before_after
from cory_env.rendering import reward_table
from tests.agents.studies.test_run import outcome

WIDTHS = (*range(40, 200), 200)
NARROW = (20, 30)
NUMBER = re.compile(r"[+-]?\d+\.\d+")
NAMES = ("reference", "llm_0", "llm_1", "llm_1 after llm_0", "llm_0 after llm_1")


def shown(print_on, width: int) -> str:
    """Return what is printed, after a look at its width."""
    text = io.StringIO()
    print_on(Console(file=text, width=width))
    assert max(map(len, text.getvalue().splitlines())) <= width
    return text.getvalue()


def evaluation(*, many: bool) -> dict:
    rows = []
    for place, name in enumerate(NAMES):
        figures = [(m + place, m + place - 0.34, m + place + 0.34) for m in (4.01, 11.38, -10.33)]
        row = dict(zip(("reward", "kl", "combined"), figures, strict=True))
        row |= {"name": name, "length": (15.9, 15.1, 16.1), "distinct_2": (0.78, 0.77, 0.79)}
        if many:
            row |= {"greedy": (4.567, 4, 5), "pass_at": {"8": (0.625, 0.5, 0.75)}}
        if "after" in name:
            row["gap"] = (0.021 + place, -0.06, 0.1)
        rows.append(row)
    return {"split": "test", "num_queries": 512, "greedy": False, "rows": rows}


@pytest.mark.parametrize("many", [False, True])
def test_every_figure_of_an_evaluation_is_there_at_every_width(many):
    whole = shown(lambda c: print_evaluation(evaluation(many=many), c), 500)
    numbers = sorted(NUMBER.findall(whole))
    assert len(numbers) == 2 * (5 * 5 + 2 + 10 * many)
    for width in (*NARROW, *WIDTHS):
        text = shown(lambda c: print_evaluation(evaluation(many=many), c), width)
        assert sorted(NUMBER.findall(text)) == numbers, text
        assert "…" not in text
    assert text.count("policy") == 1


def test_a_second_table_has_no_line_without_a_figure():
    text = shown(lambda c: print_evaluation(evaluation(many=False), c), 40)
    last = text[text.rindex("policy") :]
    assert "llm_1 after llm_0 2.9" not in last
    assert "reference" not in last
    assert "gap: reward behind the partner" in " ".join(last.split())


def test_every_figure_of_a_comparison_is_there_at_every_width():
    name = "individual-solo-kl-and-much-more"
    runs = [outcome(name, s, 12.3, 98.7, k) for s in (0, 1) for k in ("kl_coef=0.07", "x=0.0002")]

    def print_on(console: Console) -> None:
        print_summary(runs, console)

    whole = shown(print_on, 500)
    names = NUMBER.findall("0.07 0.0002")
    table = whole[: whole.index("n: runs")]
    numbers = sorted(n for n in NUMBER.findall(table) if n not in names)
    for width in WIDTHS:
        text = shown(print_on, width)
        table = text[: text.index("n: runs")]
        assert sorted(n for n in NUMBER.findall(table) if n not in names) == numbers, text
        assert "…" not in text


def live(policies: int) -> list[dict]:
    row: dict = {"iteration": 0, "seconds": 2.0, "tokens_per_second": 8123.4}
    figures = {"task_reward": 14.801, "kl": 11.38, "combined_reward": -10.332, "entropy": 3.104}
    figures |= {"response_length": 115.9, "distinct_2": 0.781}
    for index in range(policies):
        row[f"llm_{index}/role"] = f"observer_{index}"
        row |= {f"llm_{index}/{name}": value + index for name, value in figures.items()}
    return [{**row, "llm_0/task_reward": 2.0}, row]


@pytest.mark.parametrize("policies", [1, 2, 3])
def test_no_figure_of_the_live_table_is_cut_at_any_width(policies):
    progress = Progress(done=2, total=45, elapsed_s=83.0, left_s=4000.0)
    rows = live(policies)
    view = lambda c: c.print(live_view(rows, {}, progress, c.width))  # noqa: E731
    allowed = set(NUMBER.findall(shown(view, 500)))
    for width in (*NARROW, *WIDTHS):
        text = shown(view, width)
        assert set(NUMBER.findall(text)) <= allowed, text
        assert "…" not in text
        assert "2/45" in text
        for index in range(policies):
            needed = (14.801 + index, 11.38 + index)
            assert all(f"{value:.3f}" in text for value in needed), text
    assert set(NUMBER.findall(text)) == allowed
    assert "left 1:06:40" in text


def test_a_wider_terminal_shows_no_less_of_the_live_table():
    progress = Progress(done=2, total=45, elapsed_s=83.0, left_s=4000.0)
    view = lambda c: c.print(live_view(live(2), {}, progress, c.width))  # noqa: E731
    counts = [len(NUMBER.findall(shown(view, width))) for width in WIDTHS]
    assert counts == sorted(counts)
    assert counts[WIDTHS.index(80)] >= 8


def test_rewards_before_and_after_and_of_a_game_are_whole():
    texts = [
        {"iteration": i, "policy": policy, "role": "observer_0", "query": "This film" * 9,
         "response": " was long and good" * 9, "task_reward": -1234.567}
        for i, policy in ((0, "reference of llm_0"), (9, "llm_0"))
    ]  # fmt: skip
    names, paid = ("pioneer_0", "observer_0 (you)"), (1.0, 1112.5)
    own = ((0.333,), (-112.667, *[2.0] * 7))  # of eight rounds
    for width in (*NARROW, *WIDTHS):
        assert shown(lambda c: print_before_after(texts, c), width).count("-1234.567") == 2
    for width in (30, *WIDTHS):
        text = shown(lambda c: c.print(reward_table(names, own, paid, "mean")), width)
        assert NUMBER.findall(text) == [
            *("0.333", "1.000", "-112.667", "1112.500", *["2.000"] * 7)
        ], text


def test_columns_go_by_rank_and_names_fold_before_a_figure_moves():
    columns = [
        Column("name", ["a name of more than eighteen cells", "b"], "left"),
        Column("first", ["1.00", "2.00"], rank=1),
        Column("second", ["3.00", "4.00"]),
    ]
    whole = natural_width(fitting(columns, 200))
    assert [c.header for c in fitting(columns, whole).columns] == ["name", "first", "second"]
    assert [c.header for c in fitting(columns, whole - 1).columns] == ["name", "second"]
    assert len(stacked(columns, 36)) == 1
    assert [len(t.columns) for t in stacked(columns, 26)] == [2, 2]
