"""Parts of a page: texts and what differs in them, the command of a run, what is vendored."""

from __future__ import annotations

import hashlib
import random
import re
import shlex
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.config.presets import starting_values
from agents.config.train import TrainConfig
from agents.records.rows import SampleRow, append_rows
from agents.registries import ALGORITHMS
from agents.reports import texts
from agents.reports.run_page import train_command, write_report
from agents.reports.texts import difference, run_queries
from tests.agents.reports.test_run_page import Page, metrics_rows, run_folder

VENDOR = Path(texts.__file__).parent / "vendor"


def test_words_that_the_reference_does_not_have_are_marked():
    assert difference("a good film", "a bad film") == [
        ("a", False),
        (" bad", True),
        (" film", False),
    ]
    assert difference("", "new") == [("new", True)]
    assert difference("old", "") == [("", False)]
    assert difference("same  words", "same\nwords") == [("same\nwords", False)]


def test_the_pieces_of_a_text_are_the_text():
    rng = random.Random(0)
    for _ in range(200):
        one, other = ("".join(rng.choices("ab \n", k=rng.randrange(30))) for _ in range(2))
        assert "".join(part for part, _ in difference(one, other)) == other


def sample(iteration: int, policy: str, reward: float | None = 1.0) -> SampleRow:
    return SampleRow(
        iteration=iteration,
        policy=policy,
        role="alone",
        query="q",
        response=f"{policy} {iteration}",
        task_reward=reward,
    )


def test_a_policy_is_compared_to_the_reference_of_its_own_model():
    rows = [sample(0, f"reference of llm_{i}", reward=i) for i in range(2)]
    rows += [sample(5, "llm_0", 3.0), sample(5, "llm_1", 3.0)]
    (query,) = run_queries(rows, ["llm_0", "llm_1"])
    assert [column.texts[0].gain for column in query.columns] == [3.0, 2.0]
    assert len(query.reference) == 2


def test_of_very_many_texts_some_are_shown_the_first_and_the_last_among_them():
    rows = [sample(i, "llm_0") for i in range(1000)]
    (query,) = run_queries(rows, ["llm_0"])
    titles = [text.title for text in query.columns[0].texts]
    assert len(titles) == len(set(titles)) == 40
    assert (titles[0], titles[-1]) == ("after 0", "after 999")


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS.known()))
def test_the_command_on_the_page_trains_the_run(algorithm):
    start, _ = starting_values("toy")
    changes = {"seed": 3, "task_options": "length=2", "knowledge_transfer": False, "out": "here"}
    changes |= {"observers": 0} if algorithm == "ppo" else {}
    config = TrainConfig(**start).replace(algorithm=algorithm, **changes)
    words = shlex.split(train_command(config.to_json()))
    assert words[:5] == ["python", "-m", "agents", "train", "toy"]
    assert "here" not in words
    # Twin: the start with the flags of the command is the configuration.
    fields: dict[str, object] = {}
    rest = words[5:]
    while rest:
        name = rest.pop(0).removeprefix("--").replace("-", "_")
        if name.startswith("no_") and name != "no_":
            fields[name.removeprefix("no_")] = False
        elif isinstance(getattr(config, name, None), bool):
            fields[name] = True
        else:
            fields[name] = rest.pop(0)
    stored = config.to_json()
    typed = {n: type(stored[n])(v) if stored[n] is not None else None for n, v in fields.items()}
    again = TrainConfig(**{**start, **typed, "out": "here"})
    assert again.to_json() == stored


def test_a_run_that_this_version_does_not_read_has_no_command():
    assert train_command({"task": "toy", "algorithm": "gone"}) == ""
    assert train_command({}).startswith("python -m agents train imdb")


def test_the_page_of_a_very_long_run_stays_small_and_says_what_it_leaves_out(tmp_path):
    run = run_folder(tmp_path, metrics_rows(10_000, num_policies=4), iterations=10_000)
    append_rows(run / "samples.jsonl", [dict(sample(i, "llm_0")) for i in range(0, 10_000, 10)])
    page = Page(write_report(run))
    assert (run / "report.html").stat().st_size <= 5e6
    assert "Of 10,000 iterations some 1,000 are drawn" in page.text
    assert "Roles were exchanged 2,499 times: too often to be drawn." in page.text


def test_what_is_vendored_is_what_was_published():
    notes = (VENDOR / "README.md").read_text(encoding="utf-8")
    digests = dict(
        reversed(line.split()) for line in notes.splitlines() if re.match(" {4}\\w", line)
    )
    assert digests == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.glob("uPlot*min*")
    }
    assert "MIT" in (VENDOR / "uPlot.LICENSE").read_text(encoding="utf-8")


def test_raw_files_are_linked_from_wherever_the_page_lies(tmp_path, capsys):
    run = run_folder(tmp_path / "a run", metrics_rows(2))
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    links = [a["href"] for tag, a in Page(tmp_path / "page.html").elements if tag == "a"]
    assert links == ["a%20run/metrics.jsonl", "a%20run/config.json"]
