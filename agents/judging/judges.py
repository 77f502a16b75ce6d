"""Who says which of two responses is better: a reward, a language model, or a function of yours."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from agents.config.plugins import import_plugins
from agents.config.reward_terms import RUBRIC
from agents.config.sources import check_repository
from agents.models.copies import FullBackbone
from agents.models.loading import load_base, pick_device, pick_dtype
from agents.policies.llm import LLMPolicy
from agents.rewards.rubric import RubricReward
from agents.types import TokenBatch
from cory_env.game import score
from cory_env.names import unknown_name
from cory_env.registry import failure
from cory_env.tokenization import TransformersCodec
from cory_env.types import Example, Reward

Choice = Literal["A", "B", "tie"]
CHOICES: tuple[Choice, ...] = ("A", "B", "tie")


Judge = Callable[[Sequence[Example], Sequence[str], Sequence[str]], list[Choice]]
"""From N examples and two responses to each to which of them is better."""


QUESTION = """Two responses to the same query:

Query: {query}

Response A: {a}

Response B: {b}

Which response is better, A or B? Answer with one letter."""


_LM = "lm:"


_BATCH = 32


def build_judge(name: str, reward: Reward, device: str) -> Judge:
    """Return a judge by its name.

    Args:
        name: `task`, `lm:MODEL`, `rubric:FILE`, or `FILE.py:FUNCTION`.
        reward: what `task` judges by.
        device: for a language model.

    Raises:
        ValueError: if there is none.
    """
    if name == "task":
        return by_score(reward)
    if name.startswith(RUBRIC):
        return by_score(RubricReward(name.removeprefix(RUBRIC)))
    if name.startswith(_LM):
        return LanguageModelJudge(name.removeprefix(_LM), device)
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _own(name, _function(Path(path), function))
    raise ValueError(
        unknown_name("a judge", ["task", "lm:MODEL", "rubric:FILE", "FILE.py:FUNCTION"], name)
    )


def check_judge(name: str) -> None:
    """Check what can be told of a judge before anything is loaded.

    Raises:
        ValueError: if there is no such judge.
    """
    if name.startswith(_LM) and "/" in name:
        check_repository("causal language model", name.removeprefix(_LM))
    elif name != "task" and not name.startswith((_LM, RUBRIC)):
        path = Path(name.rpartition(":")[0])
        if path.suffix != ".py" or not path.is_file():
            kinds = ["task", "lm:MODEL", "rubric:FILE", "FILE.py:FUNCTION"]
            raise ValueError(unknown_name("a judge", kinds, name))


def by_score(reward: Reward) -> Judge:
    """Return a judge that prefers what a reward pays more for."""

    def judge(
        examples: Sequence[Example], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Choice]:
        gaps = score(reward, examples, firsts) - score(reward, examples, seconds)
        return ["tie" if gap == 0 else "A" if gap > 0 else "B" for gap in gaps]

    return judge


def _function(path: Path, name: str) -> Callable[..., object]:
    import_plugins(str(path))
    modules = [m for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
    module = next(m for m in modules if Path(str(m.__file__)).resolve() == path.resolve())
    function = getattr(module, name, None)
    if not callable(function):
        functions = [n for n, value in vars(module).items() if callable(value)]
        raise ValueError(unknown_name(f"a function of {path}", functions, name))
    return function


def _own(name: str, function: Callable[..., object]) -> Judge:
    """Return a judge that is a function of the user's: from queries and responses to choices."""

    def judge(
        examples: Sequence[Example], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Choice]:
        try:
            found = function([e.query for e in examples], list(firsts), list(seconds))
            answers = list(cast("Sequence[Choice]", found))
        except Exception as error:  # a plug-in may raise anything: this is the boundary
            raise ValueError(
                f"Expected the judge {name} to answer, got {failure(error)}."
            ) from error
        if len(answers) != len(examples):
            raise ValueError(
                f"Expected the judge {name} to answer each of {len(examples)} pairs, got "
                f"{len(answers)} answers."
            )
        for answer in answers:
            if answer not in CHOICES:
                raise ValueError(unknown_name(f"an answer of the judge {name}", CHOICES, answer))
        return answers

    return judge


class LanguageModelJudge:
    """Asks a language model, and takes the letter that it would rather say."""

    def __init__(self, model: str, device: str):
        place = pick_device(device)
        dtype = pick_dtype("auto", place)
        base, tokenizer = load_base(model, torch.float32)
        backbone = FullBackbone(base, tokenizer, ["judge"], dtype=dtype, device=place)
        self._policy = LLMPolicy(name="judge", backbone=backbone)
        codec = TransformersCodec(tokenizer)  # type: ignore[arg-type]
        # Behind a chat template the answer is a text of its own.
        space = "" if tokenizer.chat_template else " "
        self._letters = [codec.encode(space + letter, begin=False)[0] for letter in "AB"]
        if len({*self._letters}) == 1:
            raise ValueError(
                f"Expected a judge whose tokenizer tells A from B, got {model}: name another model."
            )

    def __call__(
        self, examples: Sequence[Example], firsts: Sequence[str], seconds: Sequence[str]
    ) -> list[Choice]:
        """Return which of two responses the model says is better."""
        rows = zip(examples, firsts, seconds, strict=True)
        prompts = [QUESTION.format(query=e.query, a=a, b=b) for e, a, b in rows]
        gaps: list[float] = []
        for start in range(0, len(prompts), _BATCH):
            a, b = self._log_probs(prompts[start : start + _BATCH])
            gaps += (a - b).tolist()
        return ["tie" if gap == 0 else "A" if gap > 0 else "B" for gap in gaps]

    @torch.no_grad()
    def _log_probs(self, prompts: Sequence[str]) -> list[Tensor]:
        """Return (B,) log-probs of either letter behind the prompts."""
        ids, mask = self._policy.encode(prompts, 1)
        found: list[Tensor] = []
        for letter in self._letters:
            asked = torch.full((len(ids), 1), letter, device=ids.device)
            batch = TokenBatch(
                prompt_ids=ids,
                prompt_mask=mask,
                response_ids=asked,
                response_mask=torch.ones_like(asked, dtype=torch.bool),
            )
            found.append(self._policy.log_probs(batch)[:, 0])
        return found
