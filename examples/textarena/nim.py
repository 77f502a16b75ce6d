"""Two language models learn TextArena's Nim from each other and from their pasts.

The file doubles as the description that the command line takes (pip install textarena):

    python examples/textarena/nim.py [--smoke]
    python -m agents train --env textarena:Nim-v0 --partners pool:5 --swap-every 2 \
        --describe examples/textarena/nim.py \
        --actions "$(python examples/textarena/nim.py --actions)"
"""

import argparse
import re

from agents import EnvConfig, train_environment

PILES = (3, 4, 5)
ACTIONS = [f"{pile} {count}" for pile, most in enumerate(PILES) for count in range(1, most + 1)]


def piles(observation: dict) -> list[int]:
    """Return what lies on each pile, as the game has said last."""
    said = re.findall(r"pile \d: (\d+)", observation["text"])
    return [int(count) for count in said[-len(PILES) :]]


def describe(observation: dict) -> str:
    """Say what lies there; who takes the last object wins."""
    return " ".join(f"{pile} {count}" for pile, count in enumerate(piles(observation))) + " take"


def legal_actions(observation: dict) -> list[str]:
    """Return what may be taken: from which pile, and how many."""
    left = piles(observation)
    return [f"{pile} {count}" for pile, most in enumerate(left) for count in range(1, most + 1)]


def main() -> None:
    """Train a pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--out", default="runs/nim")
    parser.add_argument("--actions", action="store_true", help="print the actions alone")
    parser.add_argument("--smoke", action="store_true", help="one small iteration")
    flags = parser.parse_args()
    if flags.actions:
        return print(",".join(ACTIONS))

    small = {"iterations": 1, "episodes": 4, "evaluation_episodes": 4} if flags.smoke else {}
    config = EnvConfig(
        env="textarena:Nim-v0",
        describe=__file__,
        actions=",".join(ACTIONS),
        partners="pool:5",
        swap_every=2,
        seed=flags.seed,
        out=flags.out,
        **{"episodes": 64, "iterations": flags.iterations, **small},
    )
    train_environment(config)


if __name__ == "__main__":
    main()
