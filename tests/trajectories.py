"""Whether two commits train alike, to the bit: for a change that is meant to change nothing.

    python -m tests.trajectories COMMIT [COMMIT] [--runs NAME ...] [--any-names]

Without a second commit, the working tree is the other side. Both train the same `RUNS`, on this
machine with one thread, and every figure of every iteration, every sample text and every tensor of
the last checkpoint and of the final policies is compared. Only the command line of `agents` and the
files of a run are relied on: modules may move in between. Figures of time are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOW = "the working tree"
PLAY = "--play"
"""For the process that trains one side."""

SMALL = (
    "--device cpu --dtype float32 --batch-size 8 --minibatch-size 4 --sample-every 2"
    " --evaluation-queries 0"
)
TOY = f"toy {SMALL} --iterations 3 --epochs 2 --swap-every 1"
IMDB = f"imdb {SMALL} --iterations 2 --epochs 1 --swap-every 1 --max-new-tokens 6"
VARIED = (
    "--observers 2 --critic-body own --value-normalization --reward-scaling normalize --kl k1"
    " --kl-target 0.2 --schedule cosine --warmup 1 --top-p 0.9 --temperature 0.8"
    " --entropy-coef 0.01 --reward-sharing 0.5 --swap random --microbatch-size 2 --value-clip 0.2"
)

RUNS: dict[str, tuple[str, ...]] = {
    "toy, mappo, full": (f"{TOY} --algorithm mappo --handover value",),
    "toy, grpo, full": (f"{TOY} --algorithm grpo",),
    "toy, happo, lora": (f"{TOY} --algorithm happo --adapter lora",),
    "toy, ippo, varied": (f"{TOY} --algorithm ippo {VARIED}",),
    "toy, gspo, one policy": (f"{TOY} --algorithm gspo --observers 0",),
    "toy, resumed": (
        f"{TOY} --iterations 2 --adapter lora --critic-body policy",
        f"{TOY} --iterations 3 --adapter lora --critic-body policy --resume",
    ),
    "imdb, mappo, lora": (
        f"{IMDB} --algorithm mappo --handover sampled --average 0 --evaluation-queries 4",
    ),
    "imdb, grpo, full": (f"{IMDB} --algorithm grpo --adapter full --learning-rate 2e-4",),
    "imdb, happo, lora": (f"{IMDB} --algorithm happo --handover value --critic-body own",),
    "imdb, as it is": ("imdb --iterations 1 --evaluation-queries 0",),
}
"""Calls of `train` that end in one run folder, by what they show. A later flag wins."""

TIMES = re.compile(r"seconds|per_second|memory")
LIBRARIES = ("torch", "transformers", "peft", "matplotlib.pyplot")


@dataclass(frozen=True)
class Trajectory:
    """What a run has left, flat, so that two of them are compared key by key."""

    rows: Mapping[str, object]
    texts: Mapping[str, object]
    tensors: Mapping[str, object]
    num_rows: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Play both sides, print the table, and return whether they differ."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.trajectories", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("before", metavar="COMMIT")
    parser.add_argument("after", metavar="COMMIT", nargs="?", help=f"{NOW} if none")
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="those whose name has this in it")
    parser.add_argument(
        "--any-names", action="store_true", help="tensors may have new names, with the same bits"
    )
    asked = parser.parse_args(arguments)
    names = [n for n in RUNS if not asked.runs or any(part in n for part in asked.runs)]
    if not names:
        parser.error(f"Expected parts of {'; '.join(RUNS)}, got {', '.join(asked.runs)}.")
    with tempfile.TemporaryDirectory(prefix="trajectories_") as folder:
        sides = []
        for name, commit in (("before", asked.before), ("after", asked.after)):
            print(f"training at {commit or NOW}", file=sys.stderr, flush=True)
            with checkout(commit, Path(folder, f"{name}_code")) as code:
                play(code, Path(folder, name), names)
            sides.append(Path(folder, name))
        lines, equal = table(sides[0], sides[1], names, any_names=asked.any_names)
    print("\n".join(lines))
    print(f"{asked.before} and {asked.after or NOW} {'are equal' if equal else 'DIFFER'}.")
    return int(not equal)


@contextmanager
def checkout(commit: str | None, folder: Path) -> Iterator[Path]:
    """Lend a worktree of a commit; of none, the working tree itself."""
    if commit is None:
        yield ROOT
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def play(code: Path, out: Path, names: Sequence[str]) -> None:
    """Train the runs with the packages of a checkout, in a process of its own."""
    variables = {
        # First, or packages that are installed from another checkout would be taken.
        "PYTHONPATH": os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")]),
        **{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    }
    # -P: the folder of this file has packages of the same names.
    command = [sys.executable, "-P", __file__, PLAY, str(out), *names]
    done = subprocess.run(command, cwd=code, env={**os.environ, **variables}, check=False)
    if done.returncode:
        raise SystemExit(f"The runs at {code} did not end well.")


def play_here(out: Path, names: Sequence[str]) -> None:
    """Train the runs one after the other, as `python -m agents train` does, in forked processes.

    The libraries, whose import takes longer than most of the runs, are loaded once.
    """
    for package in ("agents", "cory_env"):
        found = Path(import_module(package).__file__ or "")
        if not found.is_relative_to(Path.cwd()):
            raise SystemExit(f"Expected {package} of {Path.cwd()}, got {found}.")
    for library in LIBRARIES:
        import_module(library)
    for name in names:
        for line in RUNS[name]:
            words = ["agents", "train", *line.split(), "--out", str(folder_of(out, name))]
            log = out / "log.txt"
            log.parent.mkdir(parents=True, exist_ok=True)
            process = multiprocessing.get_context("fork").Process(
                target=command_line, args=(words, log)
            )
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{' '.join(words)}\n{log.read_text(errors='replace')}")


def command_line(words: Sequence[str], log: Path) -> None:
    """Be `python -m` with these words, all output to a file."""
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def folder_of(out: Path, name: str) -> Path:
    """Return where a run is."""
    return out / re.sub(r"\W+", "_", name)


def read_trajectory(folder: Path) -> Trajectory:
    """Read what a run has left."""
    metrics = read_lines(folder / "metrics.jsonl")
    rows = {
        f"iteration {row['iteration']}, {key}": value
        for row in metrics
        for key, value in timeless(row).items()
    }
    for row in read_lines(folder / "histograms.jsonl"):
        for key, counts in row["counts"].items():
            rows[f"iteration {row['iteration']}, histogram of {key}"] = counts
    texts = {
        "sample " + ", ".join(str(row[k]) for k in ("iteration", "policy", "role", "query")): (
            row["response"],
            row["task_reward"],
        )
        for row in read_lines(folder / "samples.jsonl")
    }
    with suppress(FileNotFoundError):
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        texts |= {f"evaluation, {row['name']}": row for row in evaluation["rows"]}
    checkpoints = sorted(
        folder.glob("checkpoints/step_*"), key=lambda p: int(p.name.removeprefix("step_"))
    )
    files = [*checkpoints[-1].glob("*.safetensors"), *folder.glob("final/llm_*/*.safetensors")]
    tensors = {
        f"{path.relative_to(folder).parent}, {name}": digest
        for path in sorted(files)
        for name, digest in digests(path).items()
    }
    return Trajectory(rows, texts, tensors, len(metrics))


def timeless(row: Mapping[str, object]) -> dict:
    """Return what does not depend on the clock of a row, or of the state of a run."""
    kept = {key: value for key, value in row.items() if not TIMES.search(key)}
    return {k: timeless(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


def read_lines(path: Path) -> list[dict]:
    """Return the rows of a file of JSON lines."""
    # Only "\n" ends a line: `splitlines` would also split at U+2028.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def digests(path: Path) -> dict[str, str]:
    """Return a checksum of type, shape and bits of each tensor in a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(header.items()):
        begin, end = entry["data_offsets"]
        kind = f"{entry['dtype']} {entry['shape']} ".encode()
        found[name] = hashlib.sha256(kind + content[start + begin : start + end]).hexdigest()
    return found


