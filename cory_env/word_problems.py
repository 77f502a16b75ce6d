"""Templated arithmetic word problems: seeded, unlimited, with their worked answers.

A problem is a story about one person and one kind of thing. The number of things changes once per
sentence, and the answer works through the same changes: `Tom has 9 shells. He loses 4 of them. How
many shells does Tom have now?` gives `9 - 4 = 5 #### 5`. The notation `#### n` for the final number
is that of GSM8K (arXiv 2110.14168).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cory_env.names import unknown_name
from cory_env.types import Example

_PAIRS = "Tom Anna, Sam Maria, Ben Lucy, Omar Joan, Mike Sara, David Linda, Luke Mei, Paul Nina"
PRONOUNS = {
    name: pronouns
    for pair in _PAIRS.split(", ")
    for name, pronouns in zip(pair.split(), (("He", "him"), ("She", "her")), strict=True)
}
ITEMS = (
    *("apples", "shells", "cards", "books", "marbles", "stickers", "cookies", "pencils", "coins"),
    *("flowers", "balloons", "stamps", "eggs", "peaches", "toys", "buttons", "tickets", "games"),
    *("crayons", "stones"),
)
CONTAINERS = ("boxes", "bags", "baskets", "packs", "jars")
GAINS = (
    "{He} buys {k} more {items}.",
    "{He} finds {k} more {items}.",
    "{friend} gives {him} {k} {items}.",
    "Then {he} gets {k} more from {friend}.",
)
LOSSES = (
    "{He} gives {k} {items} to {friend}.",
    "{He} loses {k} of them.",
    "{He} sells {k} of the {items}.",
    "{friend} takes {k} {items} away.",
)
NEW_GAINS = (
    "{He} picks up {k} {items}.",
    "{He} earns {k} {items}.",
    "{He} wins {k} {items}.",
    "{He} collects {k} {items}.",
    "{friend} hands {him} {k} {items}.",
    "{friend} returns {k} {items}.",
    "{k} {items} arrive in the mail.",
    "{k} more {items} are left at the door.",
)
NEW_LOSSES = (
    "{He} breaks {k} {items}.",
    "{He} throws {k} {items} out.",
    "{He} trades {k} {items} away.",
    "{He} uses up {k} {items}.",
    "{He} mails {k} {items} to {friend}.",
    "{friend} borrows {k} {items}.",
    "{k} {items} are stolen.",
    "{k} {items} fall into the river.",
)
WORDINGS = {"known": (GAINS, LOSSES), "new": (NEW_GAINS, NEW_LOSSES)}
"""How gains and losses are told: as in the pre-training of the embedded model, or as it has never
read them. Problems in new words have no other steps."""
DIFFICULTIES = (1, 2, 3)
"""Number of arithmetic steps. One step counts to 20, two steps to 60, three steps to 100."""

_LIMITS = {1: 20, 2: 60, 3: 100}


def check_form(difficulty: int, wording: str) -> None:
    """Check the form of a problem.

    Raises:
        ValueError: if the difficulty is not one of `DIFFICULTIES`, or there is no such wording.
    """
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"Expected a difficulty in {DIFFICULTIES}, got {difficulty!r}.")
    if wording not in WORDINGS:
        raise ValueError(unknown_name("a wording", WORDINGS, wording))


def word_problem(rng: np.random.Generator, difficulty: int = 2, wording: str = "known") -> Example:
    """Draw one problem with `difficulty` arithmetic steps, told in one of the `WORDINGS`.

    Returns:
        An example whose query is the question and whose reference is the worked answer, ending in
        `#### n`.

    Raises:
        ValueError: if the difficulty is not one of `DIFFICULTIES`, or there is no such wording.
    """
    check_form(difficulty, wording)
    gains, losses = WORDINGS[wording]
    limit = _LIMITS[difficulty]
    name, friend = (str(name) for name in rng.choice(list(PRONOUNS), size=2, replace=False))
    he, him = PRONOUNS[name]
    items = ITEMS[rng.integers(len(ITEMS))]
    words = {"He": he, "he": he.lower(), "him": him, "friend": friend, "items": items}

    count, sentence, steps = _beginning(rng, f"{name} has", items, limit, wording)
    sentences = [sentence]
    question = f"How many {items} does {name} have now?"
    while len(steps) < difficulty:
        divisors = [d for d in range(2, 10) if count % d == 0 and wording == "known"]
        if len(steps) == difficulty - 1 and divisors and rng.random() < 0.25:
            people = divisors[rng.integers(len(divisors))]
            sentences.append(f"{he} shares the {items} equally among {people} friends.")
            question = f"How many {items} does each friend get?"
            steps.append(f"{count} / {people} = {count // people}")
            count //= people
        elif count > 1 and (count >= limit or rng.random() < 0.5):
            k = int(rng.integers(1, count))
            sentences.append(losses[rng.integers(len(losses))].format(k=k, **words))
            steps.append(f"{count} - {k} = {count - k}")
            count -= k
        else:
            k = int(rng.integers(1, limit + 1))
            sentences.append(gains[rng.integers(len(gains))].format(k=k, **words))
            steps.append(f"{count} + {k} = {count + k}")
            count += k
    query = " ".join([*sentences, question])
    return Example(query, reference=f"{'; '.join(steps)} #### {count}")


def _beginning(
    rng: np.random.Generator, has: str, items: str, limit: int, wording: str
) -> tuple[int, str, list[str]]:
    """Draw what there is at first: its number, the sentence, and the step if it takes one."""
    if wording == "known" and rng.random() < 0.3:
        groups, size = int(rng.integers(2, 10)), int(rng.integers(2, max(3, limit // 9)))
        container = CONTAINERS[rng.integers(len(CONTAINERS))]
        count = groups * size
        sentence = f"{has} {groups} {container} with {size} {items} in each."
        return count, sentence, [f"{groups} * {size} = {count}"]
    count = int(rng.integers(2, limit + 1))
    return count, f"{has} {count} {items}.", []


def pretraining_texts(rng: np.random.Generator) -> Iterator[str]:
    """Yield endless pre-training documents in the prompt format of the arithmetic tasks.

    A quarter of them carries a `Reference:` before the answer, as an observer sees it; half of
    those are taken from another problem, so that a reader cannot trust them blindly.
    """
    while True:
        difficulty = int(rng.choice(DIFFICULTIES, p=(0.4, 0.45, 0.15)))
        problem = word_problem(rng, difficulty)
        reference = ""
        if rng.random() < 0.25:
            hint = problem if rng.random() < 0.5 else word_problem(rng, difficulty)
            reference = f" Reference: {hint.reference}"
        yield f"Question: {problem.query}{reference} Answer: {problem.reference}"
