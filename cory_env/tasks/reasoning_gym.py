"""Every data set of reasoning-gym as a task, scored by its own scorer (Stojanovski et al. 2025).

The package (arXiv 2505.24760) is imported when such a task is asked for. Some of its scorers hand
the response to Python's `eval`, themselves or by way of sympy. Here they are given what is harmless
to evaluate, and nothing else: see `is_plain`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import import_module
from typing import Any, cast
from zlib import crc32

from cory_env.names import check_arguments, unknown_name
from cory_env.task import QuestionTask
from cory_env.types import ScoredExample

SPLITS = ("train", "test")
NUM_ITEMS = 512
"""Items that are drawn unless `size` says how many, of both splits together."""
EVALUATING = frozenset(
    {
        *("binary_matrix", "countdown", "intermediate_integration", "n_queens", "puzzle24"),
        *("polynomial_multiplication", "simple_integration", "spiral_matrix", "string_insertion"),
    }
)
"""Data sets whose scorers evaluate the response as Python, in reasoning-gym 0.1.25."""

_LONGEST_ANSWER = 256
_LONGEST_PLAIN = 1000
_LARGEST_EXPONENT = 100
_FUNCTIONS = frozenset({*("sin", "cos", "tan", "exp", "log", "sqrt", "sinh", "cosh", "Abs")})
_PLAIN = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.List, ast.Tuple, ast.Call),
    *(ast.UnaryOp, ast.UAdd, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow),
)


class ReasoningGymTask(QuestionTask):
    """A data set of reasoning-gym, such as `rg:chain_sum`.

    The pioneer is asked `Question: <query> Answer:`; an observer reads `Reference: <response>`
    before `Answer:` for every earlier response. An item is one of `train` or, one in four, of
    `test` by the hash of its question, so that none is in both.

    Args:
        dataset: the name that reasoning-gym has for it.
        split: `train` or `test`.
        options: fields of its configuration, `size` (items of both splits together) and `seed`
            among them. A list is given as such, or as a text with spaces: `operators="+ -"`.

    Raises:
        ValueError: if there is no such data set, option or split, or the package is missing.
    """

    reward = "scored"

    def __init__(self, dataset: str, split: str = "train", **options: object) -> None:
        if split not in SPLITS:
            raise ValueError(unknown_name("a split", SPLITS, split))
        self.name = f"rg:{dataset}"
        given = {"size": NUM_ITEMS, "seed": 0, **options}
        items = _items(dataset, tuple(sorted(_parsed(dataset, given).items())))
        self.examples = [item for item in items if _split(item.query) == split]
        if not self.examples:
            raise ValueError(
                f"Expected examples of both splits among the {given['size']} items of {self.name}, "
                f"got none of {split}: pass a larger size."
            )
        longest = [len(item.reference or "x" * _LONGEST_ANSWER) for item in items]
        # A token is at least one byte, so no tokenizer needs more.
        self.max_new_tokens = min(max(16, max(longest) + 2), _LONGEST_ANSWER)
        question = max(len(item.query.encode()) for item in items)
        self.max_prompt_tokens = max(256, question + 64 + 4 * self.max_new_tokens)


@dataclass(frozen=True)
class ItemScorer:
    """Scores responses to one item: picklable, as the data set and the item are."""

    dataset: Any
    item: Mapping[str, Any]
    evaluates: bool
    """Whether the data set's scorer evaluates what it is given."""

    def __call__(self, response: str) -> float:
        """Return the score of what stands between the last answer tags, or of the whole response.

        A response that the data set's scorer cannot read, and raises an error of, scores 0.
        """
        answer = import_module("reasoning_gym.utils").extract_answer(response)
        answer = response.strip() if answer is None else answer
        if self.evaluates and answer not in self._known() and not is_plain(answer):
            answer = ""
        try:
            return float(self.dataset.score_answer(answer=answer, entry=self.item))
        except Exception:  # several raise whatever it may be that the response lets them run into
            return 0.0

    def _known(self) -> Sequence[str]:
        """Return the right answers that the item holds: they are harmless, evaluated or not."""
        return [self.item["answer"], *self.item["metadata"].get("valid_answers", ())]


