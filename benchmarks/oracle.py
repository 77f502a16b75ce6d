"""How far trained pairs are from the exact optimum of `toy`, without sampling.

    python -m agents compare toy --variants cory-mappo cory-ippo --seeds 3 --out runs/toy
    python -m benchmarks.oracle runs/toy --out docs/results/toy

All responses of `toy` can be listed, so what a pair earns, and what the best pair would earn at the
same price of a nat (`agents/maths/exact_solver.py`), are sums and not estimates. Draws
`frontier.png`: every pair in both orders under the curve that no pair can pass, and single policies
under theirs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from agents.evaluation.samples import references
from agents.evaluation.toy_tables import observer_table, pioneer_table, toy_game
from agents.maths.exact_solver import Game, play_exactly, solve, solve_alone, upper_bound
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.studies.plan import evaluated_runs
from agents.tasks import build_task
from agents.training.trainer import Trainer
from cory_env.tasks.toy import ToyTask

_SMALL_TABLE = 10_000
"""Queries times responses up to which a price is solved in moments."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to score."""

    comparison: tyro.conf.Positional[Path]
    out: Path = Path("docs/results/toy")
    """Folder for `oracle.json` and `frontier.png`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One run, its policies in one order, exactly."""

    variant: str
    seed: int
    eta: float
    pioneer: str
    reward: float
    """Sum of both task rewards."""
    kl: float
    """Sum of both KLs, nats."""
    combined: float
    """reward − η KL, and the optimum of it: the best that was found, and a bound for all."""
    optimum: float
    bound: float
    alone: list[tuple[float, float]]
    """Reward and KL of each policy alone, as a pioneer."""

    @property
    def share(self) -> float:
        """Of the optimum."""
        return self.combined / self.optimum


def score(run: RunFolder, variant: str) -> tuple[Game, list[Pair]]:
    """Score a run's policies in every order."""
    config = run.read_config()
    task = build_task(config.task, config.test_split, config.task_arguments)
    if not isinstance(task, ToyTask):
        raise ValueError(f"Expected runs of toy, whose responses can be listed, got {config.task}.")
    trainer = Trainer(config)
    trainer.load_state(*load_checkpoint(run.checkpoints()[-1]))
    (reference,) = references(trainer.policies).values()
    game = toy_game(reference, task)
    first = {name: pioneer_table(policy, task) for name, policy in trainer.policies.items()}
    second = {name: observer_table(policy, task) for name, policy in trainer.policies.items()}
    eta = config.algorithm_config.kl_coef
    optimum, bound = solve(game, eta).value, upper_bound(game, eta)
    alone = [_alone(game, table) for table in first.values()]
    pairs = []
    names = list(first)
    for pioneer, observer in (names, names[::-1]):
        found = play_exactly(game, first[pioneer], second[observer], eta)
        pairs.append(
            Pair(
                variant=variant, seed=config.seed, eta=eta, pioneer=pioneer,
                reward=sum(found.rewards), kl=sum(found.kl), combined=found.value,
                optimum=optimum, bound=bound, alone=alone,
            )
        )  # fmt: skip
    return game, pairs


def _alone(game: Game, table: np.ndarray) -> tuple[float, float]:
    probs = np.exp(table)
    reward = (probs * game.pioneer_rewards).sum(-1).mean()
    kl = (probs * (table - game.pioneer_log_probs)).sum(-1).mean()
    return float(reward), float(kl)


def draw(game: Game, pairs: Sequence[Pair], path: Path) -> None:
    """Draw pairs and single policies under their curves."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    team, single = figure.subplots(1, 2)
    small = game.pioneer_log_probs.size <= _SMALL_TABLE
    prices = np.geomspace(0.01, 1.0, 25 if small else 7).tolist()
    best = [solve(game, eta) for eta in prices]
    team.plot([sum(b.kl) for b in best], [sum(b.rewards) for b in best], "k-", label="optimum")
    lone = [solve_alone(game.pioneer_log_probs, game.pioneer_rewards, eta) for eta in prices]
    single.plot([kl for _, kl in lone], [reward for reward, _ in lone], "k-", label="optimum")
    for index, variant in enumerate(dict.fromkeys(pair.variant for pair in pairs)):
        own = [pair for pair in pairs if pair.variant == variant]
        mark = {"marker": "osD^vP*X"[index % 8], "color": f"C{index}", "label": variant, "s": 22}
        team.scatter([p.kl for p in own], [p.reward for p in own], **mark)
        points = [point for pair in own for point in pair.alone]
        single.scatter([kl for _, kl in points], [reward for reward, _ in points], **mark)
    for axes, title in ((team, "both seats, sums"), (single, "one policy alone")):
        axes.set(xlabel="KL to the reference, nats", ylabel="task reward", title=title)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Score a comparison, show the table, write the figure."""
    arguments = tyro.cli(Arguments, description=__doc__)
    runs = evaluated_runs(arguments.comparison)
    scored = [score(run, run.path.parts[-3]) for run in runs if run.read_config().observers == 1]
    pairs = [pair for _, found in scored for pair in found]
    table = Table("variant", "seed", "pioneer", "reward", "KL", "combined", "optimum", "share")
    for pair in pairs:
        numbers = (pair.reward, pair.kl, pair.combined, pair.optimum)
        cells = [f"{number:.3f}" for number in numbers]
        table.add_row(pair.variant, str(pair.seed), pair.pioneer, *cells, f"{pair.share:.1%}")
    Console().print(table)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [asdict(pair) | {"share": pair.share} for pair in pairs]
    (arguments.out / "oracle.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw(scored[0][0], pairs, arguments.out / "frontier.png")


if __name__ == "__main__":
    main()
