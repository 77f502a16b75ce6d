"""Arithmetic word problems which a small model can learn: generated without end, or real ones.

The embedded language model was pre-trained on the generator's problems, in these prompts and in the
`known` wording.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from cory_env.names import unknown_name
from cory_env.task import QuestionTask
from cory_env.tasks.problems import read_problems
from cory_env.types import Example
from cory_env.word_problems import check_form, word_problem

GENERATED = ("train", "test")
REAL = ("addsub", "multiarith", "singleeq", "singleop")
NUM_EXAMPLES = 1024


class ArithmeticTask(QuestionTask):
    """Templated word problems, and four published sets of real ones to be tested on.

    The pioneer is asked `Question: <query> Answer:`; an observer reads `Reference: <response>`
    before `Answer:` for every earlier response. The reward is 1 if the final number is right.

    `sample` draws new problems without end. A problem is one of `train` or of `test` by the hash of
    its text, so that no draw of one can be a draw of the other, whatever the seeds; `examples` is a
    fixed list of draws. (The pre-training of the embedded model knew no such split.) The real sets
    are AddSub, MultiArith, SingleEq and SingleOp, whole and in their order; `sample` draws from the
    list.

    Args:
        split: `train`, `test`, `addsub`, `multiarith`, `singleeq` or `singleop`.
        difficulty: steps of a generated problem, 1 to 3; the real ones have one or two.
        wording: of generated problems. `known`: as the embedded model was pre-trained on. `new`:
            gains and losses in words that it has not met. It takes most gains for losses.
    """

    name = "arithmetic"
    max_prompt_tokens = 256

    def __init__(
        self, split: str = "train", *, difficulty: int = 2, wording: str = "known"
    ) -> None:
        if split not in (*GENERATED, *REAL):
            raise ValueError(unknown_name("a split", (*GENERATED, *REAL), split))
        check_form(difficulty, wording)
        self.split = split
        self.difficulty = difficulty
        self.wording = wording
        # A step takes 9 to 16 tokens of the embedded tokenizer, the end and `#### n` included.
        self.max_new_tokens = 16 * (difficulty if split in GENERATED else 2)
        if split in REAL:
            self.examples = read_problems(split)
        else:
            rng = np.random.default_rng([GENERATED.index(split), difficulty])
            self.examples = [self.sample(rng) for _ in range(NUM_EXAMPLES)]

    def sample(self, rng: np.random.Generator) -> Example:
        """Draw a new problem of the split, or one of the real ones."""
        if self.split in REAL:
            return super().sample(rng)
        while True:
            example = word_problem(rng, self.difficulty, self.wording)
            if GENERATED[crc32(example.query.encode()) % 2] == self.split:
                return example
