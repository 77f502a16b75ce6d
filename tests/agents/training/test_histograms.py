from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from agents.distributed.world import World
from agents.records.rows import read_histograms, read_metrics
from agents.training.histograms import Histograms, bin_edges
from agents.training.loop import train
from agents.training.trainer import Trainer
from agents.types import LossOutput


class Batch:
    """What the histograms read of a turn, and of its batch."""

    def __init__(self, kls: list[list[float]], mask: list[list[bool]]):
        self.kls, self.mask = torch.tensor(kls), torch.tensor(mask)
        self.response_mask = self.mask


def output(values: list[list[float]]) -> LossOutput:
    return LossOutput(torch.tensor(0.0), {}, torch.tensor(values))


def test_counts_are_those_of_numpy_with_all_beyond_in_the_end_bins():
    values = torch.randn(64, 8) * 1.5
    batch = Batch((values.abs() * 4).tolist(), (values < 1.2).tolist())
    histograms = Histograms(World())
    histograms.start("llm_0", [batch])
    histograms.start_epoch("llm_0")
    histograms.add("llm_0", batch, output(values.tolist()))
    row = histograms.row(3)
    for quantity, found in (("log_ratio", values), ("kl", batch.kls)):
        edges = row["edges"][quantity]
        kept = np.clip(found[batch.response_mask].numpy(), edges[0], edges[-1])
        wanted, _ = np.histogram(kept, edges)
        assert row["counts"][f"llm_0/{quantity}"] == wanted.tolist()
    assert row["iteration"] == 3


def test_zero_lies_in_the_middle_bin_and_edges_rise():
    for quantity in ("log_ratio", "kl"):
        edges = bin_edges(quantity)
        assert edges == sorted(set(edges))
    histograms = Histograms(World())
    batch = Batch([[0.0]], [[True]])
    histograms.start("llm_0", [batch])
    histograms.start_epoch("llm_0")
    histograms.add("llm_0", batch, output([[0.0]]))
    counts = histograms.row(0)["counts"]["llm_0/log_ratio"]
    assert counts.index(1) == len(counts) // 2


def test_log_ratios_add_up_over_an_epoch_and_are_forgotten_by_the_next():
    histograms = Histograms(World())
    batch = Batch([[0.1, 0.2]], [[True, True]])
    histograms.start("llm_0", [batch])
    histograms.start_epoch("llm_0")
    histograms.add("llm_0", batch, output([[0.5, 0.5]]))
    histograms.add("llm_0", batch, output([[0.5, 0.5]]))
    assert sum(histograms.row(0)["counts"]["llm_0/log_ratio"]) == 4
    histograms.start_epoch("llm_0")
    histograms.add("llm_0", batch, output([[0.5, 0.5]]))
    assert sum(histograms.row(0)["counts"]["llm_0/log_ratio"]) == 2
    assert sum(histograms.row(0)["counts"]["llm_0/kl"]) == 2


@pytest.mark.parametrize("algorithm", ["mappo", "grpo"])
def test_every_token_of_an_iteration_is_counted(toy_config, algorithm):
    trainer = Trainer(toy_config(algorithm=algorithm, epochs=2))
    metrics = trainer.iterate(0)
    counts = trainer.histograms.row(0)["counts"]
    for name in trainer.policies:
        tokens = round(metrics[f"{name}/response_length"] * trainer.config.batch_size)
        assert sum(counts[f"{name}/kl"]) == sum(counts[f"{name}/log_ratio"]) == tokens
        # The second epoch no longer starts at the policy that sampled.
        middle = len(counts[f"{name}/log_ratio"]) // 2
        if metrics[f"{name}/gradient_norm"] > 0:  # GRPO learns nothing where a group is all alike
            assert counts[f"{name}/log_ratio"][middle] < tokens


def test_a_resumed_run_has_the_histograms_of_an_uninterrupted_one(toy_config, tmp_path):
    quiet = Console(file=io.StringIO())
    whole = train(toy_config(out=str(tmp_path / "whole")), console=quiet)
    part = train(toy_config(out=str(tmp_path / "part"), iterations=3), console=quiet)
    (part.folder / "histograms.jsonl").open("a").write('{"iteration": 3, "cut')
    train(toy_config(out=str(tmp_path / "part")), resume=True, console=quiet)
    found = read_histograms(part.folder / "histograms.jsonl")
    assert found == read_histograms(whole.folder / "histograms.jsonl")
    assert len(found) == len(read_metrics(whole.folder / "metrics.jsonl")) == 4
