"""Trackers get what the run folder gets, and can never end a run. Their files are read back."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
from pathlib import Path

import pytest
from rich.console import Console

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.records.rows import read_histograms, read_metrics, read_samples
from agents.registries import TRACKERS
from agents.training.loop import train
from agents.watching.tracker import Tracker
from agents.watching.trackers import check_trackers, open_trackers
from agents.watching.wandb import wandb_mode


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_unknown_trackers_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"tensorboard, wandb, trackio.*got 'mlflow'"):
        TrainConfig(trackers="wandb,mlflow")
    assert TrainConfig(trackers="wandb, wandb,tensorboard").tracker_names == [
        "wandb",
        "tensorboard",
    ]


def test_a_tracker_that_is_not_installed_is_one_line_before_a_model_is_loaded(
    capsys, tmp_path, monkeypatch
):
    def fail(*arguments):
        raise AssertionError("a model was loaded first")

    monkeypatch.setattr("agents.parts.load_base", fail)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "run"
    assert main(["train", "imdb", "--trackers", "trackio", "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="pip install trackio"):
        check_trackers(TrainConfig(trackers="trackio"))
    assert not out.exists()


def test_a_tracker_that_fails_warns_once_and_the_run_goes_on(toy_config, monkeypatch):
    class Broken(Tracker):
        def __init__(self, config, done):
            self.closed = False

        def log(self, row, histograms):
            raise RuntimeError("no space\nleft")

        def samples(self, rows):
            pass

        def close(self):
            raise AssertionError("it is left alone after it has failed")

    monkeypatch.setitem(TRACKERS, "broken", Broken)
    console = quiet()
    run = train(toy_config(trackers="broken", iterations=3), console=console)
    assert len(run.metrics) == 3
    assert console.file.getvalue().count("no space left") == 1


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_has_every_number_histogram_and_table_once_after_a_resumption(toy_config):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = toy_config(trackers="tensorboard", save_every=2, iterations=4)
    run = train(config, console=quiet())
    # A run killed in its fourth iteration: the last checkpoint is that of the second.
    for file in (run.folder / "checkpoints" / "step_4").iterdir():
        file.unlink()
    (run.folder / "checkpoints" / "step_4").rmdir()
    train(config, resume=True, console=quiet())
    rows = read_metrics(run.folder / "metrics.jsonl")
    found = scalars(run.folder / "tensorboard", "llm_0/gradient_norm")
    assert [step for step, _ in found] == [0, 1, 2, 3]
    wanted = [row["llm_0/gradient_norm"] for row in rows]
    assert [value for _, value in found] == pytest.approx(wanted, rel=1e-6)
    events = module.EventAccumulator(str(run.folder / "tensorboard"), {"histograms": 0}).Reload()
    drawn = events.Histograms("llm_1/kl_histogram")
    assert [event.step for event in drawn] == [0, 1, 2, 3]
    counts = read_histograms(run.folder / "histograms.jsonl")[3]["counts"]["llm_1/kl"]
    assert drawn[3].histogram_value.num == sum(counts)
    texts = events.Tensors("llm_0/samples/text_summary")
    # A purge leaves texts, which a resumed run repeats word by word.
    assert {event.step for event in texts} == {1, 3}
    query = read_samples(run.folder / "samples.jsonl")[0]["query"]
    assert query in texts[-1].tensor_proto.string_val[0].decode()


def wandb_records(path: Path) -> list:
    """The records of a .wandb file: a LevelDB log, in blocks of 32 KiB, after 7 bytes of header."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, at, records, parts = path.read_bytes(), 7, [], b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_wandb_writes_offline_into_the_run_folder_and_keeps_its_id(
    toy_config, monkeypatch, tmp_path
):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in there
    config = toy_config(trackers="wandb", iterations=3, save_every=2)
    run = train(config, console=quiet())
    train(toy_config(trackers="wandb", iterations=4), resume=True, console=quiet())
    run_id = (run.folder / "wandb" / "run_id").read_text()
    first, second = sorted((run.folder / "wandb").glob(f"offline-run-*-{run_id}/run-*.wandb"))
    rows = read_metrics(run.folder / "metrics.jsonl")
    found: dict[int, dict[str, str]] = {}
    for record in [*wandb_records(first), *wandb_records(second)]:
        assert not record.run.entity
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            values = {item.key or "/".join(item.nested_key): item.value_json for item in items}
            step = int(values["_step"])
            assert "llm_0/kl" not in found.get(step, {}) or "llm_0/kl" not in values
            found.setdefault(step, {}).update(values)
    assert sorted(found) == [0, 1, 2, 3]
    for row in rows:
        values = found[row["iteration"]]
        assert json.loads(values["llm_0/kl"]) == pytest.approx(row["llm_0/kl"])
        assert json.loads(values["llm_0/kl_histogram/_type"]) == "histogram"
    assert "reference_samples/_type" in found[0]
    assert "samples/_type" in found[1]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_every_iteration_once_after_a_resumption(toy_config, monkeypatch, tmp_path):
    from trackio import SQLiteStorage, sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    config = toy_config(trackers="trackio", iterations=3, save_every=2)
    run = train(config, console=quiet())
    train(toy_config(trackers="trackio", iterations=4), resume=True, console=quiet())
    rows = SQLiteStorage.get_logs("cory-toy", "run")
    numbers = [row for row in rows if "llm_0/kl" in row]
    assert [row["step"] for row in numbers] == [0, 1, 2, 3]
    wanted = [row["llm_0/kl"] for row in read_metrics(run.folder / "metrics.jsonl")]
    assert [row["llm_0/kl"] for row in numbers] == pytest.approx(wanted)
    assert any("samples" in row for row in rows)


@pytest.mark.parametrize(
    ("variables", "mode"),
    [({}, "offline"), ({"WANDB_API_KEY": "k"}, "online"), ({"WANDB_MODE": "disabled"}, "disabled")],
)
def test_wandb_is_online_only_for_who_is_logged_in(monkeypatch, tmp_path, variables, mode):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode() == mode


def test_no_trackers_are_opened_unless_asked_for():
    assert open_trackers(TrainConfig(), 0, quiet()) == []
