"""The curves of other people's learners: run an example over seeds, and draw all that were run.

    python -m benchmarks.learners run examples/learners/sb3_maskable_ppo.py --seeds 0 1 2
    python -m benchmarks.learners run examples/learners/benchmarl_any.py --algorithm qmix
    python -m benchmarks.learners draw

`run` needs what the example needs (each may have an environment of its own) and nothing else; other
flags go to the example. It writes `docs/learners/EXAMPLE[_ALGORITHM].csv`. `draw` needs matplotlib
and draws `docs/learners.png`.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

FOLDER = Path("docs/learners")
BLIND_OPTIMUM = 1 + 1 / 8
"""What the best pair on `toy` earns if the observer cannot read: eight letters to guess from."""


def run(example: Path, seeds: list[int], flags: list[str]) -> None:
    """Run one example seed by seed and keep the lines `episodes,reward` that it prints."""
    algorithm = flags[flags.index("--algorithm") + 1 :][:1] if "--algorithm" in flags else []
    name = "_".join([example.stem, *algorithm])
    rows: list[list[str]] = []
    for seed in seeds:
        command = [sys.executable, str(example), "--seed", str(seed), *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                episodes, comma, reward = line.strip().partition(",")
                if comma and episodes.isdigit():
                    rows.append([str(seed), episodes, reward])
                    print(name, *rows[-1], flush=True)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["seed", "episodes", "reward"], *rows])


def read(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curve of each seed."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            curves[row["seed"]].append((int(row["episodes"]), float(row["reward"])))
    return curves


def draw() -> None:
    """Draw one panel per learner, one line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    paths = sorted(FOLDER.glob("*.csv"))
    columns = 4
    rows = -(-len(paths) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(11, 2.4 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(paths) :]:
        axes.set_visible(False)
    for path, axes in zip(paths, grid.flat, strict=False):
        for seed, curve in read(path).items():
            axes.plot(*zip(*curve, strict=True), linewidth=1.2, label=f"seed {seed}")
        axes.axhline(2, color="0.6", linewidth=0.8)
        axes.axhline(BLIND_OPTIMUM, color="0.6", linewidth=0.8, linestyle="--")
        axes.set_title(path.stem, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    grid[0, 0].legend(fontsize=7, frameon=False)
    figure.supxlabel("episodes", fontsize=9)
    figure.supylabel("team reward", fontsize=9)
    figure.savefig(FOLDER.with_suffix(".png"), dpi=130)


def main() -> None:
    """Run or draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run an example over seeds")
    runner.add_argument("example", type=Path)
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    commands.add_parser("draw", help="draw the curves that were run")
    arguments, flags = parser.parse_known_args()
    if arguments.command == "run":
        run(arguments.example, arguments.seeds, flags)
    else:
        draw()


if __name__ == "__main__":
    main()
