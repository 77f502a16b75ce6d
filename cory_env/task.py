"""What a task is, and how to make one from a class or from a data set."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from numbers import Integral, Real
from os import PathLike
from typing import cast

import numpy as np

from cory_env.rows import read_rows
from cory_env.types import Example, Tokenizer

QUESTION = "Question: {query}{earlier} Answer:"
REFERENCE = " Reference: {response}"
"""The prompt and the quotation of the paper for GSM8K (arXiv 2410.06101, appendix A)."""


class Task:
    """Where queries come from and how they are put to each role.

    A subclass has a `name`, `examples` and a `reward`, and may replace the rest. `from_dataset`
    makes a task without a class.
    """

    name: str
    """The name it is registered under."""
    examples: Sequence[Example]
    """A finite list, the same in every process: what evaluation runs through."""
    reward: str
    """Name of the reward that scores this task unless another is asked for."""
    max_new_tokens: int = 16
    """Longest response."""
    max_prompt_tokens: int = 240
    """Longest prompt."""
    tokenizer: Tokenizer | None = None
    """The task's own tokenizer, or None for the embedded one."""
    teaches: bool = False
    """Whether the pioneer is a teacher where there are observers: what it writes is a message to
    them, which is not scored, and from the second round on it reads a `feedback_prompt`."""

    def sample(self, rng: np.random.Generator) -> Example:
        """Draw an example for a new episode."""
        if not self.examples:
            raise ValueError(f"Expected examples in task {self.name!r}, got none.")
        return self.examples[int(rng.integers(len(self.examples)))]

    def pioneer_prompt(self, query: str) -> str:
        """Return what the pioneer reads: the query."""
        return query

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        """Return what an observer reads: the query with each earlier response, and the query.

        Args:
            query: the query of the episode.
            responses: all earlier responses in turn order; empty without knowledge transfer.
        """
        return "".join(f"{query}{response}\n" for response in responses) + query

    def verdict(self, reward: float) -> str:
        """Return what is told of a response that has earned this task reward.

        Raises:
            ValueError: if the task has no verdicts, as any unless it says otherwise.
        """
        raise ValueError(
            f"Expected a task that judges responses with verdicts, got {self.name}: leave out "
            "verdict, or give the task a method verdict(reward)."
        )

    def judged_prompt(self, query: str, responses: Sequence[str], verdicts: Sequence[str]) -> str:
        """Return what an observer reads where it is told the verdicts: each behind its response.

        Args:
            query: the query of the episode.
            responses: the earlier responses that it is shown, in turn order.
            verdicts: of each of them.
        """
        pairs = zip(responses, verdicts, strict=True)
        judged = [f"{response.rstrip()} {verdict}" for response, verdict in pairs]
        return self.observer_prompt(query, judged)

    def feedback_prompt(self, query: str, responses: Sequence[str], verdicts: Sequence[str]) -> str:
        """Return what a teacher reads from the second round on.

        Args:
            query: the query of the episode.
            responses: its messages and the answers to them so far, in turn order.
            verdicts: of each of them; empty of a message.
        """
        raise ValueError(
            f"Expected a task whose teacher reads a prompt in later rounds, got {self.name}: give "
            "it a method feedback_prompt(query, responses, verdicts)."
        )

    def worked_answer(self, example: Example) -> str | None:
        """Return a response that is right, as a learner should write it; None if none is known."""
        return example.reference

    @staticmethod
    def from_dataset(
        source: str | PathLike[str] | Iterable[Mapping[str, object]],
        *,
        query: str = "question",
        reference: str | None = "answer",
        split: str | None = None,
        config: str | None = None,
        limit: int | None = None,
        name: str = "dataset",
        reward: str = "answer",
        prompt: str = QUESTION,
        quote: str = REFERENCE,
        max_new_tokens: int = 64,
        max_prompt_tokens: int = 512,
    ) -> QuestionTask:
        """Return a task whose examples are the rows of a data set.

        A JSONL, CSV or TSV file (also gzipped) needs no package. Anything else is read by
        `datasets`: a name on the hub, a folder, a folder of `save_to_disk`, a JSON, Parquet or
        Arrow file. A task that is to be found by its name has two splits, and is registered as
        `register_task("mine")(lambda split: Task.from_dataset(f"{split}.jsonl", name="mine"))`.

        Args:
            source: a file, a folder, a name on the hub, or the rows: any mappings by column.
            query: the column of the queries, which are texts.
            reference: the column of the gold answers, texts or finite numbers; None for none. In
                nested columns, `answer.number` is the value of `number` in the column `answer`, and
                `answers.text.0` the first of a list.
            split: of a folder or a name, `train` if None; a file is one split by itself.
            config: of a folder or a name that has several.
            limit: how many rows to read; None for all.
            name: what the task is called.
            reward: the name of the reward that scores it.
            prompt: what every role reads: `{query}` stands for the query, `{earlier}` for the
                quotations of all earlier responses, which the pioneer has none of.
            quote: a quotation: `{response}` stands for the response, `{query}` for the query.
            max_new_tokens: longest response.
            max_prompt_tokens: longest prompt.

        Raises:
            ValueError: if a row or an argument is not as expected; names file, line and column.
            ImportError: if reading it takes `datasets`, which is missing.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"Expected a limit of at least 1, got {limit}.")
        if not isinstance(reward, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"Expected the name of a reward, got {reward!r}: register it, or pass it to the "
                "environment."
            )
        _expect_fields("prompt", prompt, "{query}", "{earlier}")
        _expect_fields("quote", quote, "{response}")
        rows = islice(read_rows(source, split, config), limit)
        task = QuestionTask()
        task.name, task.reward, task.prompt, task.quote = name, reward, prompt, quote
        task.max_new_tokens, task.max_prompt_tokens = max_new_tokens, max_prompt_tokens
        task.examples = [_example(where, row, query, reference) for where, row in rows]
        if not task.examples:
            raise ValueError(f"Expected a data set with rows, got none in {source!r}.")
        return task


class QuestionTask(Task):
    """A task whose prompts are two templates: see `Task.from_dataset`.

    Spaces around a response are left out of its quotation.
    """

    reward = "answer"
    prompt: str = QUESTION
    """What every role reads, with `{query}` and `{earlier}`."""
    quote: str = REFERENCE
    """How an earlier response is quoted, with `{response}` and perhaps `{query}`."""

    def worked_answer(self, example: Example) -> str | None:
        """Return the gold answer behind the space that its prompt leaves out."""
        return None if example.reference is None else f" {example.reference}"

    def pioneer_prompt(self, query: str) -> str:
        """Return the prompt without earlier responses."""
        return self.observer_prompt(query, ())

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        """Return the prompt with every earlier response quoted."""
        quotes = [_fill(self.quote, query=query, response=text.strip()) for text in responses]
        return _fill(self.prompt, query=query, earlier="".join(quotes))

    def verdict(self, reward: float) -> str:
        """Return `(right)` for a reward of 1, else `(wrong)`."""
        return "(right)" if reward >= 1 else "(wrong)"


def _fill(template: str, **words: str) -> str:
    """Put words in the place of `{word}`; all other braces, those in the words too, are text."""
    return re.sub(r"\{(\w+)\}", lambda field: words.get(field[1], field[0]), template)


def _expect_fields(name: str, template: str, *expected: str) -> None:
    for field in expected:
        if field not in template:
            raise ValueError(f"Expected {field} in the {name}, got {template!r}.")


def _example(where: str, row: Mapping[str, object], query: str, reference: str | None) -> Example:
    question = _cell(where, row, query)
    if not isinstance(question, str):
        raise ValueError(_expected("a text", where, query, question))
    question = _text(where, query, question)
    if reference is None:
        return Example(question)
    gold = _cell(where, row, reference)
    if not isinstance(gold, str):
        if (
            isinstance(gold, bool)
            or not isinstance(gold, Real | Decimal)
            or not math.isfinite(gold)
        ):
            raise ValueError(_expected("a text or a finite number", where, reference, gold))
        gold = str(int(gold) if isinstance(gold, Integral) else gold)
    return Example(question, reference=_text(where, reference, gold))


def _cell(where: str, row: Mapping[str, object], column: str) -> object:
    found = row.get(column)
    if found is None:
        found = _nested(row, column.split("."))
    if found is None:
        raise ValueError(
            f"Expected a value in column {column!r} of {where}, got none: its columns are "
            f"{list(row)}."
        )
    return found


def _nested(value: object, keys: Sequence[str]) -> object:
    """Return what lies under one key of a mapping or list, the next in there, and so on."""
    for key in keys:
        if isinstance(value, Mapping):
            value = cast("Mapping[str, object]", value).get(key)
        elif isinstance(value, list | tuple):
            items = cast("Sequence[object]", value)
            value = items[int(key)] if key.isdecimal() and int(key) < len(items) else None
        else:
            return None
    return value


def _expected(what: str, where: str, column: str, value: object) -> str:
    keys: Iterable[object] = ()
    shown = reprlib.repr(value)
    if isinstance(value, Mapping):
        keys = cast("Mapping[object, object]", value)
    elif isinstance(value, list | tuple):
        keys = range(len(cast("Sequence[object]", value)))
    inner = [f"{column}.{key}" for key in keys][:5]
    hint = f": name one of its values, as {inner}" if inner else ""
    return f"Expected {what} in column {column!r} of {where}, got {shown}{hint}."


def _text(where: str, column: str, text: str) -> str:
    if not text.strip():
        raise ValueError(f"Expected a text in column {column!r} of {where}, got {text!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Expected Unicode in column {column!r} of {where}, got the lone surrogate "
            f"{text[error.start]!r} in place {error.start}."
        ) from error
    return text
