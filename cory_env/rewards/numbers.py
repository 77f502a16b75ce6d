r"""What a number is: how it may be written, and its value as a fraction.

`cory_env.rewards.answer` has the table. A text is respelled before numbers are looked for in it:
the digits, signs and fractions of Unicode here, LaTeX in `cory_env.rewards.latex`. What neither of
them knows whole becomes `UNREAD`, and a number that touches it is not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from unicodedata import decimal, normalize

UNREAD = "\ue000"
"""Stands for mathematics that is not read: a root, π, a LaTeX command that is not known."""
BOX, END = "\ue001", "\ue002"
"""Stand for `\\boxed{` and its `}`."""

GAP = rf"[^\w\n.+\-{UNREAD}]{{0,9}}"
"""Signs and spaces between a marker and what it marks."""
BEGINS = rf"(?=[-+]?[$€£¥₹]?[-+]?\.?\d|{UNREAD})"
"""Where something begins that is a number, or should be one."""

Spelling = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

_STYLES = {
    "comma": str.maketrans("", "", ","),
    "dot": str.maketrans(",", ".", "."),
    "space": str.maketrans(",", ".", "\u00a0\u2009\u202f'"),
    "plain": str.maketrans(",", "."),
}
"""How the digits of each group of `NUMBER` become those of a Python number."""

# Repeats are bounded or possessive, and a number that has begun is never tried again from its
# middle: the time is linear in the text, whatever it is.
NUMBER = re.compile(
    r"""
    (?=[-+$€£¥₹.\d])
    (?<!\ue000)(?<!\ue000[ \u202f({])(?<!\ue000[-+*/×÷·])(?<!\ue000[ ][-+*/×÷·][ ])
    (?P<sign> (?<![\w)\]}%^])(?<!\^\{)[-+])? [$€£¥₹]?+
    (?<![\w^\ue000])(?<!\^[-+{])(?<!\^\{[-+])  # not in a word or a power
    (?<!\d[.,:/'])                      # nor the rest of another number
    (?: (?:(?P<whole> \d{1,9}+)[ ]{1,2})? (?P<over> \d{1,100}+)/(?!0++(?!\d))(?P<under> \d{1,100}+)
    |   (?: (?P<comma> (?!0)\d{1,3}(?:,\d{2,3}){0,40},\d{3} (?:\.\d{1,100}+)?)
        |   (?P<dot> (?!0)\d{1,3} (?: (?:\.\d{3}){1,40},\d{1,100}+ | (?:\.\d{3}){2,40}))
        |   (?P<space> (?!0)\d{1,3}(?:[\u00a0\u2009\u202f']\d{3}){1,40} (?:[.,]\d{1,100}+)?)
        |   (?P<plain> \d{1,100}+(?:[.,]\d{1,100}+)? | (?<![\w.)])\.\d{1,100}+)
        )   (?: [eE](?P<power> [-+]?\d{1,3}+))?
    )
    (?!\d|[.,:/'_]\d|[eE][-+]?\d|\.?[ \u202f]?\ue000)  # nor the beginning of a longer one
    (?![ ]?\)?\^)                       # nor the base of a power
    """,
    re.VERBOSE | re.ASCII,
)


def _compatible(match: re.Match[str]) -> str:
    return normalize("NFKC", match[0])


_UNICODE: tuple[Spelling, ...] = (
    (re.compile(r"[\ue000-\ue002\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"), ""),
    (re.compile("[√∛∜π∞±∓]"), UNREAD),
    (re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])"), " "),
    (re.compile("[²³¹⁰⁴-⁹⁺⁻]+"), lambda match: "^" + _compatible(match)),
    (re.compile("[¼-¾⅐-⅞！-～]"), _compatible),
    (re.compile("[‐‑–−﹣]"), "-"),
    (re.compile("[⁄∕]"), "/"),
    (re.compile("[’٬]"), lambda match: "'" if match[0] == "’" else ","),
    (re.compile("٫"), "."),
    (re.compile(r"(?![0-9])\d"), lambda match: str(decimal(match[0]))),
)


def respell(text: str, spellings: Sequence[Spelling]) -> str:
    """Return a text after replacements, one after the other."""
    for pattern, replacement in spellings:
        text = pattern.sub(replacement, text)
    return text


def in_ascii(text: str) -> str:
    """Return a text whose numbers are written with the digits and signs of ASCII."""
    return text if text.isascii() else respell(text, _UNICODE)


def value(number: re.Match[str]) -> Fraction:
    """Return the value of a match of `NUMBER`."""
    sign = -1 if number["sign"] == "-" else 1
    if number["over"] is not None:
        fraction = Fraction(int(number["over"]), int(number["under"]))
        # `1 1/2` is one number; in `5 12/3` the fraction is another.
        whole = int(number["whole"] or 0) if fraction < 1 else 0
        return sign * (whole + fraction)
    [digits] = [number[s].translate(t) for s, t in _STYLES.items() if number[s] is not None]
    return sign * Fraction(f"{digits}e{number['power'] or 0}")