def is_plain(text: str) -> bool:
    """Return whether a text is an expression of numbers, names, lists and known functions.

    To evaluate one neither runs anything else nor takes long: powers have small exponents, nothing
    but numbers is multiplied, and texts stand in lists only.
    """
    if len(text) > _LONGEST_PLAIN:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return all(isinstance(node, _PLAIN) and _is_small(node) for node in ast.walk(tree))


def _is_small(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value):
            return isinstance(value, int | float | str)
        case ast.Call(func, _, keywords):
            return isinstance(func, ast.Name) and func.id in _FUNCTIONS and not keywords
        case ast.BinOp(left, ast.Pow(), right):
            towers = any(isinstance(n, ast.Pow | ast.Call) for n in ast.walk(left))
            return not towers and _is_exponent(right)
        case ast.BinOp(left, _, right):
            return not any(_is_sequence(side) for side in (left, right))
        case _:
            return True


def _is_exponent(node: ast.expr) -> bool:
    numbers = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    powers = any(isinstance(n, ast.Pow | ast.Call) for n in ast.walk(node))
    small = all(isinstance(n, int | float) and n <= _LARGEST_EXPONENT for n in numbers)
    return small and len(numbers) <= 2 and not powers


def _is_sequence(node: ast.expr) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, ast.List | ast.Tuple)


def _split(question: str) -> str:
    return SPLITS[crc32(question.encode()) % 4 == 0]


@cache
def _items(dataset: str, options: tuple[tuple[str, object], ...]) -> tuple[ScoredExample, ...]:
    """Return all items of a data set, made once in a process and in their order.

    The order matters: those of some data sets depend on those before.
    """
    given: dict[str, Any] = {
        name: list(cast("Any", value)) if isinstance(value, tuple) else value
        for name, value in options
    }
    try:
        made = import_module("reasoning_gym").create_dataset(dataset, **given)
        items = list(made)
    except (AssertionError, ValueError, TypeError, IndexError, KeyError) as error:
        asked = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            f"Expected options that rg:{dataset} takes, got {asked}: {error or repr(error)}."
        ) from error
    evaluates = dataset in EVALUATING
    return tuple(
        ScoredExample(item["question"], item["answer"], scorer=ItemScorer(made, item, evaluates))
        for item in items
    )


def _parsed(dataset: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options of a data set as its configuration takes them, lists as tuples."""
    kind = _configuration(dataset)
    parsed = dict(options)
    for field in fields(kind):
        default = field.default if field.default is not MISSING else _made(field.default_factory)
        if field.name in parsed and isinstance(default, list | tuple):
            parsed[field.name] = _parts(parsed[field.name], cast("tuple[object, ...]", default))
    check_arguments(kind, parsed, f"an option of the task rg:{dataset}")
    return parsed


def _made(factory: Any) -> object:
    return None if factory is MISSING else factory()


def _parts(value: object, default: tuple[object, ...]) -> tuple[object, ...]:
    """Return the parts of a list, in the type of its default's."""
    if isinstance(value, str):
        parts: list[object] = list(value.split())
    else:
        parts = list(cast("Any", value)) if isinstance(value, list | tuple) else [value]
    kinds = {type(part) for part in default}
    kind = cast("Callable[[object], object]", kinds.pop()) if len(kinds) == 1 else None
    return tuple(kind(part) if kind in (int, float, str) else part for part in parts)


def _configuration(dataset: str) -> Any:
    try:
        known = import_module("reasoning_gym.factory").DATASETS
    except ImportError as error:
        raise ValueError(
            f"Expected the package reasoning-gym for the task rg:{dataset}, got {error}: pip "
            "install cory-env[reasoning-gym]."
        ) from error
    # `composite` draws from several, which have names of their own.
    names = sorted(set(known) - {"composite"})
    if dataset not in names:
        listed = "`reasoning_gym.factory.DATASETS` lists them"
        raise ValueError(unknown_name("a data set of reasoning-gym", names, dataset, listed=listed))
    return known[dataset][1]
