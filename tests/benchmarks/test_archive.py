"""A comparison that was packed counts as finished once it is unpacked."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.studies.plan import evaluated_runs
from benchmarks.archive import pack, unpack
from tests.agents.studies.test_run import SMALL


def test_an_unpacked_comparison_shows_its_table_and_goes_on(tmp_path, capsys):
    command = ["compare", "toy", "--variants", "ppo", "cory-ippo", *SMALL]
    assert main([*command, "--seeds", "1", "--out", str(tmp_path / "one")]) == 0
    first = capsys.readouterr().out
    assert pack(tmp_path / "one", tmp_path / "kept") == 2
    with tarfile.open(tmp_path / "kept" / "runs.tar.xz") as archive:
        configs = [archive.extractfile(n).read() for n in archive.getnames() if "config" in n]
    assert len(configs) == 2
    assert not any(str(tmp_path).encode() in text for text in configs), "a path of this machine"
    assert unpack(tmp_path / "kept", tmp_path / "two") == 2

    assert main([*command, "--seeds", "1", "--out", str(tmp_path / "two")]) == 0
    second = capsys.readouterr().out
    assert "2 of 2 runs are finished" in second
    tables = [
        out[out.index("Policies alone") : out.index("The page is")] for out in (first, second)
    ]
    assert "cory-ippo" in tables[0]
    assert tables[0] == tables[1]
    assert "versions of the code" not in first + second
    pack(tmp_path / "two", tmp_path / "again")
    assert (tmp_path / "again/results.json").read_text() == (
        tmp_path / "kept/results.json"
    ).read_text()

    (tmp_path / "two/runs/ppo/base/0/provenance.json").unlink()
    assert main([*command, "--seeds", "1", "--out", str(tmp_path / "two")]) == 0
    assert "unknown: ppo seed 0\n" in capsys.readouterr().out
    assert pack(tmp_path / "two", tmp_path / "older") == 2

    with pytest.raises(ValueError, match="without runs/"):
        unpack(tmp_path / "kept", tmp_path / "two")
    with pytest.raises(ValueError, match="finished runs in"):
        pack(tmp_path / "kept", tmp_path / "none")


def test_the_runs_of_a_shipped_comparison_are_finished(tmp_path):
    unpack(Path(__file__).parents[2] / "docs/results/twice", tmp_path)
    runs = evaluated_runs(tmp_path)
    assert len(runs) == 5
    assert all(run.is_finished(run.read_config()) for run in runs)
    assert all(run.read_config().run_folder == run.path for run in runs)


def test_a_shipped_configuration_is_read_unless_it_asks_for_a_removed_fault():
    root = Path(__file__).parents[2] / "docs/results"
    read, refused = 0, 0
    for path in sorted(root.glob("*/runs.tar.xz")):
        with tarfile.open(path) as archive:
            names = [n for n in archive.getnames() if n.endswith("/config.json")]
            configs = [json.load(archive.extractfile(n)) for n in names]
        for values in configs:
            faults = values.get("swap_resets", False), values.get("repetition_penalty", 1.0)
            if faults == (False, 1.0):
                kept = TrainConfig.from_json(values).to_json()
                removed = {"swap_resets", "repetition_penalty", "engine_url", "engine_memory"}
                assert values.keys() - kept.keys() in (removed, set())
                said = {name: v for name, v in values.items() if v not in ("auto", 0)}
                assert all(kept.get(name, v) == v for name, v in said.items())
                read += 1
            else:
                with pytest.raises(ValueError, match=r"no longer reproduces.*57e4a78"):
                    TrainConfig.from_json(values)
                refused += 1
    assert read > 0
    assert refused > 0
