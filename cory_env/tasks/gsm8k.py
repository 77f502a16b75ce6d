"""Grade-school mathematics: GSM8K (Cobbe et al. 2021, arXiv 2110.14168), which ships whole.

Prompts are those of the CORY paper: Ma et al. 2024 (arXiv 2410.06101), appendix A.
"""

from __future__ import annotations

from cory_env.names import unknown_name
from cory_env.task import QUESTION, QuestionTask
from cory_env.tasks.problems import read_problems

SPLITS = ("train", "test")
ONE_SHOT = (
    "Question: Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How "
    "many toys does he have now? Answer: Shawn started with 5 toys. If he got 2 toys each from his "
    "mom and dad, then that is 4 more toys. 5 + 4 = 9. The answer is 9. "
)
"""The example that the paper names; its text is that of Wei et al. 2022 (arXiv 2201.11903)."""


class Gsm8kTask(QuestionTask):
    """GSM8K: 7,473 questions to train on and 1,319 to test on.

    The pioneer is asked a worked example and `Question: <query> Answer:`; an observer reads the
    same with `Reference: <response>` before `Answer:` for every earlier response. The reward is 1
    if the final number is right. The limits leave room for the longest question and the whole
    responses of two observers; a model with a short context needs smaller ones.

    Args:
        split: `train` or `test`.
        longest: leave out questions of more characters; 0 keeps all.
    """

    name = "gsm8k"
    prompt = ONE_SHOT + QUESTION
    max_new_tokens = 256
    max_prompt_tokens = 1024

    def __init__(self, split: str = "train", *, longest: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(unknown_name("a split", SPLITS, split))
        problems = read_problems(f"gsm8k_{split}")
        self.examples = [p for p in problems if not longest or len(p.query) <= longest]
        if not self.examples:
            shortest = min(len(problem.query) for problem in problems)
            raise ValueError(
                f"Expected longest to be at least {shortest} characters, or 0, got {longest}."
            )
