"""What an iteration of training costs: ratios to a plain trainer and to TRL, MFU, memory, growth.

    python -m benchmarks.training                        # everything; half an hour on two cores
    python -m benchmarks.training --parts pair --shapes gpt2
    python -m benchmarks.training --short                # a minute: equalities and memory only
    python -m benchmarks.training --device cuda --parts machine pair trl --shapes gpt2 paper

Every candidate runs in a process of its own (`benchmarks/candidates.py`), and all take turns in
every round: a machine that slows down slows all alike. Trust the ratios. TRL takes part where it is
installed (`pip install -c constraints.txt trl`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.candidates import now
from benchmarks.shapes import SHAPES, work, write_model

Part = Literal["machine", "launches", "pair", "trl", "growth", "start"]
BOTH = ("lora", "full")
Measured = dict[str, Any]
"""What a process of `benchmarks.candidates` has printed."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    parts: tuple[Part, ...] = ("machine", "launches", "pair", "trl", "growth", "start")
    """`machine`: what it can do at most. `launches`: operators that are run, counted. `pair`:
    CORY's pair beside the plain trainer. `trl`: one policy beside TRL. `growth`: over batch,
    agents, length. `start`: imports."""
    shapes: tuple[str, ...] = ("embedded", "gpt2")
    """Of `launches`, `pair` and `trl` (`benchmarks/shapes.py`)."""
    rounds: int = 3
    """In which all candidates take turns."""
    iterations: int = 2
    """Counted ones in a round, after one that is not."""
    short: bool = False
    """The smallest shape, one round."""
    device: str = "cpu"
    """`cpu` or `cuda`; memory is that of the device."""
    json: Path | None = None
    """Write all figures to this file as well."""
    figure: Path | None = None
    """Draw `growth` to this file."""


def main() -> None:
    """Measure and show."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.short:
        arguments = Arguments(
            parts=("machine", "launches", "pair", "start"), shapes=("short",), rounds=1,
            iterations=1, device=arguments.device, json=arguments.json,
        )  # fmt: skip
    console = Console(width=100)
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "device": arguments.device}
    with tempfile.TemporaryDirectory() as scratch:
        runner = Runner(Path(scratch), arguments)
        if "machine" in arguments.parts or "pair" in arguments.parts:
            figures["machine"] = machine(arguments.device)
            _show_machine(figures["machine"], console)
        for part, measure, show in (
            ("launches", launches, _show_launches),
            ("pair", pair, _show_pair),
            ("trl", against_trl, _show_trl),
            ("growth", growth, _show_growth),
        ):
            if part in arguments.parts:
                figures[part] = measure(runner, arguments)
                show(figures[part], figures, console)
    if arguments.figure and "growth" in figures:
        draw_growth(figures["growth"], arguments.figure)
    if "start" in arguments.parts:
        figures["start"] = start_times(1 if arguments.short else 5)
        _show_start(figures["start"], console)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


class Runner:
    """Runs candidates in processes of their own, on models that are written once."""

    def __init__(self, scratch: Path, arguments: Arguments):
        self.scratch, self.arguments = scratch, arguments

    def __call__(
        self, candidate: str, shape: str, *, flags: Sequence[str] = (), **options: object
    ) -> Measured:
        """Return what a candidate has printed.

        Raises:
            RuntimeError: with the end of its output, if it has failed.
        """
        folder = self.scratch / shape
        if not folder.exists():
            write_model(SHAPES[shape], folder)
        command = [sys.executable, "-m", "benchmarks.candidates", candidate, shape]
        command += ["--model", str(folder), "--iterations", str(self.arguments.iterations)]
        command += ["--device", self.arguments.device, *flags]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        measured: Measured = json.loads(done.stdout.splitlines()[-1])
        took = ", ".join(
            f"{phase} {seconds([measured], phase):.3f}"
            for phase in ("seconds", "generation", "scoring", "update")
            if phase in measured["rows"][0]
        )
        print(f"{shape} {candidate}: {took}, {measured['peak_mb']:,.0f} MB", flush=True)
        return measured

    def in_turns(self, candidates: Sequence[str], shape: str) -> dict[str, list[Measured]]:
        """Let all candidates run in every round."""
        results: dict[str, list[Measured]] = {name: [] for name in candidates}
        for _ in range(self.arguments.rounds):
            for name in candidates:
                results[name].append(self(name, shape))
        return results


def seconds(runs: Sequence[Measured], phase: str = "seconds") -> float:
    """Return the median over all counted iterations."""
    return median(row[phase] for run in runs for row in run["rows"])


def ratios(slow: Sequence[Measured], fast: Sequence[Measured]) -> tuple[float, float, float]:
    """Return the median, smallest and largest ratio of rounds that were measured side by side."""
    pairs = [seconds([a]) / seconds([b]) for a, b in zip(slow, fast, strict=True)]
    return median(pairs), min(pairs), max(pairs)


def peak_mb(runs: Sequence[Measured]) -> float:
    """Return the largest resident set of the rounds."""
    return max(run["peak_mb"] for run in runs)


def machine(device: str) -> dict[str, float]:
    """Measure the rate of matrix products (FLOP/s) and the rate of reading memory (B/s)."""
    figures = {}
    size = 8192 if device == "cuda" else 2048
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        rate = 2 * size**3 / _fastest(lambda a=a, b=b: torch.nn.functional.linear(a, b))
        figures[str(dtype).removeprefix("torch.")] = rate
    memory = torch.randn(2**30 if device == "cuda" else 2**26, device=device)
    figures["bandwidth"] = memory.numel() * 4 / _fastest(memory.sum)
    return figures


def _fastest(function: Callable[[], object], count: int = 20) -> float:
    function()
    times = []
    for _ in range(count):
        begun = now()
        function()
        times.append(now() - begun)
    return min(times)


def pair(runner: Runner, arguments: Arguments) -> dict[str, Any]:
    """Measure CORY's pair beside the plain trainer."""
    return {shape: runner.in_turns(("plain", "lora", "full"), shape) for shape in arguments.shapes}


