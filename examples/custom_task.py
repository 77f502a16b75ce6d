"""A task and a reward of your own, in one file: answer with as many vowels as you can.

python examples/custom_task.py [--smoke]
"""

import sys
from collections.abc import Sequence

import numpy as np

import cory_env
from agents import TrainConfig, train
from cory_env.testing import check_reward, check_task


@cory_env.register_reward("vowels")
def vowels() -> object:
    """Return a batched reward: the share of vowels among the letters of each response."""

    def reward(examples: Sequence[cory_env.Example], responses: Sequence[str]) -> np.ndarray:
        letters = [[c for c in text.lower() if c.isalpha()] for text in responses]
        return np.array([sum(c in "aeiou" for c in ls) / max(1, len(ls)) for ls in letters])

    return reward


@cory_env.register_task("vowels")
class Vowels(cory_env.Task):
    """Continue the opening of a film review; an observer reads what was answered before."""

    name = "vowels"
    reward = "vowels"
    max_new_tokens = 8

    def __init__(self, split: str = "train"):
        openings = ("The film", "My wife", "An actor", "This story", "I went", "The end")
        half = openings[:4] if split == "train" else openings[4:]
        self.examples = [cory_env.Example(opening) for opening in half]

    def observer_prompt(self, query: str, responses: Sequence[str]) -> str:
        """Quote the earlier responses before the query."""
        return " ".join(f"{query}{response}." for response in responses) + f" {query}"


if __name__ == "__main__":
    smoke = "--smoke" in sys.argv
    task = cory_env.make_task("vowels")
    check_task(task)
    check_reward(cory_env.make_reward("vowels"), task.examples)
    size = {"iterations": 1, "batch_size": 8, "minibatch_size": 8} if smoke else {"iterations": 20}
    train(TrainConfig(task="vowels", evaluation_queries=2, **size))
