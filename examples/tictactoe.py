"""Two language models learn tic-tac-toe from each other: PettingZoo's, by scored actions.

They exchange sides every iteration, and are scored against a player that moves at random. The file
doubles as the description that the command line takes (pip install "pettingzoo[classic]"):

    python examples/tictactoe.py [--smoke]
    python -m agents train --env pettingzoo:classic/tictactoe-v3 --swap-every 1 \
        --describe examples/tictactoe.py --actions a,b,c,d,e,f,g,h,i
"""

import argparse

from agents import EnvConfig, train_environment


def describe(observation: dict) -> str:
    """Say what is on the nine cells: x is one's own, o the other's."""
    own, other = observation["observation"].reshape(9, 2).T
    cells = [
        "x" if mine else "o" if theirs else "-" for mine, theirs in zip(own, other, strict=True)
    ]
    return f"{' '.join(cells)} go"


def main() -> None:
    """Train a pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--out", default="runs/tictactoe")
    parser.add_argument("--smoke", action="store_true", help="one small iteration")
    flags = parser.parse_args()

    small = {"iterations": 1, "episodes": 4, "evaluation_episodes": 4} if flags.smoke else {}
    config = EnvConfig(
        env="pettingzoo:classic/tictactoe-v3",
        describe=__file__,
        actions="a,b,c,d,e,f,g,h,i",
        swap_every=1,
        seed=flags.seed,
        out=flags.out,
        **{"episodes": 64, "iterations": flags.iterations, **small},
    )
    train_environment(config)


if __name__ == "__main__":
    main()
