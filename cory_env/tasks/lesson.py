"""`toy` as a lesson: a teacher who alone reads the query, and a student who alone answers it.

Advice goes one way and evaluation the other: in every further round the teacher reads what the
student has answered and whether that was right, and writes once more. After bi-directional feedback
(arXiv 2401.06603), whose game it is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from cory_env.tasks.toy import ASK, REPEAT, SEPARATE, ToyTask
from cory_env.tokenization import SymbolTokenizer

RIGHT, WRONG = "+", "-"


class LessonTask(ToyTask):
    """Tell a student the query, who says it backwards.

    The teacher is asked `abc>`, and, where the student has then answered `cbb` to its message
    `cba`, `abc,cba,cbb->`: query, message, answer and mark. The student is asked `cba=`, and in the
    second round, behind the message `ccc`, `cba,cbb,ccc=`.
    """

    name = "lesson"
    teaches = True

    def __init__(self, split: str = "train", *, length: int = 3, symbols: int = 8) -> None:
        super().__init__(split, length=length, symbols=symbols)
        signs = ASK + SEPARATE + REPEAT + RIGHT + WRONG
        self.tokenizer = SymbolTokenizer(self.alphabet + signs)
        self.max_prompt_tokens = 9 * (length + 2)  # room for eight responses with marks

    def verdict(self, reward: float) -> str:
        """Return `+` for a reward of 1, else `-`."""
        return RIGHT if reward >= 1 else WRONG

    def feedback_prompt(self, query: str, responses: Sequence[str], verdicts: Sequence[str]) -> str:
        """Return the query, all messages, and all answers with their marks."""
        said = [text + mark for text, mark in zip(responses, verdicts, strict=True)]
        return SEPARATE.join([query, *said]) + ASK

    def optimum(self, observers: int = 1, knowledge_transfer: bool = True) -> tuple[float, ...]:
        """Return what `toy` does; a teacher's messages earn nothing."""
        teacher, *students = super().optimum(observers, knowledge_transfer)
        return (0.0 if students else teacher, *students)
