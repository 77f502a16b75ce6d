"""The sample texts on a page: by query, beside the reference, with what differs from it."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.records.rows import SampleRow, is_reference, number

_MOST_TEXTS = 40
"""Texts of a policy to one query; of more, this many spread over the run, the last among them."""


_MOST_WORDS = 400
"""Longer texts are not compared word by word."""


_WORDS = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One response."""

    title: str
    """When, and in which role."""
    policy: str
    reward: float
    gain: float
    """Its reward less that of the reference; NaN without one."""
    parts: Sequence[tuple[str, bool]]
    """The response in pieces, and whether the reference has something else there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The responses of a policy or run to one query."""

    name: str
    colour: int | None
    texts: Sequence[Text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query and who has answered what."""

    text: str
    reference: Sequence[Text]
    columns: Sequence[Column]


def text_of(row: SampleRow, title: str, reference: SampleRow | None) -> Text:
    """Return a response beside that of the reference."""
    response, reward = row["response"].strip(), number(row, "task_reward")
    other = reference["response"].strip() if reference else None
    return Text(
        title=title,
        policy=row["policy"],
        reward=reward,
        gain=reward - number(reference, "task_reward") if reference else math.nan,
        parts=difference(other, response) if other is not None else [(response, False)],
    )


def difference(reference: str, response: str) -> list[tuple[str, bool]]:
    """Return a response in pieces: whole words, and whether the reference has others there.

    Args:
        reference: what it is compared to, word by word; letters count as they are.
        response: the pieces together are this.
    """
    old, new = _WORDS.findall(reference), _WORDS.findall(response)
    if not new or max(len(old), len(new)) > _MOST_WORDS:
        return [(response, False)]
    matcher = difflib.SequenceMatcher(
        None, [w.strip() for w in old], [w.strip() for w in new], autojunk=False
    )
    return [
        ("".join(new[first:end]), kind != "equal")
        for kind, _, _, first, end in matcher.get_opcodes()
        if end > first
    ]


def reference_for(row: SampleRow, rows: Iterable[SampleRow]) -> SampleRow | None:
    """Return the reference's response to the query of a row, of its own model if there are two."""
    references = [other for other in rows if is_reference(other["policy"])]
    own = [other for other in references if other["policy"].endswith(f" {row['policy']}")]
    return next(iter([*own, *references]), None)


def run_queries(samples: Sequence[SampleRow], names: Sequence[str]) -> list[Query]:
    """Return what the policies of a run have answered over time.

    Args:
        samples: of the run.
        names: of the policies, in the order of their colours.
    """
    queries: dict[str, list[SampleRow]] = {}
    for row in samples:
        queries.setdefault(row["query"], []).append(row)
    return [_run_query(query, rows, names) for query, rows in queries.items()]


def _run_query(query: str, rows: Sequence[SampleRow], names: Sequence[str]) -> Query:
    columns: list[Column] = []
    policies = {row["policy"] for row in rows if not is_reference(row["policy"])}
    for policy in [*(n for n in names if n in policies), *sorted(policies - set(names))]:
        own = [row for row in rows if row["policy"] == policy]
        kept = _spread(sorted(own, key=lambda row: row["iteration"]))
        reference = reference_for(kept[0], rows)
        columns.append(
            Column(
                name=policy,
                colour=names.index(policy) if policy in names else None,
                texts=[text_of(row, _when(row), reference) for row in kept],
            )
        )
    references = [row for row in rows if is_reference(row["policy"])]
    return Query(
        text=query,
        reference=[text_of(row, row["policy"], None) for row in references],
        columns=columns,
    )


def _when(row: SampleRow) -> str:
    role = "" if row["role"] == "alone" else f" · {row['role']}"
    return f"after {row['iteration']}{role}"


def _spread(rows: Sequence[SampleRow]) -> list[SampleRow]:
    """Return at most `_MOST_TEXTS` of them, the first and the last among them."""
    if len(rows) <= _MOST_TEXTS:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(place * last / (_MOST_TEXTS - 1))] for place in range(_MOST_TEXTS)]
