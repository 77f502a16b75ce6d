"""Plug-ins that installed distributions bring: found by name, once asked for, with clear errors."""

import subprocess
import sys

import numpy as np
import pytest

import cory_env
from cory_env.registry import REWARDS, TASKS
from cory_env.testing import check_reward, check_task

PLUG_IN = """
import numpy as np
from cory_env import Example, Task

class Parrot(Task):
    name = "parrot"
    reward = "echo"

    def __init__(self, split="train", *, times=1):
        self.examples = [Example(word * times) for word in ("ab", "cd")]

def echo():
    return lambda examples, texts: np.array(
        [float(example.query in text) for example, text in zip(examples, texts)], np.float64
    )
"""
ENTRY_POINTS = """
[cory_env.tasks]
parrot = parrots:Parrot

[cory_env.rewards]
echo = parrots:echo
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Yield a function that makes a distribution look installed; what it registers is undone."""

    def install(name, entry_points, module="parrots", code=PLUG_IN):
        folder = tmp_path / name
        info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return folder

    before = dict(TASKS), dict(REWARDS)
    yield install
    for registry, entries in zip((TASKS, REWARDS), before, strict=True):
        registry.clear()
        registry.update(entries)
    sys.modules.pop("parrots", None)


def test_an_installed_task_and_reward_are_found_by_all_forms(install):
    install("cory-parrots", ENTRY_POINTS)
    task = cory_env.make_task("parrot", times=2)
    check_task(task)
    check_reward(cory_env.make_reward("echo"), task.examples)
    games = cory_env.vector_env(2, "parrot")
    prompts = games.reset(seed=0)
    games.step(prompts)
    games.step(["", prompts[1]])
    assert games.rewards["pioneer_0"].tolist() == [1, 2]
    assert cory_env.env("parrot", reward="echo").metadata


def test_a_plug_in_is_loaded_when_it_is_asked_for_and_not_before(install):
    folder = install("cory-parrots", ENTRY_POINTS)
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "import cory_env\n"
        "cory_env.make_task('toy'); print('parrots' in sys.modules)\n"
        "cory_env.make_task('parrot'); print('parrots' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["False", "True"]


def test_installed_names_are_listed(install):
    install("cory-parrots", ENTRY_POINTS)
    assert sorted(TASKS.known()) == sorted([*TASKS, "rg:NAME", "parrot"])
    assert sorted(REWARDS.known()) == sorted([*REWARDS, "echo"])
    with pytest.raises(ValueError, match=r"parrot\), got 'parot': did you mean parrot\?"):
        cory_env.make_task("parot")
    with pytest.raises(ValueError, match=r"answer, match, .*echo\), got 'parrot'\."):
        cory_env.make_reward("parrot")


def test_what_is_registered_in_the_process_comes_first(install):
    install("cory-parrots", "[cory_env.tasks]\ntoy = parrots:Parrot\nparrot = parrots:Parrot\n")
    assert cory_env.make_task("toy").name == "toy"
    task = cory_env.make_task("toy")
    cory_env.register_task("parrot")(lambda split: task)
    assert cory_env.make_task("parrot") is task


def test_a_plug_in_may_register_itself_too(install):
    code = PLUG_IN + "\nimport cory_env\ncory_env.register_task('parrot')(Parrot)\n"
    install("cory-parrots", ENTRY_POINTS, code=code)
    for _ in range(2):
        assert cory_env.make_task("parrot").name == "parrot"


def test_two_distributions_with_one_name_are_both_named(install):
    install("cory-parrots", ENTRY_POINTS)
    install("cory-cockatoos", ENTRY_POINTS)
    with pytest.raises(
        ValueError,
        match=r"one .* the task 'parrot', got it from cory-\w+ 1.5 and cory-\w+ 1.5: uninstall",
    ):
        cory_env.make_task("parrot")
    with pytest.raises(ValueError, match=r"the reward 'echo', got it from .*cory-parrots 1.5"):
        cory_env.make_reward("echo")


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("parrots:Parrot", "import no_such_module", "No module named 'no_such_module'"),
        (
            "parrots:Parrot",
            "1 / 0",
            r"ZeroDivisionError: division by zero in line 1 of /",
        ),
        ("parrots:Parrot", "if:", r"SyntaxError: invalid syntax in line 1 of \S+/parrots\.py"),
        ("parrots:Parrot", "raise SystemExit(3)", r"SystemExit: 3 in line 1 of \S+/parrots\.py"),
        ("parrots:Cockatoo", PLUG_IN, "no attribute 'Cockatoo'"),
        ("no_parrots:Parrot", PLUG_IN, "No module named 'no_parrots'"),
        ("parrots:np.pi", PLUG_IN, "3.14.*, which cannot be called"),
        ("not an object", PLUG_IN, "from 'not an object'"),
    ],
)
def test_a_broken_plug_in_is_named_with_its_distribution(install, value, code, message):
    install("cory-parrots", f"[cory_env.tasks]\nparrot = {value}\n", code=code)
    with pytest.raises(ValueError, match=f"Expected cory-parrots 1.5 to bring .*{message}"):
        cory_env.make_task("parrot")
    assert "parrot" in TASKS.known()
    assert "parrot" not in TASKS
    assert np.isfinite(cory_env.make_reward("answer")([], [])).all()
