"""What decides a run besides its algorithm and its engine: plain data with ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config.budget import Budget
from agents.config.groups import Everyday, Game, Learning, Model, Queries, Running
from agents.config.options import expect_divisor
from agents.config.texts import arguments, pairs
from cory_env.game import SHARINGS
from cory_env.names import unknown_name

_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Running, Learning, Game, Model, Queries, Everyday):
    """The run's own fields: those of all groups, the first of which is the last base.

    Lists, tuples and mappings are taken where a field holds several names, and become texts.
    """

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
        self._check_samples()
        self._check_adapters()
        self._check_partners()
        self._check_merging()

    def _check_task(self) -> None:
        for name in ("train_split", "test_split"):
            if not getattr(self, name):
                raise ValueError(f"Expected {name} to be a split of the task, got ''.")
        if "split" in self.task_arguments:
            raise ValueError(
                "Expected task_options without a split, got "
                f"{self.task_options!r}: use --train-split and --test-split."
            )

    def _check_samples(self) -> None:
        places = self.sample_places
        if not places or len({*places}) < len(places):
            raise ValueError(
                "Expected sample_queries to be first:N with N at least 1, or different places from "
                f"0 on with commas between them, got {self.sample_queries!r}: try first:4 or 0,7."
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

    def _check_merging(self) -> None:
        if self.swap != "merge":
            return
        for ok, rule, way in (
            (len(self.policy_names) > 1, "several policies", "leave out --swap"),
            (not self.frozen, "no frozen policy", "leave out --freeze"),
            ("," not in self.model, "one model for all policies", "name one with --model"),
            (not self.lora_prune, "lora_prune 0", "leave out --lora-prune"),
        ):
            if not ok:
                raise ValueError(f"Expected {rule} with swap merge, got another: {way}.")

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
        self._check_pruning()
        _check_compile(self)
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
            ("lora_ramp", ""),
        ):
            if (value := getattr(self, name)) != off:
                raise ValueError(
                    f"Expected adapter lora or dora with {name}, got full and {value}: pass "
                    f"--adapter lora, or leave out --{name.replace('_', '-')}."
                )

    def _check_pruning(self) -> None:
        if self.ramp and self.lora_rank_pattern:
            raise ValueError(
                f"Expected lora_ramp or lora_rank_pattern, got {self.lora_ramp} and "
                f"{self.lora_rank_pattern}: leave one out."
            )
        if self.lora_prune >= 1:
            raise ValueError(
                f"Expected lora_prune to leave something, below 1, got {self.lora_prune:g}: try "
                "--lora-prune 0.5."
            )
        if self.lora_prune and self.adapter != "lora":
            raise ValueError(
                f"Expected adapter lora with lora_prune, got {self.adapter}: pass --adapter lora, "
                "or leave out --lora-prune."
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
    def is_evaluated(self) -> bool:
        """Whether the run ends with an evaluation."""
        return self.evaluation_queries > 0

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
    def sample_places(self) -> Sequence[int]:
        """The places that `sample_queries` names; none where it is not as it should be."""
        if found := re.fullmatch(r"first:(\d+)", self.sample_queries):
            return range(int(found[1]))
        is_list = re.fullmatch(r"\d+( *, *\d+)*", self.sample_queries)
        return [int(place) for place in self.sample_queries.split(",")] if is_list else []

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
        found = pairs(self.lora_rank_pattern, r"([\w.]+)\s*=\s*(\d+)")
        if found is None:
            raise ValueError(
                "Expected lora_rank_pattern to be NAME=RANK with commas between them, got "
                f"{self.lora_rank_pattern!r}: try --lora-rank-pattern layers.0=4,mlp=8."
            )
        return {name: int(rank) for name, rank in found}

    @property
    def ramp(self) -> tuple[int, int] | None:
        """`lora_ramp` as two ranks; None without one.

        Raises:
            ValueError: if it is none.
        """
        if not self.lora_ramp:
            return None
        found = re.fullmatch(r"\s*([1-9]\d*)\s*:\s*([1-9]\d*)\s*", self.lora_ramp)
        if not found:
            raise ValueError(
                "Expected lora_ramp to be two ranks of at least 1 with a colon between them, got "
                f"{self.lora_ramp!r}: try --lora-ramp 4:12."
            )
        return int(found[1]), int(found[2])

    @property
    def largest_rank(self) -> int:
        """The largest rank of any part of an adapter."""
        return max(self.lora_rank, *self.rank_pattern.values(), *(self.ramp or ()), 1)

    @property
    def task_arguments(self) -> dict[str, bool | int | float | str]:
        """`task_options` as keyword arguments: numbers, true and false, or else texts.

        Raises:
            ValueError: if they are none.
        """
        return arguments(self.task_options, "task_options", "difficulty=1")

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


def _check_compile(config: RunConfig) -> None:
    for name, ok, way in (
        ("adapter", config.adapter in ("lora", "full"), "--adapter lora"),
        ("quantization", config.quantization == "none", "--quantization none"),
    ):
        if config.compile and not ok:
            raise ValueError(
                f"Expected {' '.join(way.removeprefix('--').split())} with compile, got "
                f"{getattr(config, name)}: pass {way}, or leave out --compile."
            )
