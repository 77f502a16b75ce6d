r"""Whether the final number of a response is that of the reference: exact, and the same for anyone.

The first of these that a response has is its answer. Where that is no number, or is not one number,
there is none: a wrong number is worse than no number.

1. What the last `<answer>` and its `</answer>` hold: rules 2 to 4 in there, else its only number.
2. The number directly behind the first `####` that closes a solution: GSM8K's notation (arXiv
   2110.14168). One within a line does; behind one that begins a line nothing but the number may
   stand there, or a comma and words.
3. The only number in the last `\boxed{}` that has a digit.
4. The number directly behind the last `answer is`, `answer:` or `answer =`. `Answer:` before a
   calculation that others follow begins a solution and tells nothing yet.
5. The number of a line like `#### 18 apples`, which may as well be a heading: unless a calculation
   follows, and none if there are several that differ.
6. The last number of the text.

The numbers of headings and list items that count, `#### 1. Eggs` and `#### 2) Money`, are not read.

| behind the marker | read as |
|---|---|
| `5 + 4 = 9 toys for 3 children` | 9: of an equation, what is behind its last `=` or `≈` |
| `18 apples for 3 children` | 18; in a box or a tag nothing, for it has two numbers |
| `5 + 4`; `5 to 6`, `5 or 6`, `5-6`; `5 hours 30 minutes`; `3:30` | no number |

A next question, or another turn of a user, is not read, nor what follows: `Question:`, `Problem:`,
`Human:`, `User:` behind the end of a line or sentence, `Q:` at the start of a line, `### Question`,
`<|im_start|>user` and its like. It is the next one where a number stands before it. A response that
begins with its question again is cut only behind a stated answer or an equation, and rule 6 reads
below that question.

What a number is:

| written | read as |
|---|---|
| `1,234.50`, `1.234,50`, `1'234.50`; `12,34,567` | 1234.5; 1234567 |
| `1,234`; `1.234` | 1234; 1.234: alone before three digits, a comma groups and a dot does not |
| `12,5`; `0,125` | 12.5; 0.125: a comma that cannot group is a decimal comma |
| `3/4`, `1 1/2`, `1½` | the fraction, in lowest terms or not |
| `\frac{3}{4}`, `\dfrac34`, `-\cfrac{1.5}{2}`, `\frac{1,000}{4}` | 3/4, 3/4, −3/4, 250 |
| `1.5e3`, `1.5 × 10^3`, `1.5 \times 10^{3}`, `1.5 * 10**3`, `1.5x10³` | 1500 |
| `-5`, `−5`, `–5`, `-$5`, `$-5`, `= - 5` | −5; in `9-5` and `5–10` the line is no sign |
| `25%`, `$25`, `25kg`, `25th`, `25\text{ kg}` | 25: units are not read, and `%` is one |
| `５`, `٥` | 5: any decimal digits of Unicode |
| `10:30`, `1.2.3`, `3/4/2024`, `5'10`, `2^5`, `x2`, `m²`, `1e9999` | no number |
| `\sqrt{16}`, `2\pi`, `5 \pm 1`, `\frac{x}{2}`, `√2` | no number: read whole or not at all |

An ordinary space separates numbers; no-break and thin spaces, `\,` and apostrophes group digits.
Words ("nine", "million") are not read. A number has at most 100 digits before and behind its point.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from cory_env.rewards.latex import in_plain_signs
from cory_env.rewards.numbers import (
    BEGINS,
    BOX,
    END,
    GAP,
    NUMBER,
    UNREAD,
    Spelling,
    in_ascii,
    respell,
    value,
)
from cory_env.rewards.turns import answered_part, enumerators
from cory_env.types import Example, Float64Array

_TAG = re.compile(r"<answer>", re.IGNORECASE)
_TAG_END = re.compile(r"</answer>", re.IGNORECASE)
_MARKER = re.compile(rf"(^[ \t>*_-]{{0,9}})?(?<!#)#{{4,}}+{GAP}{BEGINS}", re.ASCII | re.MULTILINE)
_BOX = re.compile(rf"{BOX}([^{BOX}{END}]*+){END}")
_ANSWER = re.compile(
    rf"""\banswer[*_"']{{0,3}}(?:[ ]is\b|[ ]?(?P<colon>[:=]))
    (?:{GAP}\b(?:about|approximately|exactly|simply|just|only|therefore|thus|USD?|EUR|GBP)\b)?
    {GAP}{BEGINS}""",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")
_BEGINS = re.compile(BEGINS)
_TOKEN = re.compile(r"\S++")
_CLOSES = re.compile(rf"[\s*_$)\].!%°`{END}]*+(?:,|#|$)", re.ASCII)
_CALCULATION = re.compile(rf"={GAP}{BEGINS}", re.ASCII)
_JOINED = re.compile(
    rf"""
    %?[*_$]{{0,3}} (?:
      (?:[ ]?[^\W\d_]{{1,20}})? [ ]? (?:[-+*/×÷·=]|x(?=[ ]?\d)) [ ]? (?={BEGINS}|\()
    | [ ](?:to|or)[ ](?=[$€£¥₹]?\d)
    | [ ](?=\d)
    | [ ]?(?:years?|months?|weeks?|days?|hours?|hrs?|h|minutes?|mins?|feet|foot|ft|pounds?|lbs?
        |dollars?|kg|km|m|meters?)[ ,]{{1,2}}(?:and[ ])?(?=\d)
    )""",
    re.VERBOSE | re.ASCII,
)
"""Behind a number that is part of a calculation, a range, a choice or a measure in two units."""
_LOOSE = re.compile(r"(?<![a-zA-Zµ])(?<![a-zA-Zµ]\^)(?<![a-zA-Zµ]\^-)\d", re.ASCII)
"""A digit outside words and the powers of units."""
_LONGEST_CALCULATION = 200
"""Characters in which the sentence of a calculation ends, or is not looked at further."""
_SPELLINGS: tuple[Spelling, ...] = (
    (re.compile(r"(?<=\d) ?[×x*·] ?10 ?(?:\^|\*\*) ?\{?([-+]?\d++)\}?"), r"e\1"),
    (re.compile(r"≈"), "="),
    (re.compile(rf"(?<=[=({BOX}]) ?- (?=[$]?\d)"), "-"),
)


class AnswerReward:
    """1.0 where the final number of the response equals that of the reference, else 0.0.

    The module says where it is read and what is a number. Numbers are compared as fractions, so
    0.5, 1/2 and 5e-1 are equal, and 0.333 and 1/3 are not. A reference is read like a response: the
    bare number does, and so does a whole solution.
    """

    def __call__(self, examples: Sequence[Example], responses: Sequence[str], /) -> Float64Array:
        """Score each response.

        Returns:
            (B,) scores, 0 or 1; a response without a number scores 0.

        Raises:
            ValueError: if a reference has no number.
        """
        return np.array(
            [
                final_number(response) == _reference(example)
                for example, response in zip(examples, responses, strict=True)
            ],
            dtype=np.float64,
        )


def final_number(text: str) -> Fraction | None:
    """Return the number that a text gives as its answer, or None if it gives none.

    Any text will do, of any length; the time is linear in it.
    """
    text = respell(in_plain_signs(in_ascii(text)), _SPELLINGS)
    text, echo = answered_part(text)
    tagged = _tagged(text)
    if tagged is not None:
        text = tagged
    numbered = enumerators(text)
    closing, headings = _marked(text, numbered)
    if closing:
        return _first(_sentence(text, closing[0]))
    if (box := _boxed(text)) is not None:
        return _only(box)
    if (told := _told(text)) is not None:
        return _first(_sentence(text, told))
    if tagged is not None:
        return _only(tagged)
    if headings and not _CALCULATION.search(text, _line_end(text, headings[-1])):
        values = {_first(_sentence(text, start)) for start in headings}
        return values.pop() if len(values) == 1 else None
    return _last(text, echo, numbered)


def _reference(example: Example) -> Fraction:
    number = None if example.reference is None else final_number(example.reference)
    if number is None:
        raise ValueError(f"Expected an example whose reference has a number, got {example}.")
    return number


def _tagged(text: str) -> str | None:
    end = len(text)
    for tag in reversed(list(_TAG.finditer(text))):
        content = _TAG_END.split(text[tag.end() : end], maxsplit=1)[0]
        if _BEGINS.search(content):
            return content
        end = tag.start()
    return None


def _marked(text: str, numbered: set[int]) -> tuple[list[int], list[int]]:
    """Return where numbers stand behind `####`: in closing lines, and in what may be headings."""
    closing: list[int] = []
    lines: list[int] = []
    headings: list[int] = []
    for marker in _MARKER.finditer(text):
        start = marker.end()
        if start in numbered:
            continue
        if marker[1] is None:
            closing.append(start)
        elif _closes(text, start):
            closing.append(start)
            lines.append(start)
        else:
            headings.append(start)
    if len(lines) > 1 and lines == closing and _count(text, lines):
        return [], headings
    return closing, headings


def _closes(text: str, start: int) -> bool:
    """Whether nothing follows a number on its line, or a comma."""
    number = NUMBER.match(text, start) or _TOKEN.match(text, start)
    end = number.end() if number else start
    return _CLOSES.match(text[end : _line_end(text, start)]) is not None


def _count(text: str, starts: list[int]) -> bool:
    """Whether numbers count 1, 2, 3, with more behind them: headings that are mere numbers."""
    numbers = (NUMBER.match(text, start) for start in starts)
    counted = all(n and value(n) == i for i, n in enumerate(numbers, start=1))
    return counted and _BEGINS.search(text, _line_end(text, starts[-1])) is not None


def _boxed(text: str) -> str | None:
    return next((box for box in reversed(_BOX.findall(text)) if _BEGINS.search(box)), None)


def _told(text: str) -> int | None:
    """Return where the last number stands that is told as the answer.

    `Answer:` before a calculation that others follow begins a solution, and tells nothing yet.
    """
    calculations = [calculation.start() for calculation in _CALCULATION.finditer(text)]
    told = None
    for phrase in _ANSWER.finditer(text):
        start = phrase.end()
        if phrase["colon"] and calculations and not _whole(NUMBER.match(text, start)):
            end = _SENTENCE_END.search(text, start, start + _LONGEST_CALCULATION)
            if end and calculations[-1] > end.start():
                continue
        told = start
    return told


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _sentence(text: str, start: int) -> str:
    end = _SENTENCE_END.search(text, start)
    return text[start : end.start() if end else None]


def _first(statement: str) -> Fraction | None:
    """Return the number that a statement begins with, or the result of its equation."""
    number = NUMBER.match(statement)
    if not _whole(number) and "=" in statement:
        side = _side(statement)
        begin = _BEGINS.search(side)
        number = begin and NUMBER.match(side, begin.start())
    return value(number) if number and _whole(number) else None


def _only(statement: str) -> Fraction | None:
    """Return the only number of a statement, or of the side of its equation that gives it."""
    side = _side(statement)
    found = list(NUMBER.finditer(side))
    if len(found) != 1 or UNREAD in side or not _whole(found[0]):
        return None
    before, behind = side[: found[0].start()], side[found[0].end() :]
    factorial = behind.startswith("!")
    return None if factorial or _LOOSE.search(f"{before} {behind}") else value(found[0])


def _side(statement: str) -> str:
    """Return the last side of an equation in which a number begins."""
    sides = (side for side in reversed(statement.split("=")) if _BEGINS.search(side))
    return next(sides, statement)


def _whole(number: re.Match[str] | None) -> bool:
    """Whether a number stands for itself, and is no part of a calculation, range or measure."""
    return number is not None and not _JOINED.match(number.string, number.end())


def _last(text: str, start: int, numbered: set[int]) -> Fraction | None:
    last = None
    for number in NUMBER.finditer(text, start):
        if number.start() not in numbered:
            last = number
    if last is None or UNREAD in text[last.end() :]:
        return None
    return value(last)