def launches(runner: Runner, arguments: Arguments) -> dict[str, Any]:
    """Count what an iteration of LoRA and of full fine-tuning launches: no times, no turns."""
    return {
        shape: {name: runner(name, shape, flags=("--launches",))["launched"] for name in BOTH}
        for shape in arguments.shapes
    }


def against_trl(runner: Runner, arguments: Arguments) -> dict[str, Any]:
    """Measure one policy beside TRL's; nothing where TRL is not installed."""
    if find_spec("trl") is None:
        return {}
    names = [f"{algorithm}-{kind}" for algorithm in ("rloo", "grpo") for kind in ("lora", "full")]
    both = [name for pairs in names for name in (f"trl-{pairs}", pairs)]
    return {shape: runner.in_turns(both, shape) for shape in arguments.shapes}


def growth(runner: Runner, _: Arguments) -> dict[str, Any]:
    """Measure how time grows with batch, agents and the length of responses."""
    return {
        "batch": {n: runner("lora", "embedded", batch_size=n) for n in (16, 32, 64, 128, 256)},
        "agents": {n + 1: runner("lora", "embedded", observers=n) for n in range(4)},
        "new_tokens": {
            SHAPES[name].new_tokens: runner("lora", name) for name in ("long_51", "long")
        },
    }


