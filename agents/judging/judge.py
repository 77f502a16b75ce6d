"""`judge`: a reward that is learnt from what a judge prefers among the responses of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from huggingface_hub import ModelCardData

from agents.checks import check_run
from agents.config.train import TrainConfig
from agents.judging.judges import build_judge, by_score, check_judge
from agents.judging.preferences import Pair, Preferences, agreement, ask, draw_pairs
from agents.judging.reward_model import RewardModel
from agents.models.loading import load_base, pick_device
from agents.models.tiny import tiny_model
from agents.publishing.folders import check_new, new_folder
from agents.records.folder import RunFolder
from agents.records.rows import write_atomically
from agents.rewards.classifier import ClassifierReward
from agents.tasks import build_task
from agents.terminal.hush import hushed

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
    agreement: float
    """Share of the decided pairs on which it says what the run's own reward says."""
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
            f"{self.changed:.0%} of the pairs. Where both decide, it agrees with the run's own "
            f"reward on {self.agreement:.0%}.\n"
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
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "",
) -> Judgement:
    """Let a judge compare responses of a run, and fit a reward model to what it prefers.

    Args:
        run: the run folder, whose policies answer from its last checkpoint.
        out: new or empty folder for the reward model, a sequence classifier of transformers.
        by: `task`, `lm:MODEL`, `rubric:FILE` or `FILE.py:FUNCTION`.
        pairs: queries that are answered twice each; at least 20.
        learning_rate: of the reward model; > 0.
        seed: of queries, responses, sides and head.
        device: where responses are made and judged; empty for the run's own.

    Raises:
        ValueError: if there is no such run or judge, the judge decides too few pairs, or the model
            does not learn what it prefers: nothing is written then.
    """
    out, folder = Path(out), RunFolder(Path(run))
    config, checkpoint = _checked(folder, out, by, pairs, learning_rate)
    config = config.replace(device=device or config.device)
    drawn, reward = draw_pairs(config, checkpoint, pairs, seed)
    if not drawn:
        raise ValueError(
            f"Expected policies that answer a query in more than one way, got {pairs} pairs of one "
            f"text each from {folder}: judge an earlier run."
        )
    found = ask(build_judge(by, reward, config.device), drawn)
    learnt, held_out = _split(drawn, found, by, seed)
    model = _begin(config, seed)
    model.fit(*learnt, learning_rate, seed)
    own = [(pair.example.query, text) for pair in learnt.pairs for text in pair[1:]]
    model.standardise([query + text for query, text in own])
    with new_folder(out) as temporary:
        model.save(temporary)
        result = Judgement(
            folder=out, judge=by, pairs=len(drawn), held_out=len(held_out.pairs),
            decided=len(learnt.pairs) + len(held_out.pairs), said_first=found.said_first,
            changed=found.changed, agreement=agreement(found, ask(by_score(reward), drawn)),
            accuracy=_accuracy(temporary, held_out),
        )  # fmt: skip
        _expect_accuracy(result)
        write_atomically(temporary / "README.md", _card(result, config))
    return result


def _checked(
    folder: RunFolder, out: Path, by: str, pairs: int, learning_rate: float
) -> tuple[TrainConfig, Path]:
    """Return the configuration of the run and its last checkpoint."""
    check_new(out)
    check_judge(by)
    if pairs < 20:
        raise ValueError(f"Expected at least 20 pairs to learn from, got {pairs}.")
    if not learning_rate > 0:
        raise ValueError(f"Expected a learning rate above 0, got {learning_rate:g}.")
    config = check_run(folder.path)
    if not (checkpoints := folder.checkpoints()):
        raise ValueError(f"Expected a run with a checkpoint, got {folder}, which has none yet.")
    return config, checkpoints[-1]


class Labelled(NamedTuple):
    """Pairs that a judge has decided."""

    pairs: list[Pair]
    labels: list[float]
    """1 where the first is better, 0 where the second is."""


def _split(drawn: list[Pair], found: Preferences, by: str, seed: int) -> tuple[Labelled, Labelled]:
    """Return the pairs to learn from, and those that are held out."""
    decided = np.flatnonzero((found.labels == 0) | (found.labels == 1))
    held = int(len(decided) * HELD_OUT)
    if held < 4:
        raise ValueError(
            f"Expected a judge that decides at least 20 pairs, got {len(decided)} of {len(drawn)} "
            f"from {by}, which names what it reads first in {found.said_first:.0%} of its answers: "
            "pass more --pairs, or another --judge."
        )
    order = np.random.default_rng(seed).permutation(decided)
    learnt, held_out = (
        Labelled([drawn[i] for i in part], found.labels[part].tolist())
        for part in (order[held:], order[:held])
    )
    return learnt, held_out


def _expect_accuracy(result: Judgement) -> None:
    if result.accuracy < LEAST:
        raise ValueError(
            f"Expected a reward model that orders at least {LEAST:.0%} of {result.held_out} "
            f"held-out pairs as {result.judge} does, got {result.accuracy:.1%} ± "
            f"{result.error:.1%}: pass more --pairs, or another --judge; nothing was written."
        )


def _begin(config: TrainConfig, seed: int) -> RewardModel:
    """Return a reward model on the body of the run's first base model."""
    if config.models[0] == "tiny":
        task = build_task(config.task, config.train_split, config.task_arguments)
        base, tokenizer = tiny_model(task, config.seed)
    else:
        base, tokenizer = load_base(config.models[0], torch.float32)
    return RewardModel(base, tokenizer, seed, pick_device(config.device))


def _accuracy(folder: Path, held_out: Labelled) -> float:
    """Return how often what is written orders pairs as they are labelled; equal counts half."""
    reward = ClassifierReward(folder)
    examples = [pair.example for pair in held_out.pairs]
    sides = zip(*(pair[1:] for pair in held_out.pairs), strict=True)
    first, second = (reward(examples, texts) for texts in sides)
    right = (first > second) == (np.array(held_out.labels) == 1)
    return float(np.where(first == second, 0.5, right).mean())


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
| agrees with the reward of the run, where both decide | {result.agreement:.1%} of the pairs |
| orders held-out pairs as the judge does | {accuracy} of {result.held_out} |

It knows responses like those that it was fitted to, of policies of that time. What is paid by it
should be watched by another reward: `--reward "1*FOLDER+0*NAME"`.
"""
