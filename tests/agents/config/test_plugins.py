"""Files of the user's own: imported when the user says so, remembered, and never run unasked."""

from __future__ import annotations

import json
import sys

import pytest

from agents.algorithms import ALGORITHMS
from agents.cli import main as cli
from agents.config import plugins
from agents.config.plugins import import_plugins, import_remembered
from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.studies.run import command_line
from cory_env.registry import REWARDS, TASKS

OWN = """
import pathlib
import cory_env
from cory_env.tasks.toy import ToyTask

@cory_env.register_task("own")
class OwnTask(ToyTask):
    name = "own"
    reward = "own"

@cory_env.register_reward("own")
def own():
    return cory_env.make_reward("match")

with open(pathlib.Path(__file__).with_suffix(".ran"), "a") as ran:
    ran.write("x")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Yield a file with a task and a reward; what it registers is undone, as in a new process."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "own_task.py"
    file.write_text(OWN)
    path = list(sys.path)
    yield file
    forget()
    sys.path[:] = path


def forget():
    for registry in (TASKS, REWARDS, ALGORITHMS):
        registry.pop("own", None)
    for name in [name for name in sys.modules if name.startswith("own_task")]:
        del sys.modules[name]
    plugins._own.clear()


def times_run(file):
    ran = file.with_suffix(".ran")
    return len(ran.read_text()) if ran.exists() else 0


def test_a_file_is_run_once_and_its_names_are_found(own):
    entries = import_plugins(own)
    assert import_plugins(own) == entries
    assert times_run(own) == 1
    config = TrainConfig(task="own", reward="own", imports=entries)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.imports[0].startswith(f"{own}#sha256=")
    assert command_line(entries) == ["--import", str(own)]


def test_a_module_is_imported_by_its_name(own, monkeypatch):
    monkeypatch.syspath_prepend(own.parent)
    assert import_plugins("own_task") == ("own_task",)
    assert "own" in TASKS
    forget()
    import_remembered(["own_task"], own.parent)
    assert "own" in TASKS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero in line 1"),
        ("\nif:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import cory_env\ncory_env.register_task('toy')(None)", "'toy', which is registered"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(own, text, words):
    own.write_text(text)
    with pytest.raises(ValueError, match="to be imported, got") as caught:
        import_plugins(own)
    assert words in str(caught.value)
    assert str(own) in str(caught.value)
    assert "own_task" not in sys.modules


def test_a_module_that_fails_is_named_with_its_file(own, monkeypatch):
    monkeypatch.syspath_prepend(own.parent)
    for text, words in (
        ("1 / 0", f"ZeroDivisionError: division by zero in line 1 of {own}"),
        ("\nif:", f"SyntaxError: invalid syntax in line 2 of {own}"),
        # Its own line, not that of what it imports.
        ("import json\njson.loads('')", f"in line 2 of {own}"),
    ):
        own.write_text(text)
        with pytest.raises(ValueError, match="a module to import, got 'own_task'") as caught:
            import_plugins("own_task")
        assert words in str(caught.value)


def test_what_is_not_there_is_named(own):
    with pytest.raises(ValueError, match=r"did you mean .*own_task\.py\?"):
        import_plugins(own.with_name("own_tsk.py"))
    with pytest.raises(ValueError, match=r"a module to import, got 'no_such_module'"):
        import_plugins("no_such_module")


def test_what_a_run_remembers_is_run_and_said(own, capsys):
    entries = import_plugins(own)
    forget()
    import_remembered(entries, own.parent / "run")
    assert times_run(own) == 2
    assert "own" in TASKS
    assert capsys.readouterr().err == f"importing {own}, as {own.parent / 'run'} was made with it\n"
    import_remembered(entries, own.parent / "run")
    assert times_run(own) == 2


def test_a_file_that_has_changed_or_gone_is_not_run(own):
    entries = import_plugins(own)
    forget()
    own.write_text(OWN + "\n# changed")
    with pytest.raises(ValueError, match=r"has changed since: pass --import FILE"):
        import_remembered(entries, own.parent)
    own.unlink()
    with pytest.raises(ValueError, match=r"found none: pass --import FILE"):
        import_remembered(entries, own.parent)
    assert times_run(own) == 1


def test_a_run_of_somebody_else_runs_nothing(own, tmp_path):
    entries = import_plugins(own)
    forget()
    # Downloaded with its code: path and digest are right, but nobody here has looked at it.
    (tmp_path / "state" / "cory" / "imported").unlink()
    with pytest.raises(ValueError, match=r"not imported before: look at it, then pass --import"):
        import_remembered(entries, tmp_path)
    with pytest.raises(ValueError, match=r"not imported before"):
        import_remembered(["json.tool"], tmp_path)
    _, _, digest = entries[0].partition("#sha256=")
    with pytest.raises(ValueError, match="Expected absolute paths"):
        import_remembered([f"own_task.py#sha256={digest}"], tmp_path)
    assert times_run(own) == 1


def test_what_the_user_names_comes_instead_of_what_is_remembered(own):
    entries = import_plugins(own)
    forget()
    moved = own.rename(own.with_name("own_task_moved.py"))
    import_plugins(moved)
    import_remembered(entries, own.parent)
    assert "own" in TASKS


def test_a_home_that_cannot_be_written_stops_nobody(own, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert len(import_plugins(own)) == 1


SMALL = (
    *("--model", "tiny", "--adapter", "full", "--dtype", "float32", "--iterations", "1"),
    *("--batch-size", "4", "--minibatch-size", "4", "--evaluation-queries", "2"),
)


def test_commands_import_what_a_run_was_made_with(own, tmp_path, capsys):
    run = str(tmp_path / "run")
    argv = ["train", "own", "--task-options", "length=2", *SMALL, "--out", run]
    assert cli.main(argv) == 2
    assert "your own comes with --import FILE" in capsys.readouterr().err
    assert cli.main([*argv, "--import", str(own)]) == 0
    assert RunFolder(tmp_path / "run").read_config().imports
    for command in (["evaluate", run, "--queries", "2"], ["report", run]):
        forget()
        assert cli.main(command) == 0
    forget()
    resumed = ["train", "own", "--resume", "--iterations", "2", "--out", run]
    assert cli.main(resumed) == 0
    forget()
    own.write_text(OWN + "\n# changed")
    assert cli.main(["evaluate", run, "--queries", "2"]) == 2
    assert cli.main(["evaluate", run, "--queries", "2", "--import", str(own)]) == 0
