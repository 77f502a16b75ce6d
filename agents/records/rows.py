"""The append-only files of a run: `metrics.jsonl`, `samples.jsonl` and `histograms.jsonl`.

One JSON object a line. A run that is killed while it writes leaves at most one cut-short last
line, which every reader here skips. What the rows mean is fixed here; who fills them is the
trainer's business, and how they look is that of `agents.watching` and `agents.reports`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TypedDict, cast

from agents.ledger import COSTS, Costs, total_of

MetricValue = float | int | str | None


MetricRow = dict[str, MetricValue]
"""One iteration.

`iteration` (from 0), the `seconds` it took, `tokens_per_second`, what the run has cost up to then
(`<cost>_total`, see `agents.ledger.Costs`), and per policy `llm_i/<metric>`.
"""


REFERENCE = "reference"
"""The name under which the untrained model's texts appear among the samples."""


LAST = "last"
"""What an evaluation calls the weights after the last iteration, behind a policy's name."""


TEAM = "team"
"""What an evaluation calls the mean of a run's policies, used alone."""


_POLICY = re.compile(r"llm_\d+")


_LAST_ITERATE = re.compile(rf"llm_\d+ {LAST}")


_POLICY_KEY = re.compile(r"(\w+?)/\w")


_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def is_reference(policy: str) -> bool:
    """Return whether a row is of a reference model: `reference`, or `reference of llm_i`."""
    return policy.split(" ", 1)[0] == REFERENCE


def last_iterate(policy: str) -> str:
    """Return what an evaluation calls the last iterate of a policy that is an average."""
    return f"{policy} {LAST}"


def is_last_iterate(name: str) -> bool:
    """Return whether a row of an evaluation is of the last iterate of a policy."""
    return _LAST_ITERATE.fullmatch(name) is not None


def is_policy(name: str) -> bool:
    """Return whether a row of an evaluation is of a policy alone, as a run leaves it."""
    return _POLICY.fullmatch(name) is not None


class SampleRow(TypedDict):
    """One sampled text of one policy."""

    iteration: int
    """Updates behind this text: 0 is the reference; after metrics row i it is i + 1."""
    policy: str
    """`llm_0`, `llm_1`, …, or `reference`."""
    role: str
    """The role it was sampled in, e.g. `pioneer_0`, or `alone`."""
    query: str
    response: str
    task_reward: float | None


class HistogramRow(TypedDict):
    """How values are spread over the tokens of one iteration."""

    iteration: int
    edges: dict[str, list[float]]
    """By quantity (`log_ratio`, `kl`): n + 1 edges. The end bins hold what lies beyond as well."""
    counts: dict[str, list[int]]
    """n counts by `llm_i/<quantity>`."""


def read_metrics(path: Path) -> list[MetricRow]:
    """Read the rows of a `metrics.jsonl`, without a cut-short last line.

    Raises:
        ValueError: There is no such file, or a line before the last is not a metrics row.
    """
    return _read_rows(path, required=("iteration",))


def read_samples(path: Path) -> list[SampleRow]:
    """Read the rows of a `samples.jsonl`; of rows for the same text slot the last one counts.

    A slot is (iteration, policy, role, query): a resumed run may write one twice.

    Raises:
        ValueError: There is no such file, or a line before the last is not a sample.
    """
    rows = _read_rows(path, required=tuple(SampleRow.__annotations__))
    slots: dict[tuple[MetricValue, ...], MetricRow] = {}
    for row in rows:
        slots[row["iteration"], row["policy"], row["role"], row["query"]] = row
    return cast("list[SampleRow]", list(slots.values()))


def read_histograms(path: Path) -> list[HistogramRow]:
    """Read the rows of a `histograms.jsonl`, without a cut-short last line.

    Raises:
        ValueError: There is no such file, or a line before the last is not a histogram row.
    """
    rows = _read_rows(path, required=tuple(HistogramRow.__annotations__))
    return cast("list[HistogramRow]", rows)


def append_histograms(path: Path, row: HistogramRow) -> None:
    """Append one row; it has left the process when this returns."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(_lines([row]))


def append_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Append rows to a file of JSON lines; they have left the process when this returns.

    Raises:
        TypeError: A value is not a number, a text or None.
    """
    text = _encode(rows)
    # UTF-8 cannot hold a lone surrogate: it is written as the JSON escape of the same character.
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)