def table(
    before: Path, after: Path, names: Sequence[str], *, any_names: bool
) -> tuple[list[str], bool]:
    """Return a Markdown table of the runs of both sides, and whether all are equal."""
    lines = ["| run | rows | figures | texts | tensors | verdict |", "|---|---|---|---|---|---|"]
    equal = True
    for name in names:
        old, new = (read_trajectory(folder_of(side, name)) for side in (before, after))
        same, verdict = compare(old, new, any_names=any_names)
        equal &= same
        counts = [old.num_rows, len(old.rows), len(old.texts), len(old.tensors)]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {verdict} |")
    return lines, equal


def compare(old: Trajectory, new: Trajectory, *, any_names: bool) -> tuple[bool, str]:
    """Return whether two runs are equal, and a few words about it."""
    for part in ("rows", "texts"):
        if found := first_difference(getattr(old, part), getattr(new, part)):
            return False, found
    found = first_difference(old.tensors, new.tensors)
    if not found:
        return True, "equal"
    renamed = old.tensors.keys() ^ new.tensors.keys()
    if renamed and Counter(old.tensors.values()) == Counter(new.tensors.values()):
        if any_names:
            return True, f"equal, under new names of tensors ({found})"
        return False, f"the same bits under new names of tensors ({found}): --any-names lets it be"
    return False, found


def first_difference(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Return the first difference in the order of the old one; nothing where there is none."""
    for key, value in old.items():
        if key not in new:
            return f"{key}: is gone"
        if new[key] != value:
            return f"{key}: {value!r} is now {new[key]!r}"
    return next((f"{key}: is new" for key in new if key not in old), "")


if __name__ == "__main__":
    if sys.argv[1:2] == [PLAY]:
        play_here(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(main())
