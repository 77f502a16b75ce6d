"""`new-task` writes a package that keeps to its own tests, installs, and trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.cli.new_task import new_task


def python(*words: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    environment["XDG_STATE_HOME"] = str(cwd)
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return new_task("my-small-sums", tmp_path_factory.mktemp("new"))


def test_its_own_tests_pass_and_find_a_broken_reward(folder):
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "README.md",
        "my_small_sums/__init__.py",
        "pyproject.toml",
        "tests/test_my_small_sums.py",
    ]
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", ".", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout
    source = folder / "my_small_sums" / "__init__.py"
    text = source.read_text()
    source.write_text(text.replace("float(example.reference == first)", "0.0"))
    try:
        assert python("-m", "pytest", "-q", ".", cwd=folder).returncode == 1
    finally:
        source.write_text(text)


def test_installed_it_is_found_by_its_name(folder, tmp_path):
    pytest.importorskip("hatchling")
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = python(*pip, "--target", str(tmp_path / "site"), str(folder), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = python("-m", "agents", "list", "tasks", cwd=tmp_path, path=tmp_path / "site")
    assert "  my-small-sums" in listed.stdout, listed.stderr


def test_it_trains_by_a_flag(folder, tmp_path):
    words = ["-m", "agents", "train", "my-small-sums", "--iterations", "1", "--batch-size", "8"]
    words += ["--minibatch-size", "8", "--evaluation-queries", "4", "--out", "run"]
    words += ["--import", str(folder / "my_small_sums" / "__init__.py")]
    done = python(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("My Sums!", ["'My Sums!'", "try my-sums"]),
        ("1st", ["try st"]),
        ("toy", ["a task that there is"]),
        ("sentiment", ["a reward that there is"]),
        ("taken", ["a new folder", "taken"]),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_is_written(name, parts, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    assert main(["new-task", name, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Expected ")
    assert error.count("\n") == 1
    assert all(part in error for part in parts), error
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("agents.cli.new_task.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        new_task("mine", tmp_path)
    assert list(tmp_path.iterdir()) == []
