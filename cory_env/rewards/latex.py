r"""LaTeX in plain signs, as far as it says numbers: read whole, or not at all.

`\frac{-3}{4}` becomes `-3/4`, `18\text{ apples}` becomes `18 apples`, and `\boxed{18}` the number
between two marks. A command that is not known becomes `UNREAD` with all its arguments, so that no
part of `\sqrt{16}`, `2\pi` or `\binom{5}{2}` is taken for a number.
"""

from __future__ import annotations

import re
from fractions import Fraction

from cory_env.rewards.numbers import BOX, END, NUMBER, UNREAD, Spelling, respell, value

_DEPTH = 8
"""Groups inside each other that are opened; what lies deeper is not read."""

_SYMBOLS = {
    **dict.fromkeys(("times", "cdot", "ast"), "*"),
    **dict.fromkeys(("approx", "simeq", "equiv", "eq"), "="),
    **dict.fromkeys(("quad", "qquad", "enspace", "newline", "par", "space"), " "),
    **dict.fromkeys(("to", "rightarrow", "Rightarrow", "implies", "longrightarrow"), " "),
    **dict.fromkeys(("Longrightarrow", "therefore", "because", "bullet", "item"), " "),
    **dict.fromkeys(("ldots", "dots", "cdots", "square", "blacksquare", "Box", "qed"), " "),
    **dict.fromkeys(("checkmark", "hfill", "noindent", "centering", "hline"), " "),
    **dict.fromkeys(("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr"), ""),
    **dict.fromkeys(("Bigl", "Bigr", "displaystyle", "textstyle", "limits", "normalsize"), ""),
    **dict.fromkeys(("large", "Large", "LARGE", "huge", "Huge", "bf", "bfseries", "rm", "it"), ""),
    **dict.fromkeys(("circ", "degree"), "°"),
    **dict.fromkeys(("textdollar", "dollar"), "$"),
    **{"div": "÷", "thinspace": "\u202f", "euro": "€", "pounds": "£", "percent": "%"},
}
"""Commands without arguments, and what they say beside a number."""
_WORDS = (
    *("text", "textbf", "textit", "textrm", "texttt", "textsf", "textnormal", "emph", "underline"),
    *("mathbf", "mathit", "mathrm", "mathtt", "mathsf", "mathnormal", "boldsymbol", "bm"),
    *("mbox", "hbox", "fbox", "operatorname"),
)
"""Commands that say what their argument says."""
_SILENT = (
    *("begin", "end", "tag", "label", "hspace", "vspace", "color", "textcolor"),
    *("phantom", "hphantom", "vphantom"),
)
"""Commands that say nothing, whatever their argument is."""
_FRACTIONS = ("frac", "dfrac", "tfrac", "cfrac")


def _command(*names: str) -> str:
    return rf"\\(?:{'|'.join(names)})(?![a-zA-Z])"


_UNKNOWN = rf"(?!{_command('boxed', *_WORDS, *_SILENT, *_FRACTIONS, *_SYMBOLS)})\\[a-zA-Z]++"
_GROUP = r"\{([^{}]*+)\}"
_ARGUMENT = r"[ ]?+(?:\{([^{}]*+)\}|(\d))"
_MARKS: tuple[Spelling, ...] = (
    (re.compile(r"\\\\|\\n(?=[^a-z]|$)"), "\n"),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;:]"), "\u202f"),
    (re.compile(r"\\[ ]|~"), " "),
    (re.compile(r"\\[()\[\]]"), "$"),
    (re.compile(r"\\\{"), "("),
    (re.compile(r"\\\}"), ")"),
    (re.compile(r"\\(?:left|right)\."), ""),
    (re.compile(r"\\([^a-zA-Z0-9\s])"), r"\1"),
    (re.compile(r"&"), ""),
    (re.compile(r"(\\[a-zA-Z]++|\})[ ]++(?=\{)"), r"\1"),
)
"""What is a sign rather than a command, and spaces before groups."""
_GROUPS: tuple[Spelling, ...] = (
    (re.compile(rf"{_command(*_SILENT)}\*?{_GROUP}"), ""),
    (re.compile(rf"{_command(*_WORDS)}\*?{_GROUP}"), r"\1"),
    (re.compile(rf"\^\{{?{_command('circ', 'degree')}\}}?"), "°"),
    (re.compile(rf"([_^]){_GROUP}"), lambda match: match[1] + _script(match[2])),
    (re.compile(rf"(?<![a-zA-Z}}\]_^]){_GROUP}"), r"\1"),
    (
        re.compile(rf"(-?)\\[cdt]?frac{_ARGUMENT}{_ARGUMENT}(?=(\d?))"),
        lambda match: _fraction(match),
    ),
    (re.compile(rf"\\boxed{_GROUP}"), rf"{BOX}\1{END}"),
    (re.compile(rf"{_UNKNOWN}\*?(?:\[[^\]\[{{}}\n]*+\])?(?:\{{[^{{}}]*+\}})++"), UNREAD),
)
"""Commands with arguments, whose groups hold no further ones."""
_REST: tuple[Spelling, ...] = (
    (re.compile(r"\\boxed\{([^\n]*+)"), rf"{BOX}\1{END}"),
    (re.compile(r"\\boxed[ ]?([$]?[-+]?[\d.,/]{0,200}\d%?)"), rf"{BOX}\1{END}"),
    (re.compile(rf"(?:{_command(*_FRACTIONS)}|{_UNKNOWN}\{{)[^\n]*+"), UNREAD),
    (re.compile(rf"{_UNKNOWN}(?:[_^][^\s{{}}\\_^]++)*+"), UNREAD),
    (re.compile(r"\\([a-zA-Z]++)"), lambda match: _SYMBOLS.get(match[1], "")),
)
"""What is left when all groups are open: one that is not closed, and commands without any."""


def in_plain_signs(text: str) -> str:
    """Return a text without LaTeX: numbers as they are written without it, and `UNREAD`."""
    if "\\" not in text and "{" not in text:
        return text
    text = respell(text, _MARKS)
    for _ in range(_DEPTH):
        opened = respell(text, _GROUPS)
        if opened == text:
            break
        text = opened
    return respell(text, _REST)


def _script(content: str) -> str:
    """What stands above or below a line, so that no number in it counts."""
    return content if re.fullmatch(r"[-+]?\w+", content) else "x"


def _fraction(match: re.Match[str]) -> str:
    """Write a fraction of two numbers as one, with the minus or the whole number before it."""
    sign, rest = match[1], match[6]
    fraction = _ratio(match[2] or match[3] or "", match[4] or match[5] or "")
    if fraction is None or rest:
        return sign + UNREAD
    if sign:
        sign, fraction = ("-", fraction) if fraction >= 0 else ("+", -fraction)
    elif _DIGIT_BEFORE.search(before := match.string[max(0, match.start() - 12) : match.start()]):
        if fraction < 0 or not _WHOLE_BEFORE.search(before):
            return UNREAD
        sign = " "
    return f"{sign}{fraction.numerator}/{fraction.denominator}"


_DIGIT_BEFORE = re.compile(r"\d[ ]?$")
_WHOLE_BEFORE = re.compile(r"(?<![\w.,])\d{1,9}[ ]?$")


def _ratio(over: str, under: str) -> Fraction | None:
    above, below = (NUMBER.fullmatch(part.strip(" $")) for part in (over, under))
    return value(above) / value(below) if above and below and value(below) else None
