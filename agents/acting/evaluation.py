"""How actors do: by themselves, or in each seat against players that act at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents.acting.actors import Actor, Learnt, RandomActor, ScoredPolicy, WritingPolicy
from agents.acting.episodes import Trajectory, play_episodes
from agents.acting.trainer import EVALUATION, Players, generators
from agents.config.environment import EnvConfig
from agents.environments.opening import open_environment
from agents.maths.statistics import bootstrap_interval
from agents.policies.weights import load_policies
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.records.rows import REFERENCE
from agents.terminal.hush import hushed
from agents.terminal.tables import Column, stacked

AT_A_TIME = 32
"""Episodes that are played side by side."""

RANDOM = "random"


def evaluate_actors(
    config: EnvConfig, players: Players, episodes: int, seed: int = 0
) -> dict[str, Any]:
    """Score actors: what an agent earns in whole episodes, sampled and greedy.

    Alone in an environment: each policy, the reference model that it began as, and chance. With
    others: each of them in each seat, where chance has all other seats; each policy in each seat,
    where the reference has them; and the policies together, each in the seat that it began in.
    Where the model writes its actions there is no chance, and the reference takes its place.

    Args:
        config: of the run.
        players: who plays.
        episodes: of each row, the same seeds for all.
        seed: of them.

    Returns:
        What `evaluation.json` holds.
    """
    rows: list[dict[str, Any]] = []
    agents = players.environment.agents
    with ExitStack() as stack:
        # A server may have no more sessions than the run has asked for.
        most = min(AT_A_TIME, config.episodes) if config.kind == "openenv" else AT_A_TIME
        count = min(episodes, most)
        environments = [players.environment]
        environments += [
            stack.enter_context(closing(open_environment(config))) for _ in range(count - 1)
        ]
        for name, seats, of in _line_up(players, agents):
            played: dict[bool, list[Trajectory]] = {False: [], True: []}
            for greedy, found in played.items():
                if greedy and isinstance(seats[of], RandomActor):
                    continue
                randomness = generators(seed, EVALUATION, int(greedy), episodes)
                for start in range(0, episodes, count):
                    part = randomness[start : start + count]
                    ended = play_episodes(
                        environments[: len(part)],
                        seats,
                        part,
                        max_steps=config.max_steps,
                        greedy=greedy,
                    )
                    found += [episode[of] for episode in ended]
            rows.append({"name": name, **_figures(played[False])})
            if played[True]:
                rows[-1]["greedy"] = _figures(played[True])["reward"]
    return {"episodes": episodes, "rows": rows}


def _line_up(
    players: Players, agents: Sequence[str]
) -> Iterator[tuple[str, dict[str, Actor], str]]:
    """Return the rows: what each is called, who has which seat, and whose figures they are."""
    policies = players.actors
    first = next(iter(policies.values()))
    everybody: dict[str, Actor] = {**policies, REFERENCE: _reference(first)}
    others = reference = everybody[REFERENCE]
    if players.environment.actions is not None:
        others = everybody[RANDOM] = RandomActor(len(players.environment.actions))
    if len(agents) == 1:
        yield from ((name, {agents[0]: actor}, agents[0]) for name, actor in everybody.items())
        return
    for name, actor in everybody.items():
        for seat in agents:
            yield f"{name} as {seat}", {a: actor if a == seat else others for a in agents}, seat
    if others is not reference:
        for name, actor in policies.items():
            for seat in agents:
                seats = {a: actor if a == seat else reference for a in agents}
                yield f"{name} as {seat}, against {REFERENCE}", seats, seat
    together = dict(zip(agents, cycle(policies.values())))
    for (name, _), seat in zip(cycle(policies.items()), agents):
        yield f"{name} as {seat}, together", dict(together), seat


def _reference(actor: Learnt) -> Actor:
    """Return the model that a policy began as, as an actor."""
    policy = replace(actor.policy, name=REFERENCE, learns=False)
    if isinstance(actor, ScoredPolicy):
        return ScoredPolicy(policy, actor.actions, actor.normalise)
    assert isinstance(actor, WritingPolicy)
    return WritingPolicy(policy, actor.max_new_tokens)


def _figures(trajectories: Sequence[Trajectory]) -> dict[str, tuple[float, float, float]]:
    totals = np.array([t.total for t in trajectories])
    lengths = np.array([len(t.steps) for t in trajectories], dtype=np.float64)
    return {
        "reward": bootstrap_interval(totals),
        "positive": bootstrap_interval((totals > 0).astype(np.float64)),
        "length": bootstrap_interval(lengths),
    }


@hushed()
def evaluate_environment(
    run: str | Path, *, episodes: int = 100, seed: int = 0, device: str = ""
) -> dict[str, Any]:
    """Score the policies of the last checkpoint of a run in somebody else's environment.

    Args:
        run: the run folder.
        episodes: of each row.
        seed: of them.
        device: where to compute; empty for the run's own.

    Returns:
        What is also written to `evaluation.json` in the run folder.

    Raises:
        ValueError: if the folder is no such run with a checkpoint.
    """
    if episodes < 1:
        raise ValueError(f"Expected at least 1 episode, got {episodes}.")
    folder = RunFolder(Path(run))
    config, players = load_players(folder, device)
    with closing(players.environment):
        evaluation = evaluate_actors(config, players, episodes, seed)
    evaluation["iterations"] = folder.iterations_done()
    folder.write_evaluation(evaluation)
    return evaluation


def load_players(folder: RunFolder, device: str = "") -> tuple[EnvConfig, Players]:
    """Return the configuration of a run, and its policies as of the last checkpoint.

    Raises:
        ValueError: if the folder is no run in an environment, or has no checkpoint.
    """
    config = folder.read_env_config()
    if device:
        config = config.replace(device=device)
    if not (checkpoints := folder.checkpoints()):
        raise ValueError(f"Expected a run with a checkpoint, got {folder}, which has none yet.")
    tensors, _ = load_checkpoint(checkpoints[-1])
    players = Players.build(config)
    load_policies(players.policies, tensors)
    return config, players


def print_actors(evaluation: Mapping[str, Any], console: Console) -> None:
    """Print an evaluation as a table."""
    rows = evaluation["rows"]
    text = f"{evaluation['episodes']} episodes a row, ± half the 95 % interval"
    console.print(text, style="italic", highlight=False)
    columns = [Column("player", [row["name"] for row in rows], "left")]
    for heading, key in (
        ("return", "reward"),
        ("return > 0", "positive"),
        ("greedy", "greedy"),
        ("actions", "length"),
    ):
        columns.append(Column(heading, [_cell(row.get(key)) for row in rows]))
    for table in stacked(columns, console.width):
        console.print(table)


def _cell(interval: tuple[float, float, float] | None) -> str:
    if interval is None:
        return ""
    mean, low, high = interval
    return f"{mean:.2f} ±{(high - low) / 2:.2f}"
