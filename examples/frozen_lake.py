"""A language model walks over a frozen lake: FrozenLake of Gymnasium, by scored actions.

The file doubles as the description that the command line takes:

    python examples/frozen_lake.py [--smoke]
    python -m agents train --env gym:FrozenLake-v1 --env-options is_slippery=false \
        --describe examples/frozen_lake.py --actions left,down,right,up
"""

import argparse

from agents import EnvConfig, train_environment


def describe(observation: int) -> str:
    """Say where one stands on the 4 × 4 lake; nothing tells where the holes are."""
    return f"Row {observation // 4}, column {observation % 4}. Go"


def main() -> None:
    """Train until 25,000 steps are spent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/frozen_lake")
    parser.add_argument("--smoke", action="store_true", help="one small iteration")
    flags = parser.parse_args()

    config = EnvConfig(
        env="gym:FrozenLake-v1",
        env_options="is_slippery=false",
        describe=__file__,
        actions="left,down,right,up",
        budget="responses=50" if flags.smoke else "responses=25000",
        evaluation_episodes=8 if flags.smoke else 100,
        seed=flags.seed,
        out=flags.out,
    )
    train_environment(config)


if __name__ == "__main__":
    main()
