"""What every algorithm lets one configure, and every one with a critic: real defaults, with ranges.

What a run reads of its algorithm is here, such as the size of groups. What an algorithm adds, or
begins with instead, stands beside it (`agents/algorithms/configs.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from agents.config.fields import named
from agents.config.options import Above, AtLeast, Between, Options, expect_divisor
from agents.registries import CRITIC_BODIES

if TYPE_CHECKING:
    from agents.config.run import RunConfig

KL = Literal["exact", "k1", "k2", "k3", "detached"]
Normalization = Literal["constant", "token", "sequence"]
Ratio = Literal["token", "sequence"]
Whitening = Literal["role", "joint", "none"]


@dataclass(frozen=True, kw_only=True)
class LearningConfig(Options):
    """What all algorithms share, those that follow no gradient of rewards included."""

    kl_coef: Annotated[float, AtLeast(0)] = 0.28
    """η, price of one nat; >= 0."""
    kl_target: Annotated[float | None, Above(0)] = None
    """Nats per response that η is steered towards, > 0; None keeps η fixed."""
    group_size: Annotated[int, AtLeast(1)] = 1
    """Episodes per query, which critic-free algorithms compare; divides batch_size."""

    @property
    def continues(self) -> bool:
        """Whether the engine has to go on with responses behind their first tokens."""
        return False

    @property
    def prompt_label(self) -> str:
        """What a policy reads before each of its prompts, in training and afterwards."""
        return ""

    @property
    def contrast_label(self) -> str:
        """The label of an evaluation that shows whether labels are heeded; empty for none."""
        return ""

    def check(self, run: RunConfig) -> None:
        """Check that a batch is whole groups."""
        expect_divisor("group_size", self.group_size, run.batch_size)


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig(LearningConfig):
    """What all algorithms share that follow the gradient of the objective."""

    kl: KL = "exact"
    """`exact`: full-vocabulary KL with its direct gradient. `k1`: the sampled log-ratio in the
    reward. `k2`, `k3`: sampled, in the loss: they restrain a token, but do not charge it for the KL
    of later ones. `detached`: the exact KL as a reward only, as the paper has it; it does not
    restrain the token itself."""
    kl_prompt: Literal["own", "solo"] = "own"
    """What the reference reads that an observer is held to: all that the observer reads, or the
    query alone, as the observer itself does when it is used without a partner."""
    ratio: Ratio = "token"
    """Whether each token has a ratio of its own or all of a response share their geometric mean."""
    normalization: Normalization = "constant"
    """What sums over tokens are divided by: the longest possible batch (unbiased), the tokens there
    are, or each response's tokens."""
    clip: Annotated[float, AtLeast(0)] = 0.2
    """PPO clip range ε; >= 0."""
    clip_high: Annotated[float | None, AtLeast(0)] = None
    """ε of the upper bound, if larger: leaves rare tokens more room to rise; None for that of
    clip."""
    max_step_kl: Annotated[float | None, AtLeast(0)] = None
    """KL of a step, in nats per token, after which no further epoch is begun; None for no limit."""
    entropy_coef: Annotated[float, AtLeast(0)] = 0.0
    """Weight of the entropy bonus, in rewards per nat and token; >= 0."""
    importance_cap: Annotated[float | None, Above(0)] = None
    """Largest weight of a token that another engine, or a policy as it was before, has sampled
    (truncated importance sampling); None for the engine's own: none for one that samples from what
    is learnt."""
    practice: Literal["own", "all"] = "own"
    """Whose answers a policy learns from. `all`: after its own turns, also from what others have
    answered to the query alone, paid the answer's own reward; tokens are weighed by min(π/μ, cap),
    with the importance_cap, or 2."""
    distill_coef: Annotated[float, AtLeast(0)] = 0.0
    """λ, price of a nat by which a pioneer's policy is away from the observer that was told the
    verdict, on answers that are better than the first; >= 0. It needs a verdict and an observer."""
    gamma: Annotated[float, Between(0, 1)] = 1.0
    """Discount in [0, 1]."""
    credit: Literal["causal", "shared"] = "causal"
    """`causal`: an agent's return leaves out the rewards of earlier turns, which its actions cannot
    change. `shared`: its return is the whole shared reward."""
    reward_scaling: Literal["none", "std", "normalize"] = "none"
    """Divide what an agent is paid by its policy's running deviation, or shift it to mean 0, too;
    η then weighs nats against deviations."""
    whitening: Whitening = "role"
    """Shift and scale advantages to mean 0 and variance 1, per role or over all roles together; the
    direct KL term is scaled alike."""

    def check(self, run: RunConfig) -> None:
        """Check that all can read what they practise on."""
        super().check(run)
        if self.practice == "all" and len(set(run.models)) > 1:
            raise ValueError(
                "Expected one base model with practice all (a policy weighs the tokens of the "
                f"others), got {run.model}: pass --practice own."
            )
        if self.distill_coef and (
            run.verdict == "none"
            or run.observers != 1
            or run.rounds != 1
            or not run.knowledge_transfer
            or len(set(run.models)) > 1
        ):
            raise ValueError(
                "Expected distill_coef with a verdict that one observer of the same base model is "
                f"told in a single round, got {self.distill_coef:g} with verdict {run.verdict}, "
                f"{run.observers} observers, {run.rounds} rounds and model {run.model}: pass "
                "--verdict wrong, or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class CriticConfig(AlgorithmConfig):
    """What all algorithms with a critic share."""

    critic_learning_rate: Annotated[float, Above(0)] = 1e-3
    """Adam step size of the critics; > 0."""
    critic_body: Annotated[str, named(CRITIC_BODIES)] = "reference"
    """Whose hidden states the critic reads."""
    handover: Literal["sampled", "value"] = "sampled"
    """How an agent's return counts the rewards of later agents. `sampled`: as they were sampled.
    `value`: as the critic's value of the next agent's first state."""
    gae_lambda: Annotated[float, Between(0, 1)] = 0.95
    """λ of GAE in [0, 1]."""
    value_clip: Annotated[float | None, AtLeast(0)] = None
    """Clip range of values; None for none (it depends on the scale of the reward; the paper has
    0.2)."""
    value_coef: Annotated[float, AtLeast(0)] = 1.0
    """Weight of the value loss; it matters where the critic shares the policy's body."""
    value_normalization: bool = False
    """Let critics predict returns divided by their running deviation: for rewards of any scale."""

    def check(self, run: RunConfig) -> None:
        """Check that there is such a body, and that a value can be handed over."""
        super().check(run)
        CRITIC_BODIES.check(self.critic_body, "your own comes with --import FILE.")
        if self.handover == "value" and run.reward_sharing not in ("collective", "mean"):
            raise ValueError(
                "Expected reward_sharing collective or mean with handover value (the next agent's "
                f"value must be worth as much to the one before), got {run.reward_sharing}: "
                "pass --handover sampled."
            )
