"""Names that nobody knows: what was probably meant, and what a call takes."""

import numpy as np
import pytest

from cory_env.names import check_arguments, known_arguments, nearest, unknown_name


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("imbd", "imdb"),
        ("IMDB", "imdb"),
        ("no_exchange", "no-exchange"),
        ("sentimant", None),
        ("", None),
        (7, None),
        (None, None),
    ],
)
def test_the_nearest_name_is_meant(word, meant):
    assert nearest(word, ["imdb", "gsm8k", "no-exchange", "toy"]) == meant


def test_a_line_says_what_there_is_what_came_and_what_was_meant():
    line = unknown_name("a task", ["imdb", "toy"], "imbd")
    assert line == "Expected a task (imdb, toy), got 'imbd': did you mean imdb?"
    assert unknown_name("a task", ["imdb", "toy"], "x").endswith("(imdb, toy), got 'x'.")
    assert unknown_name("a task", ["toy"], "x", mend="import it").endswith("got 'x': import it")
    assert unknown_name("an option", [], "x") == "Expected an option (there is none), got 'x'."


def test_a_long_list_is_only_named():
    names = [f"variant-{i}" for i in range(30)]
    line = unknown_name("a variant", names, "variant-99", listed="docs list them")
    assert "(docs list them)" in line
    assert "variant-1," not in line
    assert "did you mean variant-" in line


class Mine:
    def __init__(self, split: str = "train", *, size: int = 3, rate: float = 0.5, on: bool = True):
        pass


def anything(split="train", **options):
    pass


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"sise": 3}, "Expected an option (size, rate, on), got 'sise': did you mean size?"),
        ({"split": "test"}, "Expected an option (size, rate, on), got 'split'."),
        ({"size": "3"}, "Expected size to be a whole number, got '3'."),
        ({"size": True}, "Expected size to be a whole number, got True."),
        ({"rate": "high"}, "Expected rate to be a number, got 'high'."),
        ({"on": 1}, "Expected on to be True or False, got 1."),
    ],
)
def test_arguments_are_checked_by_name_and_plain_type(given, line):
    with pytest.raises(ValueError, match="Expected") as caught:
        check_arguments(Mine, given, "an option", besides="split")
    assert str(caught.value) == line


def test_arguments_that_fit_pass_and_so_does_what_tells_nothing():
    check_arguments(Mine, {"size": np.int64(2), "rate": 1, "on": False}, "an option")
    check_arguments(anything, {"whatever": object()}, "an option")


def test_a_function_says_which_arguments_it_takes():
    @known_arguments
    def train(config, *, resume=False):
        return config, resume

    assert train(1, resume=True) == (1, True)
    with pytest.raises(TypeError, match=r"an argument of train \(config, resume\), got 'resum'"):
        train(1, resum=True)
