"""Tasks of reasoning-gym, as far as they go without it: tests/trainers has the rest."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import cory_env
from cory_env.registry import TASKS
from cory_env.tasks.reasoning_gym import ItemScorer, is_plain
from cory_env.types import Example, ScoredExample


@pytest.mark.parametrize(
    "text",
    [
        "42",
        " -3.5 ",
        "2*x**2 - 3*x + C",
        "sin(x)*exp(2*x)/5",
        "x**-1",
        "(4 + 4) * (5 - 2)",
        "[1, 2, 3]",
        "[['a', 'b'], ['c']]",
        "x**(1/2)",
    ],
)
def test_plain_expressions_are_evaluated(text):
    assert is_plain(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the answer is 4",
        "__import__('os').system('true')",
        "x.__class__",
        "open('f')",
        "[].append(1)",
        "(lambda: 1)()",
        "[c for c in 'ab']",
        "'a' * 10**9",
        "[0] * 10**9",
        "f'{x}'",
        "9**9**9",
        "(9**99)**99",
        "10**1000",
        "1 << 99",
        "exp(x=1)",
        "factorial(10)",
        "exp(x)**9",
        "x**exp(9)",
        "(x := 1)",
        "{1: 2}",
        "a[0]",
        "9" * 1001,
        "(" * 500,
        "5!",
        "b'a'",
        "\x00",
    ],
)
def test_nothing_else_is_evaluated(text):
    assert not is_plain(text)


class Evaluating:
    """A data set that takes whatever can be evaluated."""

    def score_answer(self, answer, entry):
        if answer == "unreadable":
            raise KeyError(answer)
        return {"": 0.0, entry["answer"]: 1.0}.get(answer, 0.5)


ITEM = {"question": "?", "answer": "a b", "metadata": {"valid_answers": ["b a"]}}


@pytest.mark.parametrize(
    ("response", "plain", "any_text"),
    [
        ("a b", 1.0, 1.0),
        (" a b\n", 1.0, 1.0),
        ("I think <answer>a b</answer>", 1.0, 1.0),
        ("b a", 0.5, 0.5),
        ("1 + 1", 0.5, 0.5),
        ("b b", 0.0, 0.5),
        ("open('f')", 0.0, 0.5),
        ("unreadable", 0.0, 0.0),
    ],
)
def test_a_response_reaches_its_scorer_unless_it_may_do_harm(
    response, plain, any_text, monkeypatch
):
    def extract_answer(text):
        found = re.search("<answer>(.*)</answer>", text)
        return found and found[1].strip()

    utils = SimpleNamespace(extract_answer=extract_answer)
    monkeypatch.setitem(sys.modules, "reasoning_gym.utils", utils)
    assert ItemScorer(Evaluating(), ITEM, evaluates=True)(response) == plain
    assert ItemScorer(Evaluating(), ITEM, evaluates=False)(response) == any_text


def test_the_reward_scored_asks_the_example():
    reward = cory_env.make_reward("scored")
    examples = [ScoredExample("q", "r", scorer=len), Example("q", reference="abc")]
    np.testing.assert_array_equal(reward([examples[0]] * 2, ["ab", ""]), [2.0, 0.0])
    np.testing.assert_array_equal(reward([examples[1]] * 2, [" abc", "ab"]), [1.0, 0.0])
    with pytest.raises(ValueError, match="a scorer or a reference"):
        reward([Example("q")], ["a"])


def test_a_family_is_known_by_its_prefix():
    assert "rg:NAME" in TASKS.known()
    assert "reasoning-gym" in TASKS.summary("rg:NAME")
    TASKS.check("rg:chain_sum")
    assert "rg:chain_sum" not in TASKS
    with pytest.raises(ValueError, match=r"rg:NAME\), got 'rgs:chain_sum'"):
        TASKS.check("rgs:chain_sum")
    with pytest.raises(ValueError, match=r"split \(train, test\), got 'dev'"):
        cory_env.make_task("rg:chain_sum", split="dev")


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(
        ValueError, match=r"^Expected the package .*pip install [^\n]*reasoning-gym"
    ):
        cory_env.make_task("rg:chain_sum")