def truncate_rows(path: Path, last_iteration: float = math.inf) -> None:
    """Keep the rows up to `last_iteration`, atomically; a cut-short last line goes in any case."""
    if path.exists():
        rows = _read_rows(path, required=("iteration",))
        kept = [row for row in rows if cast("int", row["iteration"]) <= last_iteration]
        write_atomically(path, _lines(kept))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def policy_names(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """The policies that appear in metrics rows, by number: `llm_0`, `llm_1`, …, `llm_10`."""
    matches = (_POLICY_KEY.match(key) for row in rows for key in row)
    names = {match[1] for match in matches if match}
    return sorted(names, key=natural_order)


def role_swaps(rows: Sequence[MetricRow]) -> list[int]:
    """The iterations at which a policy has another role than in the row before."""
    role_keys = [f"{name}/role" for name in policy_names(rows)]
    return [
        cast("int", row["iteration"])
        for before, row in itertools.pairwise(rows)
        if any(row.get(key) != before.get(key) for key in role_keys)
    ]


def by_role(rows: Sequence[MetricRow]) -> tuple[list[str], list[MetricRow]]:
    """The roles in turn order, and the rows with them in the place of the policies."""
    names = policy_names(rows)
    renamed: list[MetricRow] = []
    for row in rows:
        roles = {name: str(row.get(f"{name}/role") or "alone") for name in names}
        keys = ((key.partition("/"), value) for key, value in row.items())
        renamed.append({f"{roles.get(n, n)}{slash}{rest}": v for (n, slash, rest), v in keys})
    roles = policy_names(renamed)
    return sorted(roles, key=lambda role: role.startswith("observer")), renamed


def costs(rows: Sequence[Mapping[str, object]]) -> Costs | None:
    """What a run has cost, by its last row; None where that does not say."""
    last = {cost: rows[-1].get(total_of(cost)) for cost in COSTS} if rows else {}
    last["judge_tokens"] = last.get("judge_tokens") or 0  # a row without has asked no judge
    known = {cost: value for cost, value in last.items() if isinstance(value, int | float)}
    return Costs(**known) if len(known) == len(COSTS) else None  # type: ignore[arg-type]


def number(row: Mapping[str, object], key: str) -> float:
    """The value of `row[key]`, NaN where it is missing or null."""
    value = row.get(key)
    return float(value) if isinstance(value, Real) else math.nan


def printable(text: str) -> str:
    """Replace what a model may write and a screen must not obey (escape codes and their kin)."""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


def _read_rows(path: Path, *, required: Sequence[str]) -> list[MetricRow]:
    if not path.is_file():
        raise ValueError(
            f"Expected a file {path.name} in {path.parent}, got none. "
            "Give the folder that `train` wrote to."
        )
    # Only "\n" ends a line: `splitlines` would also split at U+2028, which JSON leaves as it is.
    # A cut may fall inside a character, hence "replace".
    lines = path.read_bytes().decode("utf-8", errors="replace").rstrip("\n").split("\n")
    rows: list[MetricRow] = []
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except json.JSONDecodeError:
            if line_number == len(lines):
                break
            row = None
        if not isinstance(row, dict) or any(key not in row for key in required):
            raise ValueError(
                f"Expected a JSON object with {', '.join(required)} in {path}, line {line_number}, "
                f"got {line[:60]!r}. Remove that line."
            )
        rows.append(row)
    return rows


def _encode(rows: Iterable[Mapping[str, object]]) -> str:
    plain = ({key: _plain(key, value) for key, value in row.items()} for row in rows)
    return _lines(plain)


def _lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _plain(key: str, value: object) -> MetricValue:
    """Turn a value into what strict JSON can hold: no NumPy scalar, nothing but finite numbers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(
        f"Expected a number, a text or None for {key!r}, got {type(value).__name__}. "
        "Turn a tensor into a number with `.item()`."
    )


def natural_order(name: str) -> tuple[str, int]:
    """A key by which llm_10 comes after llm_2."""
    stem, _, digits = name.rpartition("_")
    return (stem, int(digits)) if digits.isdecimal() else (name, -1)
