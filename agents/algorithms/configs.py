"""What each algorithm begins with; loads no torch, so that flags are checked in a moment.

An algorithm `X` of this package finds its own here under the name `XConfig`; one of your own has a
class `Config` in itself, derived from one of these or of `agents.config.algorithm`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from agents.algorithms.segments import Segments
from agents.config.algorithm import (
    KL,
    AlgorithmConfig,
    CriticConfig,
    LearningConfig,
    Normalization,
    Ratio,
    Whitening,
)
from agents.config.options import Above, AtLeast, Between

if TYPE_CHECKING:
    from agents.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class IPPOConfig(CriticConfig):
    """IPPO: one critic per policy."""


@dataclass(frozen=True, kw_only=True)
class PPOConfig(IPPOConfig):
    """PPO: a single agent and its critic."""

    def check(self, run: RunConfig) -> None:
        """Check that there is a single agent."""
        super().check(run)
        if run.observers:
            raise ValueError(
                f"Expected no observers with algorithm ppo, the single-agent baseline, got "
                f"{run.observers}: pass --observers 0, or --algorithm ippo for the same "
                "learner with observers."
            )


@dataclass(frozen=True, kw_only=True)
class MAPPOConfig(IPPOConfig):
    """MAPPO: one critic for all policies."""


@dataclass(frozen=True, kw_only=True)
class HAPPOConfig(MAPPOConfig):
    """HAPPO: policies learn in turn order, with one critic for all."""


@dataclass(frozen=True, kw_only=True)
class ReinforcePlusPlusConfig(AlgorithmConfig):
    """REINFORCE++: rewards measured against the batch."""

    kl: KL = "k1"
    normalization: Normalization = "token"


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(AlgorithmConfig):
    """RLOO: rewards measured against the others of the group."""

    group_size: Annotated[int, AtLeast(1)] = 4
    whitening: Whitening = "none"


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(AlgorithmConfig):
    """GRPO: rewards in units of the group's deviation."""

    kl: KL = "k3"
    group_size: Annotated[int, AtLeast(1)] = 8
    normalization: Normalization = "sequence"
    whitening: Whitening = "none"


@dataclass(frozen=True, kw_only=True)
class DrGRPOConfig(GRPOConfig):
    """Dr. GRPO: GRPO without the divisions that bias it."""

    kl: KL = "exact"
    normalization: Normalization = "constant"


@dataclass(frozen=True, kw_only=True)
class VineConfig(AlgorithmConfig):
    """VinePPO: rewards measured against episodes that are played on."""

    k: Annotated[int, AtLeast(1)] = 3
    """Branches of each state, whose mean is its value."""
    at: Literal["segments", "handover"] = "segments"
    """Where episodes are played on from: the ends of segments, or only the beginnings of turns."""
    segment: str = "tokens:4"
    """What a segment is: newline, sentence, tokens:NUMBER, or text:MARK for one that ends with a
    mark."""

    @property
    def continues(self) -> bool:
        """Whether the engine has to go on with responses behind their first tokens."""
        return self.at == "segments"

    def check(self, run: RunConfig) -> None:
        """Check that branches are worth what their states are."""
        super().check(run)
        if run.rounds > 1:
            raise ValueError(
                f"Expected one round with algorithm {run.algorithm}, whose branches know rewards "
                f"and not the KL of a policy's later turns, got {run.rounds}: pass another "
                "--algorithm, such as mappo."
            )
        Segments.parse(self.segment)
        for name, value in (("gamma", 1.0), ("credit", "causal"), ("practice", "own")):
            if (got := getattr(self, name)) != value:
                raise ValueError(
                    f"Expected {name} {value} with algorithm {run.algorithm}, whose branches are "
                    f"of its own turns and worth the rewards that they end with, got {got}: leave "
                    f"out --{name}."
                )


