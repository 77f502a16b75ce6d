"""What a critic and what branches know of the states inside responses, against many branches.

    python -m agents train arithmetic --observers 0 --algorithm mappo --save-every 8 --keep 10 \
        --out runs/critic
    python -m benchmarks.values runs/critic --out runs/critic/values.json

For each checkpoint of a run with a critic it plays one batch, takes a state inside each response,
and plays on from it. The mean of the first `--truth` branches stands for the truth; K further ones,
the critic, and the mean over all states are measured against it. Then it *forces* the three most
probable next tokens where the policy hesitates, and asks who finds the best of them: only groups
whose best and worst differ count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents.config.train import TrainConfig
from agents.ledger import Ledger
from agents.maths.distributions import entropy, sampling_log_probs
from agents.policies.llm import response_hidden
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.rollouts.branches import BranchSampler
from agents.training.trainer import Trainer
from agents.types import Prefix, Rollout

FEW, MORE = 3, 9
"""Branches of the two estimates: the default of `vine`, and what the paper takes."""

ALTERNATIVES = 3
HESITATES = 0.3
"""Nats of the next token from which on a state is asked for alternatives."""

DIFFERS = 0.15
"""What the best and the worst alternative must differ by in truth."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    run: tyro.conf.Positional[Path]
    """A run of one policy with a critic that has kept its checkpoints."""
    out: Path | None = None
    """File for the figures as JSON."""
    states: int = 96
    """States of each checkpoint; at most the run's batch size."""
    truth: int = 64
    """Branches that stand for the truth."""
    last: int = 3
    """Checkpoints to take, the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """Errors are means of |estimate − truth| over states."""

    step: int
    states: int
    mean: float
    deviation: float
    """Of the truth over states."""
    constant_error: float
    critic_error: float
    few_error: float
    more_error: float
    critic_correlation: float
    few_correlation: float
    groups: int
    """States whose alternatives differ."""
    critic_right: float
    """Share of the groups whose best alternative it finds; nan without groups."""
    few_right: float
    more_right: float


def main(arguments: Arguments, console: Console | None = None) -> list[Estimates]:
    """Measure every checkpoint, print a table, and write the figures."""
    console = console or Console()
    folder = RunFolder(arguments.run)
    config = folder.read_config().replace(batch_size=arguments.states, minibatch_size=1)
    rows = [
        measure(config, folder, step, arguments.truth) for step in folder.steps()[-arguments.last :]
    ]
    table = Table(title=f"{arguments.run}: states inside responses, {arguments.truth} branches")
    for name in asdict(rows[0]):
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in asdict(row).values()))
    console.print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return rows


def measure(config: TrainConfig, folder: RunFolder, step: int, truth: int) -> Estimates:
    """Measure one checkpoint on queries that its run has not come to."""
    trainer = Trainer(config)
    trainer.load_state(*load_checkpoint(folder.checkpoint_path(step)))
    rollout = trainer.collect(trainer.assign(step))
    prefixes = inner_states(rollout, seed=step)
    worth = played_on(trainer, rollout, prefixes, truth, step)
    values = critic_values(trainer, rollout, prefixes)
    changed, places = forced(trainer, rollout, prefixes)
    found = played_on(trainer, changed, places, truth, step + 1) if places else worth[:, :0]
    judged = critic_values(trainer, changed, places) if places else values[:0]
    return Estimates(
        step=step,
        **errors(worth, values),
        **picks(found, judged),
    )


def inner_states(rollout: Rollout, seed: int) -> list[Prefix]:
    """Draw a state inside each response that has one: somebody has spoken, and has not ended."""
    lengths = rollout.turns[0].tokens.response_mask.sum(1).tolist()
    generator = torch.Generator().manual_seed(seed)
    return [
        Prefix(row, 0, int(torch.randint(1, length, (), generator=generator)))
        for row, length in enumerate(lengths)
        if length > 1
    ]


def played_on(
    trainer: Trainer, rollout: Rollout, prefixes: Sequence[Prefix], truth: int, key: int
) -> Tensor:
    """Return by column (P,) the truth, and what few and more branches say, all independent."""
    sampler = BranchSampler(
        trainer.games.rules,
        rollout,
        trainer.policies,
        engine=trainer.engine,
        key=(trainer.config.seed, key),
        world=trainer.world,
        ledger=Ledger(),
    )
    rewards = sampler.branch(prefixes, truth + FEW + MORE).rewards[:, :, 0]
    parts = rewards.split([truth, FEW, MORE], dim=1)
    return torch.stack([part.mean(1) for part in parts])


def critic_values(trainer: Trainer, rollout: Rollout, prefixes: Sequence[Prefix]) -> Tensor:
    """Return (P,) what the critic says of states, its share of the KL penalty included."""
    [prepared] = trainer.prepare(rollout)
    return torch.stack([prepared.scored.baselines[p.row, p.cut] for p in prefixes])


def forced(
    trainer: Trainer, rollout: Rollout, prefixes: Sequence[Prefix]
) -> tuple[Rollout, list[Prefix]]:
    """Return a rollout of alternatives, group by group, and the states behind them.

    Where the policy hesitates, its most probable next tokens are alternatives, but for those that
    end the response.
    """
    (turn,) = rollout.turns
    policy = trainer.policies[turn.policy]
    with torch.no_grad():
        hidden = response_hidden(policy.backbone, policy.adapter, turn.tokens)
        at = torch.stack([hidden[p.row, p.cut] for p in prefixes])
        logits = policy.backbone.logits(policy.adapter, at).index_fill(
            -1, policy.backbone.stop_ids, -torch.inf
        )
        log_probs = sampling_log_probs(logits, temperature=policy.temperature)
    likeliest = log_probs.topk(ALTERNATIVES).indices
    room = trainer.games.rules.max_new_tokens
    chosen = [
        i
        for i, prefix in enumerate(prefixes)
        if float(entropy(log_probs)[i]) >= HESITATES and prefix.cut + 2 <= room
    ]
    lines = [(prefixes[i], int(token)) for i in chosen for token in likeliest[i]]
    rows = torch.tensor([prefix.row for prefix, _ in lines], dtype=torch.long)
    tokens = turn.tokens.take(rows)
    width = tokens.response_ids.shape[1]
    ids = torch.nn.functional.pad(tokens.response_ids, (0, room - width))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for line, (prefix, token) in enumerate(lines):
        ids[line, prefix.cut] = token
        mask[line, : prefix.cut + 2] = True  # one more, so that the response goes on
    states = [rollout.states[prefix.row] for prefix, _ in lines]
    picked = rows.tolist()
    changed = replace(
        turn,
        prompts=[turn.prompts[row] for row in picked],
        responses=[turn.responses[row] for row in picked],
        tokens=replace(
            tokens,
            response_ids=ids,
            response_mask=mask,
            sampled_log_probs=torch.zeros(ids.shape, device=ids.device),
        ),
        **{f: getattr(turn, f)[rows] for f in ("task_rewards", "rewards_now", "rewards_later")},
    )
    places = [Prefix(line, 0, prefix.cut + 1) for line, (prefix, _) in enumerate(lines)]
    return Rollout(turns=(changed,), states=states), places


def errors(worth: Tensor, values: Tensor) -> dict[str, Any]:
    """Return how far estimates (P,) are from the truth: the first row of `worth` (3, P)."""
    truth, few, more = worth
    return {
        "states": len(truth),
        "mean": float(truth.mean()),
        "deviation": float(truth.std()),
        "constant_error": float((truth.mean() - truth).abs().mean()),
        "critic_error": float((values - truth).abs().mean()),
        "few_error": float((few - truth).abs().mean()),
        "more_error": float((more - truth).abs().mean()),
        "critic_correlation": correlation(values, truth),
        "few_correlation": correlation(few, truth),
    }


def correlation(one: Tensor, other: Tensor) -> float:
    """Return Pearson's correlation; nan if one of them does not vary."""
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def picks(worth: Tensor, values: Tensor) -> dict[str, Any]:
    """Return how often the best alternative of a group is found, of groups that differ.

    Args:
        worth: (3, N) truth and two estimates, `ALTERNATIVES` of a group one after the other.
        values: (N,) of the critic.
    """
    truth, few, more, critic = (part.reshape(-1, ALTERNATIVES) for part in (*worth, values))
    kept = truth.max(1).values - truth.min(1).values >= DIFFERS
    best = truth.max(1).values
    shares = {
        name: float((truth.gather(1, part.argmax(1, keepdim=True))[:, 0] == best)[kept]
                    .float().mean())
        for name, part in (("critic", critic), ("few", few), ("more", more))
    }  # fmt: skip
    return {"groups": int(kept.sum()), **{f"{name}_right": s for name, s in shares.items()}}


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
