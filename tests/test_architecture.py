"""The house stays legible: short functions, small classes, a page that says where things are."""

from __future__ import annotations

import re
import statistics
import sys

import pytest

from tests.architecture import Block, blocks, floors, iteration_files, rooms, share_95
from tests.test_imports import ROOMS
from tests.trajectories import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
WAY = PAGE.split("## The way of a query")[1].split("Before it")[0]
GROUPS = set(
    re.findall(r'"(cory_env\.\w+)"', (ROOT / "agents/registries.py").read_text(encoding="utf-8"))
)
"""Of entry points: names, but of no module."""
BLOCKS = blocks(ROOT)
FUNCTIONS = [block.lines for block in BLOCKS if not block.is_class]


def longest(block: Block) -> int:
    return 250 if block.is_class else 40


def files_named(text: str) -> set[str]:
    return set(re.findall(r"`((?:agents|cory_env|tests|examples|benchmarks)/[\w/]+\.py)`", text))


def test_most_functions_are_short():
    assert statistics.median(FUNCTIONS) <= 10
    assert share_95(FUNCTIONS) <= 40


def test_no_function_has_more_than_40_lines_and_no_class_more_than_250():
    assert not [block for block in BLOCKS if block.lines > longest(block)]


def test_lines_are_counted_without_docstrings(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/a.py").write_text(
        'class A:\n    """Two\n    lines."""\n\n    x = 1\n    """One."""\n\n'
        "    def f(self):\n        def g():\n            return 1\n\n        return g\n"
    )
    assert blocks(tmp_path) == [
        Block("agents/a.py:A", 9, True),
        Block("agents/a.py:A.f", 5, False),
        Block("agents/a.py:A.f.g", 2, False),
    ]


def test_95_percent_are_those_but_the_longest_of_20():
    assert share_95([*[1] * 19, 99]) == 1
    assert share_95([*[1] * 18, 7, 99]) == 7


def test_floors_are_the_longest_way_and_a_circle_is_one():
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == 3
    assert floors({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    assert not [name for name in files_named(text) if not (ROOT / name).is_file()]
    dotted = re.findall(r"\b(?:agents|cory_env|tests|benchmarks|recipes)(?:\.\w+)+", text)
    names = {name for name in dotted if not name.endswith(".md")} - GROUPS
    assert not [name for name in names if not is_named_in(name)]


def is_named_in(dotted: str) -> bool:
    """Whether the longest beginning that is a module or a package holds what is left."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        if path.is_dir() or path.with_suffix(".py").is_file():
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            left = parts[length:]
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            return not left or re.search(rf"\b{left[0]}\b", text) is not None
    return False


def test_a_stale_name_is_found():
    assert is_named_in("agents.maths.figures.pass_at_k")
    assert not is_named_in("agents.functional.gae")
    assert not is_named_in("agents.maths.figures.gae")


def test_the_way_of_a_query_through_the_learner_is_at_most_12_files():
    assert len([name for name in files_named(WAY) if name.startswith("agents/")]) <= 12


@pytest.mark.slow
def test_the_way_of_a_query_is_that_of_an_iteration():
    assert files_named(WAY) <= set(iteration_files(ROOT))


def import_table(page: str) -> str:
    """Return the rows of the page about the rooms, with what `ROOMS` lets them import."""
    holds = dict(re.findall(r"^\| `(\w+)` \| (.*) \| .* \|$", page, re.MULTILINE))
    there = [room for room in ROOMS if room in rooms(ROOT)]
    rows = []
    for place, room in enumerate(there):
        names = [f"`{above}`" for above in there if above in ROOMS[room]]
        above = "all above" if place and len(names) == place else ", ".join(names) or "–"
        rows.append(f"| `{room}` | {holds.get(room, '')} | {above} |")
    return "\n".join(rows)


def test_the_page_says_who_may_import_whom():
    """If not: `python -m tests.test_architecture --write`, and say what a new room holds."""
    table = import_table(PAGE)
    assert table in PAGE
    assert "|  |" not in table


def main(write: bool) -> None:
    begin, end = PAGE.index("| `types` |"), PAGE.index("\n\n## Where to add")
    page = PAGE[:begin] + import_table(PAGE) + PAGE[end:]
    if write:
        (ROOT / "docs/architecture.md").write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main("--write" in sys.argv)
