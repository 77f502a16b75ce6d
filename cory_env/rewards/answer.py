r"""Whether the final number of a response is that of the reference: exact, and the same for anyone.

Where the number is read, in this order. What follows an invented next question (`Question:`
anywhere, or `Q:` at the start of a line) is not read at all.

1. the number directly behind the first `####` that has one: GSM8K's notation (arXiv 2110.14168);
2. the first number in the last `\boxed{}`;
3. the number directly behind the last `answer is`, `answer:` or `answer =` that has one;
4. the last number of the text.

Where 2 and 3 find an equation, it is the first number behind its last `=`: `The answer is 5 + 4 = 9
toys for 3 children.` reads 9.

What a number is:

| written | read as |
|---|---|
| `1,234.50`, `1.234,50`, `1'234.50`; `12,34,567` | 1234.5; 1234567 |
| `1,234`; `1.234` | 1234; 1.234: alone before three digits, a comma groups and a dot does not |
| `12,5`; `0,125` | 12.5; 0.125: a comma that cannot group is a decimal comma |
| `3/4`, `1 1/2`, `1½`, `\frac{3}{4}` | the fraction, in lowest terms or not |
| `1.5e3`, `1.5 × 10^3`, `1.5 \times 10^{3}`, `1.5 * 10**3`, `1.5x10³` | 1500 |
| `-5`, `−5`, `–5`, `-$5`, `$-5` | −5; in `9-5` and `5–10` the line is no sign |
| `25%`, `$25`, `25kg`, `25th` | 25: units are not read, and the per cent sign is one |
| `５`, `٥` | 5: any decimal digits of Unicode |
| `10:30`, `1.2.3`, `3/4/2024`, `5'10`, `2^5`, `x2`, `m²`, `1e9999` | no number |

An ordinary space separates numbers; no-break and thin spaces and apostrophes group digits. Words
("nine", "million") are not read. A number has at most 100 digits before and behind its point.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from unicodedata import decimal, normalize

import numpy as np

from cory_env.types import Example, Float64Array

_FOLLOW_UP = re.compile(r"\bQuestion ?\d*+ ?:|^[ \t]*+Q\d*+:", re.MULTILINE)
_MARKER = re.compile(r"#{4,}+[^\w\n.+-]{0,9}", re.ASCII)
_ANSWER = re.compile(r"\banswer[*_]{0,3}(?: is\b| ?[:=])[^\w\n.+-]{0,9}", re.ASCII | re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)")

_STYLES = {
    "comma": str.maketrans("", "", ","),
    "dot": str.maketrans(",", ".", "."),
    "space": str.maketrans(",", ".", "\u00a0\u2009\u202f'"),
    "plain": str.maketrans(",", "."),
}
"""How the digits of each group of `_NUMBER` become those of a Python number."""

# Repeats are bounded or possessive, and a number that has begun is never tried again from its
# middle: the time is linear in the text, whatever it is.
_NUMBER = re.compile(
    r"""
    (?=[-+$€£¥₹.\d])
    (?P<sign> (?<![\w)\]}%^])(?<!\^\{)[-+])? [$€£¥₹]?+
    (?<![\w^])(?<!\^[-+{])(?<!\^\{[-+])  # not in a word or a power
    (?<!\d[.,:/'])                      # nor the rest of another number
    (?: (?:(?P<whole> \d{1,9}+)[ ]{1,2})? (?P<over> \d{1,100}+)/(?!0++(?!\d))(?P<under> \d{1,100}+)
    |   (?: (?P<comma> (?!0)\d{1,3}(?:,\d{2,3}){0,40},\d{3} (?:\.\d{1,100}+)?)
        |   (?P<dot> (?!0)\d{1,3} (?: (?:\.\d{3}){1,40},\d{1,100}+ | (?:\.\d{3}){2,40}))
        |   (?P<space> (?!0)\d{1,3}(?:[\u00a0\u2009\u202f']\d{3}){1,40} (?:[.,]\d{1,100}+)?)
        |   (?P<plain> \d{1,100}+(?:[.,]\d{1,100}+)? | (?<![\w.)])\.\d{1,100}+)
        )   (?: [eE](?P<power> [-+]?\d{1,3}+))?
    )
    (?!\d|[.,:/'_]\d|[eE][-+]?\d)       # nor the beginning of a longer one
    (?![ ]?\^(?!\{?\\circ))              # nor the base of a power; degrees are a unit
    """,
    re.VERBOSE | re.ASCII,
)

_Spelling = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _compatible(match: re.Match[str]) -> str:
    return normalize("NFKC", match[0])


_SPACED_FRACTION: _Spelling = (re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞]|\\[dt]?frac)"), " ")
_UNICODE: tuple[_Spelling, ...] = (
    _SPACED_FRACTION,
    (re.compile("[²³¹⁰⁴-⁹⁺⁻]+"), lambda match: "^" + _compatible(match)),
    (re.compile("[¼-¾⅐-⅞！-～]"), _compatible),
    (re.compile("[‐‑–−﹣]"), "-"),
    (re.compile("[⁄∕]"), "/"),
    (re.compile("[’٬]"), lambda match: "'" if match[0] == "’" else ","),
    (re.compile("٫"), "."),
    (re.compile(r"(?![0-9])\d"), lambda match: str(decimal(match[0]))),
    (re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"), ""),
)
_LATEX: tuple[_Spelling, ...] = (
    _SPACED_FRACTION,
    (re.compile(r"\\[dt]?frac(?:\{ ?(\d++) ?\} ?\{ ?(\d++) ?\}|(\d)(\d))"), r"\1\3/\2\4"),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\,"), "\u202f"),
    (re.compile(r"\\([$%])"), r"\1"),
)
_TIMES_TEN: _Spelling = (
    re.compile(r"(?<=\d) ?(?:[×x*·]|\\times|\\cdot) ?10 ?(?:\^|\*\*) ?\{?([-+]?\d++)\}?"),
    r"e\1",
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
    text = _FOLLOW_UP.split(text, maxsplit=1)[0]
    if not text.isascii():
        text = _respell(text, _UNICODE)
    if "\\" in text or "{,}" in text:
        text = _respell(text, _LATEX)
    text = _respell(text, [_TIMES_TEN])
    number = _marked(text) or _boxed(text) or _told(text) or _last(text)
    return None if number is None else _value(number)


def _reference(example: Example) -> Fraction:
    number = None if example.reference is None else final_number(example.reference)
    if number is None:
        raise ValueError(f"Expected an example whose reference has a number, got {example}.")
    return number


def _respell(text: str, spellings: Sequence[_Spelling]) -> str:
    for pattern, replacement in spellings:
        text = pattern.sub(replacement, text)
    return text


def _marked(text: str) -> re.Match[str] | None:
    numbers = (_NUMBER.match(text, marker.end()) for marker in _MARKER.finditer(text))
    return next(filter(None, numbers), None)


def _boxed(text: str) -> re.Match[str] | None:
    _, opening, rest = text.rpartition("\\boxed{")
    if not opening:
        return None
    depth = 1
    for i, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return _first(rest[:i])
    return _first(rest)


def _told(text: str) -> re.Match[str] | None:
    for start in reversed([phrase.end() for phrase in _ANSWER.finditer(text)]):
        if number := _NUMBER.match(text, start):
            sentence = _SENTENCE_END.split(text[start:], maxsplit=1)[0]
            return _first(sentence) or number
    return None


def _first(sentence: str) -> re.Match[str] | None:
    return _NUMBER.search(sentence.rpartition("=")[2])


def _last(text: str) -> re.Match[str] | None:
    last = deque(_NUMBER.finditer(text), maxlen=1)
    return last[0] if last else None


def _value(number: re.Match[str]) -> Fraction:
    sign = -1 if number["sign"] == "-" else 1
    if number["over"] is not None:
        fraction = Fraction(int(number["over"]), int(number["under"]))
        # `1 1/2` is one number; in `5 12/3` the fraction is another.
        whole = int(number["whole"] or 0) if fraction < 1 else 0
        return sign * (whole + fraction)
    [digits] = [number[s].translate(t) for s, t in _STYLES.items() if number[s] is not None]
    return sign * Fraction(f"{digits}e{number['power'] or 0}")