@dataclass(frozen=True, kw_only=True)
class ArcherConfig(AlgorithmConfig):
    """ArCHer: what whole answers are worth is learnt from all that was ever paid."""

    fresh: Annotated[int, AtLeast(1)] = 1
    """Answers of an iteration that policies learn from and nobody is paid for, in batches; >= 1."""
    critic_steps: Annotated[int, AtLeast(1)] = 50
    """Optimiser steps of the critic in an iteration; >= 1."""
    critic_batch_size: Annotated[int, AtLeast(1)] = 128
    """Episodes of such a step; >= 1."""
    critic_learning_rate: Annotated[float, Above(0)] = 1e-3
    """Adam step size of the critic; > 0."""
    polyak: Annotated[float, Between(0, 1)] = 0.1
    """How far the lagged critic follows in a step, in [0, 1]."""
    min_correlation: Annotated[float, Between(-1, 1)] = 0.3
    """Correlation with what new answers have earned that the critic's Q − V must have had, or the
    policies learn nothing in an iteration; -1 for none."""
    buffer_size: Annotated[int, AtLeast(1)] = 2_048
    """Episodes that are kept, the latest; at least batch_size."""

    def check(self, run: RunConfig) -> None:
        """Check that what is learnt of whole answers is what they are paid."""
        super().check(run)
        if run.rounds > 1:
            raise ValueError(
                f"Expected one round with algorithm {run.algorithm}, whose critic knows seats and "
                f"not a policy's later turns, got {run.rounds}: pass another --algorithm, such as "
                "mappo."
            )
        for name, value in _OF_WHOLE_ANSWERS.items():
            if (got := getattr(self, name)) != value:
                raise ValueError(
                    f"Expected {name} {value} with algorithm {run.algorithm}, whose critic knows "
                    f"whole answers and what they earned from their turn on, got {got}: leave out "
                    f"--{name.replace('_', '-')}."
                )
        if run.reward_sharing not in ("collective", "mean"):
            raise ValueError(
                f"Expected reward_sharing collective or mean with algorithm {run.algorithm} (the "
                "next agent's value must be worth as much to the one before), got "
                f"{run.reward_sharing}: leave out --reward-sharing."
            )
        if len(set(run.models)) > 1:
            raise ValueError(
                f"Expected one base model with algorithm {run.algorithm}, whose critic reads its "
                f"hidden states, got {run.model}: pass one --model."
            )
        if self.buffer_size < run.batch_size:
            raise ValueError(
                f"Expected buffer_size to be at least batch_size, {run.batch_size}, got "
                f"{self.buffer_size}: pass --buffer-size {run.batch_size} or more."
            )


_OF_WHOLE_ANSWERS = {
    **{"gamma": 1.0, "credit": "causal", "practice": "own"},
    **{"reward_scaling": "none", "distill_coef": 0.0},
}


@dataclass(frozen=True, kw_only=True)
class GSPOConfig(GRPOConfig):
    """GSPO: GRPO with one ratio per response."""

    ratio: Ratio = "sequence"
    clip: Annotated[float, AtLeast(0)] = 3e-4
    clip_high: Annotated[float | None, AtLeast(0)] = 4e-4


@dataclass(frozen=True, kw_only=True)
class AWRConfig(MAPPOConfig):
    """AWR: responses are imitated in proportion to their advantage."""

    beta: Annotated[float, Above(0)] = 1.0
    """Temperature of the weights exp(A/β); > 0."""
    weight_cap: Annotated[float, Above(0)] = 20.0
    """Largest weight of a token; > 0."""
    hard: Annotated[float | None, AtLeast(0)] = None
    """Imitate what has an advantage above this, and nothing else; None for weights exp(A/β)."""


