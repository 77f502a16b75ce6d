"""Two models coevolve on film reviews (CORY, arXiv 2410.06101, section 4.1).

Without flags it is the embedded model and reward: no network, no GPU, minutes on two cores.

    python examples/imdb.py [--smoke]
    python examples/imdb.py --model gpt2-large
    python examples/imdb.py --preset paper-imdb     # the table of the paper: GPT2-Large on a GPU
"""

import argparse

from agents import TrainConfig, evaluate, train
from agents.config.presets import starting_values


def main() -> None:
    """Train a pair, then score each policy alone, as a team, and the reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="", help="imdb or paper-imdb")
    parser.add_argument("--model", default="", help="a folder or a name on the hub")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/imdb_example")
    parser.add_argument("--smoke", action="store_true", help="one small iteration")
    flags = parser.parse_args()

    values, chosen = starting_values("imdb", preset=flags.preset, model=flags.model)
    if chosen:
        print(chosen)
    if flags.smoke:
        values |= {"iterations": 1, "batch_size": 8, "minibatch_size": 8}
    values |= {"evaluation_queries": 0, "out": flags.out, "seed": flags.seed}
    run = train(TrainConfig(**values))

    figures = evaluate(run.folder, num_queries=8 if flags.smoke else 256)
    for row in figures["rows"]:
        (reward, low, high), (kl, _, _) = row["reward"], row["kl"]
        print(f"{row['name']}: reward {reward:.2f} ({low:.2f} to {high:.2f}), KL {kl:.1f}")


if __name__ == "__main__":
    main()
