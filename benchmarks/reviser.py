"""The reviser's gate: told that an answer is wrong, does an observer answer better than alone?

    python -m benchmarks.reviser --out runs/reviser  # all forms, two seeds; resumes
    python -m benchmarks.reviser --out runs/reviser --forms wrong --seeds 0
    python -m benchmarks.reviser --out runs/reviser-smollm2 --model smollm2 --forms wrong --seeds 0

A pair is trained in each of the `FORMS`, with the verdict in the observer's prompt. Then, on
held-out queries, one policy answers alone (a1), the other behind it with the verdict, and the other
alone. The gain is the reward behind a *wrong* a1 less that of the same policy alone on the same
queries; a form passes with 0.10 or more. `other number` is what a verdict can be worth without
training: the same policy alone, asked again until its number is not a1's (at most `TRIES` times).
Both directions of a pair count as one sample of queries; intervals are 95 % bootstrap over them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from rich.console import Console

from agents.config.presets import starting_values
from agents.config.train import TrainConfig
from agents.maths.statistics import bootstrap_interval
from agents.parts import Parts, build_games
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.policies.weights import load_policies
from agents.records.checkpoint import load_checkpoint, save_checkpoint
from agents.records.folder import RunFolder
from agents.records.objects import write_json
from agents.rollouts.collect import collect
from agents.terminal.tables import Column, stacked
from agents.training.loop import train
from agents.training.trainer import Trainer
from cory_env.game import Verdicts
from cory_env.registry import TASKS
from cory_env.rewards.answer import final_number
from cory_env.tasks.arithmetic import ArithmeticTask
from cory_env.types import Example, Float64Array

TRIES = 4
"""Answers of a policy alone among which one with another number than a1's is looked for."""
BATCH = 256
"""Episodes in memory at a time."""
WARM_STEPS, WARM_ROWS, WARM_RATE = 16, 64, 1e-3
"""Of the warm start: Adam steps, wrong answers in each, learning rate."""


class LineArithmetic(ArithmeticTask):
    """`arithmetic` in which the verdict is a line of its own before the question."""

    name = "arithmetic-line"

    def judged_prompt(self, query: str, responses: Sequence[str], verdicts: Sequence[str]) -> str:
        """Return the verdicts, and the prompt that an observer has without them."""
        return "\n".join([*verdicts, self.observer_prompt(query, responses)])


@dataclass(frozen=True, kw_only=True)
class Form:
    """How an observer is told of a1, and how it practises."""

    verdict: Verdicts
    """In training and at the gate."""
    task: str = "arithmetic"
    warm: bool = False
    """Begin with gold answers behind wrong ones of the reference."""
    options: Mapping[str, Any] | None = None
    """Other fields of the run."""


FORMS = {
    "none": Form(verdict="none"),
    "behind": Form(verdict="all"),
    "line": Form(verdict="all", task="arithmetic-line"),
    "wrong": Form(verdict="wrong"),
    "wrong, line": Form(verdict="wrong", task="arithmetic-line"),
    "wrong, warm": Form(verdict="wrong", warm=True),
    "wrong, own reward": Form(
        verdict="wrong", options={"reward_sharing": "0", "handover": "sampled"}
    ),
}
"""`behind`: a verdict behind each reference. `wrong`: wrong references only, others read the query
alone. `own reward`: a pioneer is not paid for what its observer makes of a wrong answer."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to train and to measure."""

    out: Path = Path("runs/reviser")
    """Folder of the runs and of `gate.json`."""
    forms: tuple[str, ...] = tuple(FORMS)
    """Of `FORMS`."""
    seeds: tuple[int, ...] = (0, 1)
    model: str = "embedded"
    """Or `smollm2`, with its preset."""
    iterations: int = 48
    """0 measures what a warm start alone has taught."""
    batch_size: int = 64
    queries: int = 512
    """Held-out ones."""


