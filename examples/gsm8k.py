"""Two models coevolve on word problems (CORY, arXiv 2410.06101, section 4.2).

Without flags the embedded model learns `arithmetic`, generated problems of its size, which are
asked and scored like GSM8K: no network, no GPU. GSM8K itself takes a model from the hub and a GPU.

    python examples/gsm8k.py [--smoke]
    python examples/gsm8k.py --model Qwen/Qwen2.5-0.5B-Instruct
    python examples/gsm8k.py --preset paper-gsm8k   # the table of the paper: Llama-2-7b in 4 bit
"""

import argparse

from agents import TrainConfig, evaluate, train
from agents.config.presets import starting_values


def main() -> None:
    """Train a pair, then count who solves what with k tries."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="", help="arithmetic or paper-gsm8k")
    parser.add_argument("--model", default="", help="a folder or a name on the hub; learns gsm8k")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/gsm8k_example")
    parser.add_argument("--smoke", action="store_true", help="one small iteration")
    flags = parser.parse_args()

    task = "gsm8k" if flags.model or flags.preset == "paper-gsm8k" else "arithmetic"
    values, chosen = starting_values(task, preset=flags.preset, model=flags.model)
    if chosen:
        print(chosen)
    if flags.smoke:
        values |= {"iterations": 1, "batch_size": 8, "minibatch_size": 8, "max_new_tokens": 8}
    values |= {"evaluation_queries": 0, "out": flags.out, "seed": flags.seed}
    run = train(TrainConfig(**values))

    k, queries = ((1, 2), 8) if flags.smoke else ((1, 4, 16), 1319)
    for row in evaluate(run.folder, num_queries=queries, k=k)["rows"]:
        rates = [f"pass@{k} {mean:.3f}" for k, (mean, _, _) in row["pass_at"].items()]
        print(f"{row['name']}: {', '.join(rates)}, greedy {row['greedy'][0]:.3f}")


if __name__ == "__main__":
    main()
