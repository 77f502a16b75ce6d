"""Checkpoints are whole or absent, and a damaged one says so."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors import SafetensorError

from agents.records import checkpoint as module
from agents.records.checkpoint import load_checkpoint, save_checkpoint
from agents.records.folder import RunFolder

TENSORS = {
    "policy/llm_0/weight": torch.arange(6.0).view(2, 3),
    "generator/llm_0": torch.arange(4).byte(),
}
META = {"games": {"seed": 2**127}, "kl_coefs": {"llm_0": 0.30000000000000004}}


def test_what_is_saved_is_loaded(tmp_path):
    path = save_checkpoint(RunFolder(tmp_path), 3, TENSORS, META, keep=2)
    tensors, meta = load_checkpoint(path)
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)


def test_only_the_last_ones_are_kept_in_order_of_number(tmp_path):
    for step in (8, 9, 10, 11):
        save_checkpoint(RunFolder(tmp_path), step, TENSORS, META, keep=2)
    assert [p.name for p in RunFolder(tmp_path).checkpoints()] == ["step_10", "step_11"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_10", "step_11"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_checkpoint_cut_short_is_refused_with_its_name(tmp_path, name):
    path = save_checkpoint(RunFolder(tmp_path), 1, TENSORS, META, keep=1)
    os.truncate(path / name, (path / name).stat().st_size // 2)
    with pytest.raises(ValueError, match=r"Expected a whole checkpoint in .*step_1"):
        load_checkpoint(path)


def test_a_changed_byte_is_noticed(tmp_path):
    path = save_checkpoint(RunFolder(tmp_path), 1, TENSORS, META, keep=1)
    content = bytearray((path / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "state.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_full_disk_leaves_the_previous_checkpoint_and_no_rubbish(tmp_path, monkeypatch, kind):
    save_checkpoint(RunFolder(tmp_path), 1, TENSORS, META, keep=1)

    def full_disk(*args, **kwargs):
        raise kind("No space left on device")

    monkeypatch.setattr(module, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(RunFolder(tmp_path), 2, TENSORS, META, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_1"]
    assert load_checkpoint(tmp_path / "checkpoints/step_1")[1] == META