def main() -> None:
    """Train what is not trained, measure what is not measured, and show the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    TASKS[LineArithmetic.name] = LineArithmetic
    console = Console(width=110)
    path = arguments.out / "gate.json"
    for seed in arguments.seeds:
        for name in arguments.forms:
            key = f"{name}, seed {seed}"
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if key not in found:
                config = configure(arguments, name, seed)
                train_form(config, FORMS[name], console, trains=arguments.iterations > 0)
                arguments.out.mkdir(parents=True, exist_ok=True)
                write_json(path, {**found, key: measure(config, FORMS[name], arguments.queries)})
    found = json.loads(path.read_text(encoding="utf-8"))
    for table in stacked(columns(found), console.width):
        console.print(table)


def configure(arguments: Arguments, name: str, seed: int) -> TrainConfig:
    """Return the run of a form."""
    form = FORMS[name]
    model = "" if arguments.model == "embedded" else arguments.model
    values, _ = starting_values("arithmetic", model=model)
    folder = arguments.out / f"{name.replace(', ', '_').replace(' ', '_')}_seed{seed}"
    return TrainConfig(
        **{**values, "handover": "value", "iterations": max(1, arguments.iterations)}
        | {"batch_size": arguments.batch_size}
        | {"task": form.task, "verdict": form.verdict, "seed": seed, "out": str(folder)}
        | {"evaluation_queries": 0, **(form.options or {})}
    )


def train_form(config: TrainConfig, form: Form, console: Console, *, trains: bool) -> None:
    """Train a run to its end, from where it stands."""
    folder = RunFolder(config.run_folder)
    if form.warm and not folder.has_progress():
        trainer = Trainer(config)
        warm_start(trainer)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_config(config)
        save_checkpoint(folder, 0, *trainer.state(), keep=1)
    if trains:
        train(
            config,
            resume=folder.has_progress(),
            overwrite=not folder.has_progress(),
            console=console,
        )


def warm_start(trainer: Trainer) -> None:
    """Teach each policy gold answers behind wrong answers of its own, told that they are wrong."""
    rules, rng = trainer.games.rules, np.random.default_rng([trainer.config.seed, 2])
    for name, policy in trainer.policies.items():
        optimizer = torch.optim.Adam(policy.parameters().values(), WARM_RATE)
        generator = torch.Generator().manual_seed(trainer.config.seed)
        for _ in range(WARM_STEPS):
            prompts, gold = _revisions(policy, rules, rng, generator)
            ids, mask = policy.encode(prompts, rules.max_new_tokens)
            tokens = [[*rules.response(text, name).ids] for text in gold]
            batch = policy.padded(ids, mask, tokens, [[0.0] * len(row) for row in tokens]).tokens
            hidden = torch.zeros(*batch.response_ids.shape, policy.backbone.config.hidden_size)
            loss = -policy.score(batch, hidden.to(ids.device)).log_probs.sum() / len(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def _revisions(
    policy: LLMPolicy, rules: Any, rng: np.random.Generator, generator: torch.Generator
) -> tuple[list[str], list[str]]:
    """Return prompts with a wrong answer of the policy and its verdict, and the gold answers."""
    prompts: list[str] = []
    gold: list[str] = []
    while len(prompts) < WARM_ROWS:
        examples = [rules.task.sample(rng) for _ in range(2 * WARM_ROWS)]
        asked = [rules.task.pioneer_prompt(example.query) for example in examples]
        texts = policy.generate(
            asked, max_new_tokens=rules.max_new_tokens, generator=generator
        ).texts
        rewards = rules.reward(examples, texts)
        for example, text, reward in zip(examples, texts, rewards, strict=True):
            if reward == 0 and example.reference:
                verdict = rules.task.verdict(0.0)
                prompts.append(rules.task.judged_prompt(example.query, [text], [verdict]))
                gold.append(f" {example.reference}")
    return prompts[:WARM_ROWS], gold[:WARM_ROWS]


class Played(NamedTuple):
    """One answer of a policy to each query."""

    rewards: Float64Array
    """(N,)"""
    numbers: list[Any]
    """(N,) the final numbers; None where there is none."""


@torch.no_grad()
def play(
    parts: Parts,
    team: Sequence[LLMPolicy],
    examples: Sequence[Example],
    seed: int,
    verdict: Verdicts = "none",
) -> list[Played]:
    """Let a team answer each query once; return the answers by seat."""
    games = parts.games.rules
    generator = torch.Generator().manual_seed(seed)
    rewards: list[list[float]] = [[] for _ in team]
    numbers: list[list[Any]] = [[] for _ in team]
    for start in range(0, len(examples), BATCH):
        asked = examples[start : start + BATCH]
        env = build_games(
            parts.config, parts.test_task, parts.reward, team[0].backbone,
            num_envs=len(asked), observers=len(team) - 1, rounds=1, verdict=verdict,
        )  # fmt: skip
        uniforms = {
            role: draw_uniforms(len(asked), games.max_new_tokens, generator) for role in env.agents
        }
        turns = collect(
            env, dict(zip(env.agents, team, strict=True)), uniforms, examples=asked
        ).turns
        for seat, turn in enumerate(turns):
            rewards[seat] += turn.task_rewards.tolist()
            numbers[seat] += [final_number(text) for text in turn.responses]
    return [Played(np.array(r), n) for r, n in zip(rewards, numbers, strict=True)]


def measure(config: TrainConfig, form: Form, queries: int) -> dict[str, Any]:
    """Return the figures of a trained pair, as `gate.json` holds them."""
    parts = Parts.build(config, learns=False)
    load_policies(
        parts.policies, load_checkpoint(RunFolder(config.run_folder).checkpoints()[-1])[0]
    )
    examples = parts.test_task.examples[:queries]
    gains, others, alone, behind, first, again, chance = ([] for _ in range(7))
    for index, (pioneer, observer) in enumerate(_directions(list(parts.policies.values()))):
        seed = 1000 * (index + 1)
        a1, a2 = play(parts, [pioneer, observer], examples, seed, form.verdict)
        (solo,) = play(parts, [observer], examples, seed + 1)
        tries = [play(parts, [observer], examples, seed + 2 + t)[0] for t in range(TRIES)]
        wrong = a1.rewards < 1
        other = _other_number(a1, tries)
        gains.append((a2.rewards - solo.rewards)[wrong])
        others.append((other - solo.rewards)[wrong])
        alone.append(solo.rewards[wrong])
        behind.append(a2.rewards[wrong])
        first.append(a1.rewards)
        again.append(_same_number(a1, a2)[wrong])
        chance.append(_same_number(a1, solo)[wrong])
    parts_of = {
        "gain": gains, "other number": others, "alone": alone, "behind": behind,
        "a1 right": first, "same number": again, "same alone": chance,
    }  # fmt: skip
    figures = {key: bootstrap_interval(np.concatenate(values)) for key, values in parts_of.items()}
    return {**figures, "wrong": int(sum(map(len, gains)))}


def _directions(policies: Sequence[LLMPolicy]) -> Iterator[tuple[LLMPolicy, LLMPolicy]]:
    """Yield pioneer and observer, each policy once as either."""
    for index, policy in enumerate(policies):
        yield policy, policies[(index + 1) % len(policies)]


def _same_number(first: Played, second: Played) -> Float64Array:
    """Return (N,) 1 where both have given the same number, else 0."""
    pairs = zip(first.numbers, second.numbers, strict=True)
    return np.array([float(x == y) for x, y in pairs])


def _other_number(a1: Played, tries: Sequence[Played]) -> Float64Array:
    """Return the reward of the first try whose number is not a1's; of the last one if all are."""
    rewards = tries[-1].rewards.copy()
    for played in reversed(tries[:-1]):
        for i, number in enumerate(played.numbers):
            if number != a1.numbers[i]:
                rewards[i] = played.rewards[i]
    return rewards


def columns(found: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    """Return the table: one row per run."""

    def cell(figures: Mapping[str, Any], key: str) -> str:
        mean, low, high = figures[key]
        return f"{mean:.2f} [{low:.2f}, {high:.2f}]"

    rows = list(found.values())
    headings = ("a1 right", "alone", "behind", "gain", "other number", "same number", "same alone")
    return [
        Column("form", list(found), "left"),
        Column("wrong a1", [str(row["wrong"]) for row in rows]),
        *(Column(heading, [cell(row, heading) for row in rows]) for heading in headings),
    ]


if __name__ == "__main__":
    main()
