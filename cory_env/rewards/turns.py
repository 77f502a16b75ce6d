"""Which part of a response is its own answer, and which an echoed or an invented question."""

from __future__ import annotations

import re

from cory_env.rewards.numbers import BEGINS, BOX, END, GAP, NUMBER

_ASKER = r"(?:Question|Problem|Exercise|Instruction|Human|User)"
_TURN = re.compile(
    rf"""
      <\|(?:im_start|start_header_id)\|>[ ]?user | <\|user\|> | <start_of_turn>user | \[INST\]
    | <\|(?:im_end|endoftext|end_of_text|eot_id)\|> | <end_of_turn> | </s>
    | ^[ \t]*+\#{{1,6}}[ ]*+[*_]{{0,3}}{_ASKER}\b
    | (?:^[ \t>*_\#-]*+|(?<=[\d.!?)\]*$%>{END}])[ ]{{0,2}}[*_]{{0,3}})
      {_ASKER}[ ]?\d{{0,9}}[*_]{{0,3}}[ ]?:
    | ^[ \t>*_]*+Q[ ]?\d{{0,9}}[*_]{{0,3}}[ ]?:
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE | re.ASCII,
)
_STATED = re.compile(
    rf"(?:=|#{{4}}|\banswer[*_\"']{{0,3}}(?: is\b| ?:)|{BOX}|<answer>){GAP}{BEGINS}",
    re.IGNORECASE | re.ASCII,
)
_ITEM = re.compile(
    r"^[ \t>*_#-]*+(\d{1,2})[*_]{0,3}(?:[.):][*_]{0,3}[ \t]+(?=\S)|[ ]?[-—][ ](?=[*_]{0,3}[a-z]))",
    re.IGNORECASE | re.MULTILINE | re.ASCII,
)


def answered_part(text: str) -> tuple[str, int]:
    """Return a response up to the next turn, and where the echo of its question ends.

    A turn is the next one where a number stands before it. Where the response begins with a turn,
    it repeats its question, which may be full of numbers: then it takes a stated answer or an
    equation.
    """
    numbered = enumerators(text)
    first = next((n for n in NUMBER.finditer(text) if n.start() not in numbered), None)
    least = len(text) if first is None else first.end()
    if (turn := _TURN.search(text)) and turn.start() < least:
        stated = _STATED.search(text)
        least = len(text) if stated is None else stated.end()
    echo = None
    for turn in _TURN.finditer(text):
        if turn.start() >= least:
            text = text[: turn.start()]
            break
        echo = turn.end()
    if echo is None:
        return text, 0
    line_end = text.find("\n", echo)
    return text, len(text) if line_end < 0 else line_end


def enumerators(text: str) -> set[int]:
    """Return where the numbers of headings and list items stand: those that count 1, 2, 3."""
    found: set[int] = set()
    last, first = 0, -1
    for item in _ITEM.finditer(text):
        number = int(item[1])
        if number == 1:
            last, first = 1, item.start(1)
        elif number == last + 1:
            found |= {first, item.start(1)}
            last = number
    return found
