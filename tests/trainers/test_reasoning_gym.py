"""Every data set of reasoning-gym is a task: drawn by seed, scored by its own scorer."""

import builtins
import pickle
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

import cory_env
from cory_env.tasks.reasoning_gym import EVALUATING
from cory_env.testing import check_reward, check_task

pytestmark = pytest.mark.trainer

SMALL = {"size": 12}
SLOW = {"knight_swap": {"size": 2}, "futoshiki": {"size": 4}}
"""Fewer items of the data sets that take a second for each."""


def data_sets():
    return sorted(set(import_module("reasoning_gym.factory").DATASETS) - {"composite"})


def test_every_data_set_conforms_and_likes_its_references():
    assert len(data_sets()) > 100
    reward = cory_env.make_reward("scored")
    for name in data_sets():
        task = cory_env.make_task(f"rg:{name}", **{**SMALL, **SLOW.get(name, {})})
        check_task(task)
        check_reward(reward, task.examples[:2])
        answered = [example for example in task.examples if example.reference is not None]
        scores = reward(answered, [example.reference for example in answered])
        np.testing.assert_array_equal(scores, 1.0, err_msg=name)


def test_only_those_that_are_named_evaluate_a_response(monkeypatch):
    asked = []
    evaluate = builtins.eval

    def spy(source, *scopes):
        asked.append(source)
        return evaluate(source, *scopes)

    marked = ("[[770077]]", "770077", "770077 + x")
    for name in data_sets():
        task = cory_env.make_task(f"rg:{name}", **{**SMALL, **SLOW.get(name, {})})
        asked.clear()
        monkeypatch.setattr(builtins, "eval", spy)
        for example in task.examples[:2]:
            for response in marked:
                # By their own scorer, without what stands before it here.
                try:
                    example.scorer.dataset.score_answer(response, example.scorer.item)
                except Exception:
                    continue
        monkeypatch.undo()
        codes = [code for code in asked if not isinstance(code, str)]  # sympy compiles first
        texts = [text for text in asked if isinstance(text, str) and "770077" in text]
        assert bool(codes or texts) == (name in EVALUATING), name


def test_what_a_response_says_is_not_run(tmp_path):
    target = tmp_path / "run"
    response = f"[open({str(target)!r}, 'w')]"
    for name in sorted(EVALUATING):
        task = cory_env.make_task(f"rg:{name}", **SMALL)
        assert cory_env.make_reward("scored")(task.examples[:1], [response])[0] < 0.1
        assert not target.exists(), name


def test_items_are_those_of_the_package_by_seed():
    theirs = list(import_module("reasoning_gym").create_dataset("lcm", size=40, seed=7))
    splits = [cory_env.make_task("rg:lcm", split, size=40, seed=7) for split in ("train", "test")]
    pairs = [(e.query, e.reference) for task in splits for e in task.examples]
    assert sorted(pairs) == sorted((item["question"], item["answer"]) for item in theirs)
    assert not {e.query for e in splits[0].examples} & {e.query for e in splits[1].examples}
    other = cory_env.make_task("rg:lcm", size=40, seed=8)
    assert other.examples != splits[0].examples


def test_options_are_those_of_the_data_set():
    task = cory_env.make_task("rg:basic_arithmetic", operators="+ -", max_terms=2, max_digits=1)
    text = " ".join(example.query for example in task.examples)
    assert "*" not in text
    assert "/" not in text
    same = cory_env.make_task(
        "rg:basic_arithmetic", operators=["+", "-"], max_terms=2, max_digits=1
    )
    assert task.examples == same.examples
    assert cory_env.make_task("rg:string_insertion", **SMALL).name == "rg:string_insertion"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chain_sun", {}, r"data set of reasoning-gym .*'chain_sun': did you mean chain_sum\?"),
        ("composite", {}, "data set of reasoning-gym"),
        ("chain_sum", {"max_digit": 1}, r"an option of the task rg:chain_sum .*mean max_digits\?"),
        ("chain_sum", {"max_digits": "x"}, r"max_digits to be a whole number, got 'x'"),
        ("chain_sum", {"max_digits": 0}, r"options that rg:chain_sum takes, got .*max_digits=0"),
        ("chain_sum", {"size": 1}, "pass a larger size"),
        ("basic_arithmetic", {"operators": "?"}, r"takes, got .*unsupported operator: \?"),
    ],
)
def test_what_is_wrong_is_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        [cory_env.make_task(f"rg:{name}", split, **options) for split in ("train", "test")]
    assert "\n" not in str(caught.value)


def test_games_play_and_pickle():
    games = cory_env.vector_env(2, "rg:chain_sum", max_new_tokens=8)
    again = pickle.loads(pickle.dumps(games))
    for env in (games, again):
        prompts = env.reset(seed=3)
        assert prompts[0].startswith("Question: State the final answer")
        env.step([example.reference for example in env.examples])
        env.step(["nothing", env.examples[1].reference])
    assert games.rewards["observer_0"].tolist() == [1.0, 2.0]
    assert again.rewards["observer_0"].tolist() == [1.0, 2.0]


def test_the_package_is_loaded_when_it_is_asked_for():
    program = (
        "import sys, cory_env; cory_env.make_task('toy'); print('reasoning_gym' in sys.modules)\n"
        "cory_env.make_task('rg:lcm', size=9); print('reasoning_gym' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False", "True"]
