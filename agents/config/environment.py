"""The configuration of a run in somebody else's environment: plain data, checked before loading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.config.archives import FORMAT
from agents.config.budget import Budget
from agents.config.fields import plain_value
from agents.config.named_models import NAMED_MODELS
from agents.config.options import MAY_CHANGE, Above, AtLeast, Between, Options, changeable
from agents.config.sources import check_source
from agents.config.texts import arguments
from cory_env.names import unknown_name

KINDS = ("gym", "pettingzoo", "textarena", "openenv")
"""What stands before the colon of an environment."""


@dataclass(frozen=True, kw_only=True)
class EnvConfig(Options):
    """Everything that decides a run in an environment of others.

    Raises:
        ValueError: if a value has another type than its field, is out of range, or two do not go
            together.
    """

    env: str = ""
    """`gym:ID`, such as gym:FrozenLake-v1; or `pettingzoo:MODULE`, a module or FILE.py with `env`
    or `parallel_env`, or `pettingzoo:ID` of its registry, such as classic/tictactoe-v3; or
    `textarena:ID`, such as textarena:TicTacToe-v0; or `openenv:URL`, which a server plays, such as
    openenv:http://127.0.0.1:8000."""
    env_options: str = ""
    """What the environment itself takes, such as `is_slippery=false`; several with commas."""
    describe: str = ""
    """FILE.py or FILE.py:FUNCTION: `describe(observation) -> str`, what the policies read. Empty
    where observations are texts. If the file has `legal_actions(observation) -> list[str]`, it says
    which of `actions` may be taken where the environment has no mask."""
    actions: str = ""
    """One text for each discrete action, with commas between them, such as left,down,right,up;
    empty for their numbers. Where actions are texts: those that are scored; empty for any text,
    which the model writes."""
    out: Annotated[str, MAY_CHANGE] = ""
    """Run folder; empty for runs/ENV."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seeds episodes, adapters, critics and actions; >= 0."""
    iterations: Annotated[int, AtLeast(1), MAY_CHANGE] = 50
    """Batches of episodes to learn from; >= 1."""
    budget: Annotated[str, MAY_CHANGE] = ""
    """What the run may cost instead, such as `responses=25000`: of `responses` (actions),
    `tokens`, `update_tokens` or `seconds`. It ends with the iteration that spends it."""
    episodes: Annotated[int, AtLeast(1)] = 32
    """Whole episodes per iteration, which are played side by side; >= 1."""
    max_steps: Annotated[int | None, AtLeast(1)] = None
    """Actions of all agents together after which an episode is cut; None for the environment's own
    end."""

    model: str = "embedded"
    """`embedded`, `smollm2`, a folder, a name on the hub, or a quantised file: see `train TASK
    --help`."""
    chat_template: bool = True
    """Give descriptions to chat models as a user's message in their chat template."""
    adapter: Literal["lora", "dora", "full"] = "lora"
    """Train LoRA or DoRA adapters on one shared base, or one full copy of the model per policy."""
    lora_rank: Annotated[int, AtLeast(1)] = 16
    """Rank of the adapters; >= 1."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """`auto`, `cpu`, `cuda`, …"""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the network; in bfloat16 scores depend on what else is in a batch."""
    shared_policy: bool = False
    """One policy plays every agent, instead of one policy each."""
    swap: Literal["every", "plateau", "random", "never"] = "every"
    """When policies exchange agents: see `train TASK --help`."""
    swap_every: Annotated[int, AtLeast(1)] = 5
    """Iterations between two exchanges; with `plateau`, its patience; >= 1."""

    partners: str = "current"
    """As whom the others play. `current`: as they are. `pool:K`: policies take turns, one an
    iteration plays as it is and learns, the others play as one of their last K snapshots, made
    every `swap_every` iterations."""

    normalise: Literal["sum", "token", "word"] = "word"
    """What the log-prob of an action's text is divided by: nothing, its tokens, or its words."""
    temperature: Annotated[float, Above(0)] = 1.0
    """Divides the logits of the model; > 0."""
    max_new_tokens: Annotated[int, AtLeast(1)] = 16
    """Longest action, in tokens, where actions are texts; >= 1."""
    minibatch_size: Annotated[int, AtLeast(1)] = 128
    """Actions of a policy per optimiser step; >= 1."""
    epochs: Annotated[int, AtLeast(1)] = 4
    """Passes over each batch; >= 1."""
    learning_rate: Annotated[float, Above(0)] = 3e-4
    """Adam step size of the policies; > 0."""
    critic_learning_rate: Annotated[float, Above(0)] = 1e-3
    """Adam step size of the critics; > 0."""
    max_grad_norm: Annotated[float, Above(0)] = 1.0
    """Gradients of a policy are scaled down to this norm; > 0."""
    gamma: Annotated[float, Between(0, 1)] = 0.99
    """Discount in [0, 1]."""
    gae_lambda: Annotated[float, Between(0, 1)] = 0.95
    """λ of GAE in [0, 1]."""
    clip: Annotated[float, AtLeast(0)] = 0.2
    """PPO clip range ε; >= 0."""
    max_step_kl: Annotated[float | None, Above(0)] = 0.02
    """KL between the policy that acted and what it has become, in nats per action of a minibatch,
    from which on nothing more is learnt of a batch; None for no limit."""
    entropy_coef: Annotated[float, AtLeast(0)] = 0.01
    """Weight of the entropy bonus, in units of whitened advantages per nat and action; >= 0."""
    kl_coef: Annotated[float, AtLeast(0)] = 0.0
    """η, price of a nat between policy and reference over the actions; >= 0."""

    save_every: Annotated[int, AtLeast(1), MAY_CHANGE] = 10
    """Iterations between two checkpoints; >= 1."""
    keep: Annotated[int, AtLeast(1), MAY_CHANGE] = 2
    """Checkpoints to keep; >= 1."""
    sample_every: Annotated[int, AtLeast(1), MAY_CHANGE] = 10
    """Iterations between two episodes that are written down; >= 1."""
    evaluation_episodes: Annotated[int, AtLeast(0), MAY_CHANGE] = 100
    """Episodes of each row of the evaluation at the end; 0 for none."""
    imports: Annotated[tuple[str, ...], tyro.conf.Suppress, MAY_CHANGE] = ()
    """What the run has imported: files with their digests, or modules."""

    def __post_init__(self) -> None:
        """Check every value, and what does not go together."""
        super().__post_init__()
        kind, _, name = self.env.partition(":")
        if kind not in KINDS or not name:
            raise ValueError(
                "Expected an environment gym:ID, pettingzoo:MODULE, textarena:ID or openenv:URL, "
                f"got {self.env!r}: try --env gym:FrozenLake-v1."
            )
        if self.budget:
            Budget.of(self.budget)
        self._check_partners()
        if "," in self.model:
            raise ValueError(
                f"Expected one model for all policies of an environment, got {self.model!r}."
            )
        texts = self.action_texts
        if not all(texts):
            raise ValueError(f"Expected a text for every action, got {self.actions!r}.")
        if twice := [text for text in dict.fromkeys(texts) if texts.count(text) > 1]:
            raise ValueError(
                f"Expected actions with a text of their own each, got {twice[0]!r} for "
                f"{texts.count(twice[0])} of them in {self.actions!r}."
            )
        _ = self.env_arguments
        check_source("model", self.model, NAMED_MODELS)

    def _check_partners(self) -> None:
        if self.partners == "current":
            return
        if not self.pool_size:
            raise ValueError(
                "Expected partners to be current or pool:K with K at least 1, got "
                f"{self.partners!r}: try --partners pool:5."
            )
        if self.shared_policy:
            raise ValueError("Expected partners current with a shared policy, which has none.")
        if self.swap == "every" and self.swap_every == 1:
            raise ValueError(
                "Expected swap_every of at least 2 with a pool, got 1: whoever learns would always "
                "be the same agent."
            )

    @property
    def pool_size(self) -> int:
        """K of `partners=pool:K`; 0 without a pool."""
        found = re.fullmatch(r"pool:(\d+)", self.partners)
        return int(found[1]) if found else 0

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.env.partition(":")[0]

    @property
    def env_name(self) -> str:
        """What the environment is called there."""
        return self.env.partition(":")[2]

    @property
    def action_texts(self) -> list[str]:
        """`actions` as a list."""
        return [part.strip() for part in self.actions.split(",")] if self.actions else []

    @property
    def env_arguments(self) -> dict[str, bool | int | float | str]:
        """`env_options` as keyword arguments: numbers, true and false, or else texts.

        Raises:
            ValueError: if they are none.
        """
        return arguments(self.env_options, "env_options", "is_slippery=false")

    @property
    def describe_parts(self) -> tuple[str, str]:
        """The file of `describe`, and the name of the function in it."""
        file, colon, function = self.describe.rpartition(":")
        if colon and function.isidentifier() and file.endswith(".py"):
            return file, function
        return self.describe, "describe"

    @property
    def sources(self) -> list[str]:
        """Files and modules of the user's, or of others, that the run imports."""
        named = [self.describe_parts[0]] if self.describe else []
        if self.kind == "gym" and ":" in self.env_name:
            named.append(self.env_name.partition(":")[0])
        if self.kind == "pettingzoo" and not self.is_registered:
            named.append(self.env_name)
        return named

    @property
    def is_registered(self) -> bool:
        """Whether an environment of PettingZoo is named by an id of its registry."""
        return "/" in self.env_name and not self.env_name.endswith(".py")

    @property
    def is_evaluated(self) -> bool:
        """Whether the run ends with an evaluation."""
        return self.evaluation_episodes > 0

    @property
    def run_folder(self) -> Path:
        """Where the run is written."""
        return Path(self.out or f"runs/{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.env)}")

    def planned(self, done: int, totals: Mapping[str, object]) -> int:
        """Return how many iterations the run will have, as far as is known after `done`."""
        if not self.budget or not done:
            return self.iterations
        return Budget.of(self.budget).planned(done, totals)

    def changeable(self) -> set[str]:
        """Return the names of the fields that a resumption may change."""
        return changeable(type(self))

    def replace(self, **values: Any) -> EnvConfig:
        """Return a configuration with other values."""
        return replace(self, **values)

    def to_json(self) -> dict[str, Any]:
        """Return a flat dictionary of plain values."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "imports": list(self.imports), "format": FORMAT}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EnvConfig:
        """Build a configuration from `to_json`.

        Raises:
            ValueError: if there is no such field, or a value is out of range.
        """
        names = [field.name for field in fields(cls)]
        given = {name: value for name, value in values.items() if name != "format"}
        for name in given:
            if name not in names:
                raise ValueError(unknown_name("a field of the configuration", names, name))
        imports = plain_value("imports", tuple[str, ...], given.get("imports", ()))
        return cls(**{**given, "imports": imports})
