"""The tests of numbers and of learning, as other processors would compute them.

    python -m tests.portability [--short] [SETTING ...]

Processors and numbers of threads round differently. Each row of `SETTINGS` takes another path
through torch, oneDNN and MKL; what a processor lacks, they leave out by themselves. What has passed
in a setting is noted in `build/portability.jsonl`: a call that is cut is gone on with, until a
source changes. `OMP_WAIT_POLICY` decides nothing but how threads wait for one another.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import joblib
import pytest

ROOT = Path(__file__).parents[1]
LOG = ROOT / "build/portability.jsonl"
SETTING = "PORTABILITY_SETTING"

SHORT_TESTS = (
    "tests/e2e/test_learning.py::test_both_policies_learn_to_add",
    "tests/agents/algorithms/test_gradients.py",
    "tests/agents/models/test_kernels.py",
    "tests/agents/models/test_precision.py",
)
NUMBERS = re.compile(r"assert_close|approx\(|assert_learns|Trainer\(")
LEARNER = re.compile(r"^(import|from) (torch|agents)\b", re.MULTILINE)


def files_of_numbers() -> list[str]:
    """Return the files that train, or that compare floating-point numbers, with torch."""
    sources = {str(p.relative_to(ROOT)): p.read_text() for p in ROOT.glob("tests/**/test_*.py")}
    return sorted(p for p, text in sources.items() if NUMBERS.search(text) and LEARNER.search(text))


def setting(aten: str, onednn: str, threads: int, **others: str) -> dict[str, str]:
    """Return the environment in which torch and its libraries take other instructions."""
    return {
        **{"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn},
        # Or MKL takes no more threads than there are cores.
        **{"OMP_NUM_THREADS": str(threads), "MKL_DYNAMIC": "FALSE", "OMP_WAIT_POLICY": "PASSIVE"},
        **others,
    }


SETTINGS = {
    "plain": setting("default", "SSE41", 1, MKL_CBWR="COMPATIBLE"),
    "avx2": setting("avx2", "AVX2", 2),
    "plain-4": setting("default", "AVX2", 4),
    "avx512": setting("avx512", "AVX512_CORE", 1),
    "bf16": setting("avx512", "AVX512_CORE_BF16", 4),
    "amx": setting("avx512", "AVX512_CORE_AMX", 2),
}
SHORT = ("plain", "avx2")
"""The two that differ most from a processor of today with one thread, which is `pytest`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests in every setting, print the table, and return whether any has failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help=f"of {', '.join(SETTINGS)}; all if none")
    parser.add_argument("--short", action="store_true", help=f"{', '.join(SHORT)}, fewer tests")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.settings) - SETTINGS.keys():
        parser.error(f"Expected settings of {', '.join(SETTINGS)}, got {', '.join(unknown)}.")
    names = asked.settings or (SHORT if asked.short else tuple(SETTINGS))
    codes = [run(name, SHORT_TESTS if asked.short else files_of_numbers()) for name in names]
    print(table(names))
    return int(any(codes))


def run(name: str, tests: Sequence[str]) -> int:
    """Run what has not passed yet in a setting, and return the exit code of pytest."""
    variables = SETTINGS[name]
    print(f"== {name}: " + " ".join(f"{k}={v}" for k, v in variables.items()), flush=True)
    # One process leaves cores idle wherever a setting has fewer threads than there are cores.
    workers = max(1, joblib.cpu_count() // int(variables["OMP_NUM_THREADS"]))
    parallel = ["-n", str(workers), "--dist", "load"] if workers > 1 else []
    command = [sys.executable, "-m", "pytest", "-p", "tests.portability", *parallel, *tests]
    code = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables, SETTING: name}, check=False
    ).returncode
    # No test is left, where all have passed before.
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code


def table(names: Sequence[str]) -> str:
    """Return a Markdown table of what has been noted of the settings."""
    lines = [
        "| setting | ATen | oneDNN up to | threads | passed | failed | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        last = {row["test"]: row for row in noted(name)}
        values = [SETTINGS[name][k] for k in list(SETTINGS[name])[:3]]
        failed = [test for test, row in last.items() if not row["passed"]]
        seconds = sum(row["seconds"] for row in last.values())
        cells = [name, *values, str(len(last) - len(failed)), " ".join(failed) or "0"]
        lines.append(f"| {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def noted(name: str) -> list[dict]:
    """Return what is known of the tests in a setting, as the sources are now."""
    rows = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    sources = fingerprint()
    return [row for row in rows if (row["setting"], row["sources"]) == (name, sources)]


@functools.cache
def fingerprint() -> str:
    """Return what changes with any source."""
    sources = [p for room in ("agents", "cory_env", "tests") for p in ROOT.glob(f"{room}/**/*.py")]
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in sorted(sources))).hexdigest()[:16]


# ---- as a plug-in of pytest, in the processes that `main` starts


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed before."""
    passed = {row["test"] for row in noted(os.environ[SETTING]) if row["passed"]}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a test has ended: once, where all workers report to."""
    if "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and not report.failed):
        return
    row = {
        **{"setting": os.environ[SETTING], "sources": fingerprint(), "test": report.nodeid},
        **{"passed": not report.failed, "seconds": round(report.duration, 2)},
    }
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a") as log:
        log.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
