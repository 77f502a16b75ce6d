"""What the rows of `benchmarks/deciding.py` deploy, scored alone on the same queries and draws."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import torch

from agents.config.train import TrainConfig
from agents.evaluation.answers import Answers, Decoding, collect_answers
from agents.models.copies import FullBackbone
from agents.models.files import EMBEDDED_MODEL
from agents.models.loading import load_base
from agents.models.merged import load_merged
from agents.parts import build_reward
from agents.policies.llm import LLMPolicy
from agents.publishing.average import average
from agents.records.folder import RunFolder
from agents.tasks import build_task
from benchmarks.deciding_plan import AVERAGED, LAST, MERGED, Cell, Study


def score(cell: Cell, deployed: str, split: str) -> None:
    """Write the scores of what a trained cell deploys: arrays (policies, samples, queries)."""
    found = [answers(cell.study, folder, split) for folder in _policies(cell, deployed)]
    _write(found, cell.scores_path(deployed))


def score_reference(study: Study, path: Path) -> None:
    """Write the scores of the model that all start from."""
    if not path.is_file():
        _write([answers(study, None, "test")], path)


def _policies(cell: Cell, deployed: str) -> list[Path]:
    """Return the folders of what is deployed; the mean of all policies is made where it is due."""
    runs = [RunFolder(config.run_folder) for config in cell.configs()]
    if deployed == AVERAGED:
        return [folder for run in runs for folder in run.final_policies()]
    if deployed == LAST:  # of runs too short for an average it is what they leave
        return [folder for run in runs for folder in run.last_policies() or run.final_policies()]
    merged = cell.folder / MERGED
    if not merged.is_dir():
        average([run.path for run in runs], merged)
    return [merged]


@cache
def _scorer(task: str) -> tuple[TrainConfig, LLMPolicy]:
    """Return how a task is asked, and a policy whose weights are put in anew for each deployed."""
    config = TrainConfig(task=task, algorithm="ppo", observers=0, dtype="float32", device="cpu")
    base, tokenizer = load_base(str(EMBEDDED_MODEL), torch.float32)
    backbone = FullBackbone(
        base, tokenizer, ["policy"], dtype=torch.float32, device=torch.device("cpu")
    )
    return config, LLMPolicy(name="policy", backbone=backbone)


@torch.no_grad()
def answers(study: Study, folder: Path | None, split: str) -> Answers:
    """Let the policy in a folder, or the reference, answer the first queries of a split."""
    config, policy = _scorer(study.task)
    model = load_merged(folder)[0] if folder else load_base(str(EMBEDDED_MODEL), torch.float32)[0]
    weights = dict(model.named_parameters())
    own = policy.backbone.parameters(policy.name)
    if own.keys() != weights.keys():
        raise ValueError(f"Expected the weights of the embedded model in {folder}, got others.")
    for name, parameter in own.items():
        parameter.copy_(weights[name])
    task = build_task(study.task, split, {})
    (found,) = collect_answers(
        config,
        [policy],
        task,
        build_reward(config, task),
        task.examples[: study.queries],
        Decoding(samples=study.samples, seed=0),
    )
    return found


def _write(found: list[Answers], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            rewards=np.stack([one.rewards for one in found]),
            kls=np.stack([one.kls for one in found]),
        )
    os.replace(temporary, path)
