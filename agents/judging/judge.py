"""`judge`: a reward that is learnt from what a judge prefers among the responses of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import ModelCardData

from agents.checks import check_run
from agents.config.train import TrainConfig
from agents.judging.judges import build_judge, check_judge
from agents.judging.preferences import Pair, Preferences, ask, draw_pairs
from agents.judging.reward_model import RewardModel
from agents.models.loading import load_base, pick_device
from agents.models.tiny import tiny_model
from agents.publishing.folders import check_new, new_folder
from agents.records.folder import RunFolder
from agents.records.rows import write_atomically
from agents.rewards.classifier import ClassifierReward
from agents.tasks import build_task
from agents.terminal.hush import hushed
from cory_env.types import Float64Array

LEAST = 0.6
"""Accuracy on held-out pairs below which a reward model is not written."""


HELD_OUT = 0.2
"""Share of the pairs that are decided, to measure that on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What `judge` has written, and how good it is."""

    folder: Path
    judge: str
    pairs: int
    """That were judged."""
    decided: int
    """On which the judge has said the same in both orders."""
    said_first: float
    """Share of its answers that name what it reads first."""
    changed: float
    """Share of the pairs where it named the same place in both orders."""
    accuracy: float
    """Share of the held-out pairs that the reward model orders as the judge does."""
    held_out: int
    """Those pairs."""

    @property
    def error(self) -> float:
        """Standard error of the accuracy."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.held_out))

    def __str__(self) -> str:
        """Say it in a few lines."""
        return (
            f"{self.judge} decides {self.decided} of {self.pairs} pairs; it names the first place "
            f"in {self.said_first:.0%} of its answers, and the same place in both orders in "
            f"{self.changed:.0%} of the pairs.\n"
            f"{self.folder}: orders {self.accuracy:.1%} ± {self.error:.1%} of {self.held_out} "
            f"held-out pairs as {self.judge} does; pass --reward {self.folder}."
        )


@hushed()
def judge(
    run: str | Path,
    out: str | Path,
    *,
    by: str = "task",
    pairs: int = 500,
    seed: int = 0,
    device: str = "",
) -> Judgement:
    """Let a judge compare responses of a run, and fit a reward model to what it prefers.

    Args:
        run: the run folder, whose policies answer from its last checkpoint.
        out: new or empty folder for the reward model, a sequence classifier of transformers.
        by: `task`, `lm:MODEL`, `rubric:FILE` or `FILE.py:FUNCTION`.
        pairs: queries that are answered twice each; at least 20.
        seed: of queries, responses, sides and head.
        device: where responses are made and judged; empty for the run's own.

    Raises:
        ValueError: if there is no such run or judge, the judge decides too few pairs, or the model
            does not learn what it prefers: nothing is written then.
    """
    out, folder = Path(out), RunFolder(Path(run))
    check_new(out)
    check_judge(by)
    if pairs < 20:
        raise ValueError(f"Expected at least 20 pairs to learn from, got {pairs}.")
    config = check_run(folder.path)
    config = config.replace(device=device or config.device)
    if not (checkpoints := folder.checkpoints()):
        raise ValueError(f"Expected a run with a checkpoint, got {folder}, which has none yet.")
    drawn, reward = draw_pairs(config, checkpoints[-1], pairs, seed)
    if not drawn:
        raise ValueError(
            f"Expected policies that answer a query in more than one way, got {pairs} pairs of one "
            f"text each from {folder}: judge an earlier run."
        )
    found = ask(build_judge(by, reward, config.device), drawn)
    return _learn(config, out, by, drawn, found, seed)


def _learn(
    config: TrainConfig, out: Path, by: str, drawn: list[Pair], found: Preferences, seed: int
) -> Judgement:
    decided = np.flatnonzero((found.labels == 0) | (found.labels == 1))
    held = int(len(decided) * HELD_OUT)
    if held < 4:
        raise ValueError(
            f"Expected a judge that decides at least 20 pairs, got {len(decided)} of {len(drawn)} "
            f"from {by}: pass more --pairs, or another --judge."
        )
    order = np.random.default_rng(seed).permutation(decided)
    test, train = order[:held], order[held:]
    model = _begin(config, seed)
    model.fit([drawn[i] for i in train], found.labels[train].tolist(), seed)
    own = [drawn[i] for i in train]
    model.standardise([p.example.query + text for p in own for text in (p.first, p.second)])
    with new_folder(out) as folder:
        model.save(folder)
        accuracy = _accuracy(folder, [drawn[i] for i in test], found.labels[test])
        result = Judgement(
            folder=out, judge=by, pairs=len(drawn), decided=len(decided), held_out=held,
            said_first=found.said_first, changed=found.changed, accuracy=accuracy,
        )  # fmt: skip
        if accuracy < LEAST:
            raise ValueError(
                f"Expected a reward model that orders at least {LEAST:.0%} of {held} held-out "
                f"pairs as {by} does, got {accuracy:.1%} ± {result.error:.1%}: pass more --pairs, "
                "or another --judge; nothing was written."
            )
        write_atomically(folder / "README.md", _card(result, config))
    return result


def _begin(config: TrainConfig, seed: int) -> RewardModel:
    """Return a reward model on the body of the run's first base model."""
    if config.models[0] == "tiny":
        task = build_task(config.task, config.train_split, config.task_arguments)
        base, tokenizer = tiny_model(task, config.seed)
    else:
        base, tokenizer = load_base(config.models[0], torch.float32)
    return RewardModel(base, tokenizer, seed, pick_device(config.device))


def _accuracy(folder: Path, pairs: list[Pair], labels: Float64Array) -> float:
    """Return how often what is written orders pairs as they are labelled; equal counts half."""
    reward = ClassifierReward(folder)
    examples = [pair.example for pair in pairs]
    gaps = reward(examples, [p.first for p in pairs]) - reward(examples, [p.second for p in pairs])
    return float(np.where(gaps == 0, 0.5, (gaps > 0) == (labels == 1)).mean())


def _card(result: Judgement, config: TrainConfig) -> str:
    data = ModelCardData(
        pipeline_tag="text-classification", library_name="transformers", tags=["reward-model"]
    )
    accuracy = f"{result.accuracy:.1%} ± {result.error:.1%}"
    return f"""---
{data.to_yaml()}
---

# A reward model of `{result.judge}` on {config.task}

The logit of its second label is the reward of `query + response`. It was fitted to which of two
responses a judge prefers (Bradley-Terry), asked in both orders; only pairs on which it said the
same both times were used. Rewards have a deviation of 1 over the responses that it was fitted to,
and no zero of their own.

| | |
|---|---|
| judge | `{result.judge}` |
| pairs, of which decided | {result.pairs}, {result.decided} |
| the judge names what it reads first | {result.said_first:.1%} of its answers |
| the judge names the same place in both orders | {result.changed:.1%} of the pairs |
| orders held-out pairs as the judge does | {accuracy} of {result.held_out} |

It knows responses like those that it was fitted to, of policies of that time. What is paid by it
should be watched by another reward: `--reward "1*FOLDER+0*NAME"`.
"""
