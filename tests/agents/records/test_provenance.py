"""What made a run is noted, and runs of several versions do not stand in one table unnoticed."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from agents.records import provenance
from agents.records.provenance import facts, read_provenance, record, sources, version_name
from agents.reports.run_page import write_report
from agents.studies.page import version_lines
from agents.studies.plan import Grid, plan


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with both packages."""
    for name in ("agents/a.py", "agents/deep/b.py", "cory_env/c.py", "docs/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def digest(root: Path) -> str:
    sources.cache_clear()
    return sources(root)


def test_the_digest_is_of_the_code_and_of_nothing_else(tree):
    before = digest(tree)
    (tree / "docs/d.md").write_text("other")
    (tree / "agents/report.html").write_text("no code")
    assert digest(tree) == before
    (tree / "agents/deep/b.py").write_text("agents/deep/b.pY")
    changed = digest(tree)
    (tree / "agents/deep/b.py").write_text("agents/deep/b.py")
    (tree / "cory_env/c.py").rename(tree / "cory_env/e.py")
    renamed = digest(tree)
    assert len({before, changed, renamed}) == 3


def test_a_commit_is_marked_if_a_package_differs_from_it(tree, monkeypatch):
    monkeypatch.setattr(provenance, "_ROOT", tree)
    assert facts("cpu")["commit"] is None

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", str(tree), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for command in (("init",), ("add", "."), ("commit", "-m", "first")):
        git(*command)
    head = git("rev-parse", "HEAD")[:12]
    (tree / "docs/d.md").write_text("other")
    assert facts("cpu")["commit"] == head
    (tree / "agents/a.py").write_text("other")
    assert facts("cpu")["commit"] == f"{head} with changes"


def test_packages_that_lie_in_somebody_elses_repository_have_no_commit(tree, monkeypatch):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    (tree / ".gitignore").write_text("agents\ncory_env\n")
    for command in (("init",), ("add", "."), ("commit", "-m", "theirs")):
        subprocess.run(["git", "-C", str(tree), *who, *command], check=True, capture_output=True)
    monkeypatch.setattr(provenance, "_ROOT", tree)
    assert facts("cpu")["commit"] is None


def test_facts_are_of_this_process():
    now = facts("cpu")
    assert now["python"] == platform.python_version()
    assert now["torch"] == torch.__version__
    assert now["threads"] == torch.get_num_threads()
    assert now["device"] == "cpu"


def test_a_resumption_is_noted_if_something_has_changed(tmp_path):
    path = tmp_path / "provenance.json"

    def noted() -> list[tuple[int, str]]:
        return [(entry["first_iteration"], entry["sources"]) for entry in read_provenance(path)]

    record(path, 0, {"sources": "a", "threads": 1})
    record(path, 4, {"sources": "a", "threads": 1})
    record(path, 6, {"sources": "b", "threads": 1})
    record(path, 9, {"sources": "b", "threads": 2})
    assert noted() == [(0, "a"), (6, "b"), (9, "b")]
    # What came after the checkpoint that is resumed has been cut off.
    record(path, 6, {"sources": "c", "threads": 1})
    assert noted() == [(0, "a"), (6, "c")]


NO_ENTRIES = (
    *("{", "3", "{}", "[3]", '[{"sources": "a"}]', '[{"first_iteration": 0}]'),
    '[{"first_iteration": "0", "sources": "a"}]',
)


@pytest.mark.parametrize("content", NO_ENTRIES)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(ValueError, match=r"list of entries in .*provenance.json"):
        read_provenance(tmp_path / "provenance.json")


def test_a_version_is_called_by_its_first_commit():
    first = {"sources": "a", "commit": "abc"}
    assert version_name([]) == "unknown"
    assert version_name([{"sources": "a", "commit": None}]) == "a"
    assert version_name([first, {"sources": "a", "commit": "def"}]) == "abc"
    assert version_name([first, {"sources": "b", "commit": None}, first]) == "abc then b"


def test_a_comparison_says_which_versions_made_its_runs(tmp_path):
    jobs = plan({}, Grid(variants=("ppo", "cory-mappo"), seeds=4), tmp_path)
    assert version_lines(jobs) == [], "all are unknown"
    for job in jobs:
        job.config.run_folder.mkdir(parents=True)
        # A commit that changes no code is no other version.
        commit = f"commit-{job.config.seed}"
        code = "a" if job.variant == "ppo" else "b"
        record(job.folder.provenance_path, 0, {"sources": code, "commit": commit})
    assert version_lines(jobs[::2]) == []
    assert version_lines(jobs)[1:] == [
        "commit-0: ppo seed 0, ppo seed 1, ppo seed 2 and 1 more",
        "commit-0: cory-mappo seed 0, cory-mappo seed 1, cory-mappo seed 2 and 1 more",
    ]


def test_the_report_shows_it_as_text(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"task": "toy"}))
    record(tmp_path / "provenance.json", 0, {"sources": "<b>a</b>", "torch": "9.9"})
    page = write_report(tmp_path).read_text()
    assert "Made by" in page
    assert "<dt>torch</dt><dd>9.9</dd>" in page
    assert "<b>a" not in page
    assert "&lt;b&gt;a" in page
