"""The numbers of the house: rooms, floors, arrows, circles, lengths, files of one iteration.

    python -m tests.architecture [COMMIT ...]

Without a commit, of the working tree. The rules:

- A *room* is a folder of `agents/`, or a file directly in it. The two entrances, `__init__` and
  `__main__`, are none.
- An *arrow* goes from a room to one that a file of it imports, wherever the import stands in the
  file. *Floors* are the rooms on the longest way along arrows.
- A *circle* is a set of files that import each other, late imports and those for types included.
- *Lines* of a function or class are all from its head to its end but docstrings.
- *Files of one iteration* are those whose functions are entered by the second `Trainer.iterate` of
  a run of `toy` with the default algorithm: the files to read for what happens there.
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.trajectories import NOW, checkout

PACKAGES = ("agents", "cory_env")
ENTRANCES = {"__init__", "__main__"}
TOY = (
    "train toy --device cpu --dtype float32 --batch-size 8 --minibatch-size 4"
    " --evaluation-queries 0 --iterations 2 --out"
)
TRACED = """
import sys, threading
from agents.cli import main
inside, calls, files = 0, 0, set()
def enter(frame, event, argument):
    global inside, calls
    code = frame.f_code
    if event not in ("call", "return"):
        return
    if code.co_name == "iterate":
        calls += event == "call"
        inside += 1 if event == "call" else -1
    if inside and calls == 2 and event == "call":
        files.add(code.co_filename)
main = getattr(main, "main", main)
sys.setprofile(enter)
try:
    main(sys.argv[2:])
finally:
    sys.setprofile(None)
    open(sys.argv[1], "w").write("\\n".join(sorted(files)))
"""


@dataclass(frozen=True)
class Block:
    """A function or a class."""

    name: str
    """`file.py:Class.function`."""
    lines: int
    is_class: bool


@dataclass(frozen=True)
class Numbers:
    """What is on the page about the architecture."""

    rooms: int
    floors: int
    arrows: int
    circles: int
    functions: Sequence[int]
    largest_class: int
    iteration: Sequence[str]


def modules(root: Path, *packages: str) -> dict[str, Path]:
    """Return the files of the packages by dotted name."""
    found = {}
    for package in packages or PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, known: Mapping[str, Path]) -> set[str]:
    """Return the modules among `known` that a module imports, anywhere in its file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(known[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & known.keys()) or {node.module}
    return names & known.keys() - {module}


def room_of(module: str) -> str:
    """Return the room of a module of `agents`."""
    return [*module.split("."), "__init__"][1]


def rooms(root: Path) -> dict[str, set[str]]:
    """Return the rooms of `agents`, each with those that it imports."""
    known = modules(root, "agents")
    found: dict[str, set[str]] = {}
    for module in known:
        if (room := room_of(module)) not in ENTRANCES:
            arrows = {room_of(name) for name in imports(module, known)}
            found.setdefault(room, set()).update(arrows - {room} - ENTRANCES)
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the sets of nodes that reach each other, by Warshall's closure."""
    reach = {node: set(graph[node]) for node in graph}
    for middle in graph:
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    together = {
        tuple(sorted(other for other in reach[node] if node in reach[other]))
        for node in graph
        if node in reach[node]
    }
    return sorted(map(list, together))


def floors(graph: Mapping[str, set[str]]) -> int:
    """Return the number of rooms on the longest way; a circle counts as one floor."""
    of = {node: circle[0] for circle in circles(graph) for node in circle}
    flat: dict[str, set[str]] = {}
    for node, below in graph.items():
        name = of.get(node, node)
        flat.setdefault(name, set()).update({of.get(b, b) for b in below} - {name})

    def height(node: str) -> int:
        return 1 + max((height(below) for below in flat[node]), default=0)

    return max(map(height, flat))


def blocks(root: Path) -> list[Block]:
    """Return all functions and classes of both packages."""
    found: list[Block] = []
    for path in modules(root).values():
        name = path.relative_to(root).as_posix()
        found += _blocks(ast.parse(path.read_text(encoding="utf-8")), f"{name}:")
    return found


def _blocks(tree: ast.AST, prefix: str) -> Iterator[Block]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = prefix + node.name
            yield Block(name, _lines(node), isinstance(node, ast.ClassDef))
            yield from _blocks(node, f"{name}.")
        else:
            yield from _blocks(node, prefix)


def _lines(block: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    texts = [
        node
        for node in ast.walk(block)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    docs = sum((node.end_lineno or 0) - node.lineno + 1 for node in texts)
    return (block.end_lineno or 0) - block.lineno + 1 - docs


def iteration_files(root: Path) -> list[str]:
    """Return the files of the packages that the second iteration of a small run enters."""
    with tempfile.TemporaryDirectory(prefix="architecture_") as folder:
        out = Path(folder, "files.txt")
        variables = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-P", "-c", TRACED, str(out), *TOY.split(), f"{folder}/run"]
        subprocess.run(
            command, cwd=root, env={**os.environ, **variables}, check=True, capture_output=True
        )
        entered = {Path(line) for line in out.read_text().splitlines()}
    folders = [root / package for package in PACKAGES]
    ours = [path for path in entered if any(path.is_relative_to(f) for f in folders)]
    return sorted(path.relative_to(root).as_posix() for path in ours)


def numbers(root: Path) -> Numbers:
    """Measure a checkout."""
    graph, all_blocks = rooms(root), blocks(root)
    known = modules(root)
    files = {module: imports(module, known) for module in known}
    return Numbers(
        rooms=len(graph),
        floors=floors(graph),
        arrows=sum(map(len, graph.values())),
        circles=len(circles(files)),
        functions=sorted(block.lines for block in all_blocks if not block.is_class),
        largest_class=max(block.lines for block in all_blocks if block.is_class),
        iteration=iteration_files(root),
    )


def share_95(lengths: Sequence[int]) -> int:
    """Return the length that 95 % of the functions do not exceed."""
    return sorted(lengths)[-(-95 * len(lengths) // 100) - 1]


def table(measured: Mapping[str, Numbers]) -> list[str]:
    """Return the table of the page, a column per commit."""
    columns = [
        [
            *(n.rooms, n.floors, n.arrows, n.circles),
            sum(name.startswith("agents") for name in n.iteration),
            sum(name.startswith("cory_env") for name in n.iteration),
            *(len(n.functions), f"{statistics.median(n.functions):g}", share_95(n.functions)),
            *(max(n.functions), n.largest_class),
        ]
        for n in measured.values()
    ]
    titles = (
        *("rooms of `agents`", "floors", "arrows between rooms", "import circles"),
        *("files of one iteration, `agents`", "files of one iteration, `cory_env`"),
        *("functions", "median, lines", "95 % have at most, lines", "longest function, lines"),
        "largest class, lines",
    )
    lines = [f"| | {' | '.join(measured)} |", f"|---|{'---|' * len(measured)}"]
    rows = zip(*columns, strict=True)
    return lines + [
        f"| {title} | {' | '.join(map(str, row))} |"
        for title, row in zip(titles, rows, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and the files of one iteration of the last column."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.architecture", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("commits", metavar="COMMIT", nargs="*", help=f"{NOW} if none")
    asked = parser.parse_args(arguments)
    measured: dict[str, Numbers] = {}
    with tempfile.TemporaryDirectory(prefix="architecture_") as folder:
        for commit in asked.commits or [None]:
            with checkout(commit, Path(folder, commit or "now")) as code:
                measured[commit or NOW] = numbers(code)
    print("\n".join(table(measured)))
    print("\n" + "\n".join(measured.popitem()[1].iteration))


if __name__ == "__main__":
    main()
