"""Two language models learn a dice game from each other and from their pasts: TextArena's Pig.

Who rolls a 1 loses the points of the turn; who holds keeps them. The file doubles as the
description that the command line takes (pip install textarena):

    python examples/textarena/pig_dice.py [--smoke]
    python -m agents train --env textarena:PigDice-v0 --env-options winning_score=20 \
        --describe examples/textarena/pig_dice.py --actions roll,hold \
        --partners pool:5 --swap-every 2
"""

import argparse
import re

from agents import EnvConfig, train_environment


def describe(observation: dict) -> str:
    """Say what is at stake, and how far it is to the end."""
    text = observation["text"]
    player, goal = re.search(r"You are Player (\d)[\s\S]*First to (\d+) points", text).groups()
    own = int(re.findall(rf"Player {player}: '(\d+)'", text)[-1])
    turn = re.findall(r"turn total is (\d+)", text)[-1]
    return f"Turn {turn}, {int(goal) - own} to go. I"


def main() -> None:
    """Train a pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--out", default="runs/pig_dice")
    parser.add_argument("--smoke", action="store_true", help="one small iteration")
    flags = parser.parse_args()

    small = {"iterations": 1, "episodes": 4, "evaluation_episodes": 4} if flags.smoke else {}
    config = EnvConfig(
        env="textarena:PigDice-v0",
        env_options="winning_score=20",
        describe=__file__,
        actions="roll,hold",
        partners="pool:5",
        swap_every=2,
        seed=flags.seed,
        out=flags.out,
        **{"iterations": flags.iterations, "evaluation_episodes": 200, **small},
    )
    train_environment(config)


if __name__ == "__main__":
    main()