@dataclass(frozen=True, kw_only=True)
class ImitationConfig(LearningConfig):
    """What is imitated of one's own responses, and when."""

    group_size: Annotated[int, AtLeast(1)] = 8
    accept: str = "1.0"
    """Which responses are good: those that earn at least this much, or, as in `top:0.25`, the best
    quarter of an iteration."""
    finished: bool = True
    """Take responses only that have ended by themselves; `--no-finished` for tasks whose answers
    fill max_new_tokens."""
    per_query: Annotated[int, AtLeast(1)] = 4
    """Different responses that are taken of one query and seat in an iteration; >= 1."""
    learn_every: Annotated[int, AtLeast(1)] = 8
    """Iterations of a round, at whose end the policies learn all that is in the buffer; >= 1."""
    restart: Literal["previous", "beginning"] = "previous"
    """Where a policy starts from when it learns: from where it is, or from the weights that the run
    began with."""
    distill: Literal["own", "solo", "both"] = "own"
    """Behind what an observer's responses are imitated: what it read, the query alone, or both."""
    buffer_size: Annotated[int, AtLeast(1)] = 10_000
    """Responses of a policy that are kept, the latest; >= 1."""

    def check(self, run: RunConfig) -> None:
        """Check what is accepted."""
        super().check(run)
        _ = self.share, self.bound

    @property
    def share(self) -> float | None:
        """The best share of an iteration that is good, if `accept` names one.

        Raises:
            ValueError: if it is no share.
        """
        if not self.accept.startswith("top:"):
            return None
        share = _number(self.accept.removeprefix("top:"))
        if share is None or not 0 < share < 1:
            raise ValueError(
                f"Expected accept to be top:SHARE with a share between 0 and 1, got "
                f"{self.accept!r}: try --accept top:0.25."
            )
        return share

    @property
    def bound(self) -> float:
        """The least task reward of a good response, if `accept` names one.

        Raises:
            ValueError: if it names neither a reward nor a share.
        """
        if self.share is not None:
            return -math.inf
        bound = _number(self.accept)
        if bound is None:
            raise ValueError(
                f"Expected accept to be a task reward or top:SHARE, got {self.accept!r}: try "
                "--accept 1.0, or --accept top:0.25."
            )
        return bound


@dataclass(frozen=True, kw_only=True)
class ExpertIterationConfig(ImitationConfig):
    """Expert iteration: good responses are imitated."""


@dataclass(frozen=True, kw_only=True)
class RCRLConfig(ImitationConfig):
    """Return-conditioned RL: all responses are imitated, behind a label of how good they are."""

    good_label: str = "Right. "
    """What stands before the prompt of a good response, and before every prompt that is asked."""
    bad_label: str = "Wrong. "
    """What stands before the prompt of another response when it is imitated."""

    def check(self, run: RunConfig) -> None:
        """Check that the labels differ."""
        super().check(run)
        if self.good_label == self.bad_label:
            raise ValueError(
                f"Expected good_label and bad_label to differ, got {self.good_label!r} twice: pass "
                "another --bad-label."
            )

    @property
    def prompt_label(self) -> str:
        """The good one: it is good responses that are asked for."""
        return self.good_label

    @property
    def contrast_label(self) -> str:
        """The bad one: a policy that heeds the label answers worse behind it."""
        return self.bad_label


@dataclass(frozen=True, kw_only=True)
class SFTConfig(LearningConfig):
    """Supervised fine-tuning: gold answers are imitated."""


@dataclass(frozen=True, kw_only=True)
class StepDPOConfig(LearningConfig):
    """Step DPO: the gold step is preferred to the policy's own where that goes wrong."""

    accept: Annotated[float, AtLeast(0)] = 1.0
    """Task reward from which on a response is right, and no step of it is rejected."""
    step_end: str = ";"
    """What a step ends with, such as the `;` of arithmetic; the last one ends the response."""
    beta: Annotated[float, Above(0)] = 0.1
    """How much a nat of the implicit reward counts; > 0."""
    nll_coef: Annotated[float, AtLeast(0)] = 0.1
    """Weight of the negative log-likelihood of gold steps, per token; >= 0."""


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