def start_times(rounds: int) -> dict[str, float]:
    """Return the seconds, the median of rounds, that imports and the help take."""
    commands = {
        "import cory_env": [sys.executable, "-c", "import cory_env"],
        "python -m agents --help": [sys.executable, "-m", "agents", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - begun)
    return {name: median(values[1:]) for name, values in times.items()}


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _show_machine(figures: dict[str, float], console: Console) -> None:
    console.print(
        f"This machine: {figures['float32'] / 1e9:,.0f} GFLOP/s in float32, "
        f"{figures['bfloat16'] / 1e9:,.0f} in bfloat16, reads {figures['bandwidth'] / 1e9:.0f} GB/s"
    )


def _show_pair(results: dict[str, Any], figures: dict[str, Any], console: Console) -> None:
    table = _table(
        "CORY's pair beside a plain trainer",
        *("shape", "", "times faster", "s", "generation", "scoring", "update", "MB", "share"),
    )
    for shape, runs in results.items():
        for name, own in runs.items():
            middle, low, high = ratios(runs["plain"], own)
            counted = work(SHAPES[shape], full=name != "lora")
            rate = figures["machine"]["float32" if name == "plain" else "bfloat16"]
            cells = []
            for phase in ("generation", "scoring", "update"):
                took = seconds(own, phase)
                mfu = getattr(counted, phase) / took / rate
                cells.append(f"{took:.2f} ({mfu:.0%})")
            table.add_row(
                shape, name, f"{middle:.1f} ({low:.1f}–{high:.1f})", f"{seconds(own):.2f}",
                *cells, f"{peak_mb(own):,.0f}", f"{peak_mb(own) / peak_mb(runs['plain']):.2f}",
            )  # fmt: skip
    console.print(table)
    console.print(
        "s: seconds of an iteration, and of its parts, with the share of the machine's rate of "
        "matrix\nproducts (MFU). MB: peak of the process, and its share of the plain trainer's."
    )


def _show_launches(results: dict[str, Any], _: dict[str, Any], console: Console) -> None:
    table = _table(
        "Operators that an iteration launches; in brackets, in shares of full fine-tuning's",
        *("shape", "", "generation", "scoring", "update", "calls of Python", "outside"),
    )
    for shape, runs in results.items():
        for name, own in runs.items():
            cells = [
                f"{own[key]:,.0f} ({own[key] / runs['full'][key]:.2f})"
                for key in ("generation", "scoring", "update", "python_calls")
            ]
            table.add_row(shape, name, *cells, f"{own['outside']:.0%}")
    console.print(table)
    console.print("outside: share of the time that is not within operators, at most.")


def _show_trl(results: dict[str, Any], _: dict[str, Any], console: Console) -> None:
    if not results:
        console.print("TRL is not installed: left out.")
    table = _table(
        "One policy beside TRL",
        *("shape", "", "times faster", "responses / s", "TRL's", "MB", "TRL's"),
    )
    for shape, runs in results.items():
        for name, own in runs.items():
            if name.startswith("trl-"):
                continue
            other = runs[f"trl-{name}"]
            middle, low, high = ratios(other, own)
            size = own[0]["batch_size"]
            table.add_row(
                shape, name, f"{middle:.1f} ({low:.1f}–{high:.1f})",
                f"{size / seconds(own):.1f}", f"{size / seconds(other):.1f}",
                f"{peak_mb(own):,.0f}", f"{peak_mb(other):,.0f}",
            )  # fmt: skip
    console.print(table)


def _show_growth(results: dict[str, Any], _: dict[str, Any], console: Console) -> None:
    table = _table("Growth", "what grows", "to", "s", "s / unit", "MB")
    for name, runs in results.items():
        for size, run in runs.items():
            took = seconds([run])
            table.add_row(
                name, str(size), f"{took:.2f}", f"{took / size:.4f}", f"{peak_mb([run]):,.0f}"
            )
    console.print(table)


def draw_growth(results: dict[str, dict[int, Measured]], path: Path) -> None:
    """Draw seconds of an iteration, and memory, over what grows; dashed: in proportion."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"batch": "episodes", "agents": "agents", "new_tokens": "tokens of a response"}
    *panels, memory = figure.subplots(1, len(results) + 1)
    for axes, (name, runs) in zip(panels, results.items(), strict=True):
        sizes, times = [*runs], [seconds([run]) for run in runs.values()]
        axes.plot(sizes, times, "o-")
        axes.plot(sizes, [times[0] * size / sizes[0] for size in sizes], "k--", linewidth=0.8)
        axes.set(xlabel=titles[name], ylabel="seconds of an iteration", ylim=(0, None))
    sizes = [*results["batch"]]
    memory.plot(sizes, [peak_mb([run]) for run in results["batch"].values()], "o-")
    memory.set(xlabel=titles["batch"], ylabel="peak MB of the process", ylim=(0, None))
    for axes in (*panels, memory):
        axes.set_xlim(0, None)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _show_start(figures: dict[str, float], console: Console) -> None:
    for name, took in figures.items():
        console.print(f"{name}: {took:.2f} s")


if __name__ == "__main__":
    main()
