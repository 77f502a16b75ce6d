"""Which held-out queries sample texts answer is the user's to say."""

from __future__ import annotations

import pytest

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.records.rows import read_samples
from agents.training.loop import train
from cory_env import make_task

SMALL = {"task": "toy", "model": "tiny", "adapter": "full", "dtype": "float32", "iterations": 1}
SMALL |= {"batch_size": 8, "minibatch_size": 8, "evaluation_queries": 0}


@pytest.mark.parametrize(
    ("said", "places"),
    [("first:4", [0, 1, 2, 3]), ("2, 0,5", [2, 0, 5]), ("7", [7]), ([3, 1], [3, 1])],
)
def test_places_are_the_first_or_those_that_are_named(said, places):
    assert list(TrainConfig(sample_queries=said).sample_places) == places


@pytest.mark.parametrize("said", ["", "first:0", "first:", "1,1", "-1", "a", "1,", "1.5"])
def test_what_is_no_place_is_refused(said):
    with pytest.raises(ValueError, match="Expected sample_queries to be first:N"):
        TrainConfig(sample_queries=said)


def test_the_texts_of_a_run_answer_the_queries_that_were_chosen(tmp_path):
    train(TrainConfig(**SMALL, sample_queries=[5, 2], out=str(tmp_path / "run")))
    examples = make_task("toy", split="test").examples
    asked = [row["query"] for row in read_samples(tmp_path / "run" / "samples.jsonl")]
    assert asked == [examples[5].query, examples[2].query] * 3  # the reference, and both policies


def test_a_place_beyond_the_split_is_refused_before_anything_is_written(tmp_path, capsys):
    flags = [w for n, v in SMALL.items() for w in (f"--{n.replace('_', '-')}", str(v))][2:]
    out = tmp_path / "run"
    words = ["train", "toy", *flags, "--sample-queries", "0,999999", "--out", str(out)]
    assert main(words) == 2
    assert "got 999999: they count from 0" in capsys.readouterr().err
    assert not out.exists()
