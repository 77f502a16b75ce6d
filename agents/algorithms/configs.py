"""What each algorithm begins with; loads no torch, so that flags are checked in a moment.

An algorithm `X` of this package finds its own here under the name `XConfig`; one of your own has a
class `Config` in itself, derived from one of these or of `agents.config.algorithm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from agents.config.algorithm import (
    KL,
    AlgorithmConfig,
    CriticConfig,
    Normalization,
    Ratio,
    Whitening,
)
from agents.config.options import AtLeast

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
class GSPOConfig(GRPOConfig):
    """GSPO: GRPO with one ratio per response."""

    ratio: Ratio = "sequence"
    clip: Annotated[float, AtLeast(0)] = 3e-4
    clip_high: Annotated[float | None, AtLeast(0)] = 4e-4
