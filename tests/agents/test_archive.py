"""A comparison that was packed counts as finished once it is unpacked."""

from __future__ import annotations

import tarfile

import pytest

from agents.cli import main
from benchmarks.archive import pack, unpack
from tests.agents.test_compare import SMALL


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
