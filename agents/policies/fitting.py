"""Check before the first batch that prompts and responses fit the contexts of their policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice

from agents.policies.llm import LLMPolicy
from cory_env import Example
from cory_env.game import GameState, Rules
from cory_env.types import Response

_LONGEST = 64
"""Prompts that are read for each role: the longest by characters, which is nearly by tokens."""


def check_prompts(
    rules: Rules, examples: Sequence[Example], readers: Mapping[str, Sequence[LLMPolicy]]
) -> None:
    """Check that the longest prompts fit, those of observers behind responses of full length.

    Args:
        rules: of the game.
        examples: what may be asked.
        readers: who may have each role.

    Raises:
        ValueError: if one does not; it says what would help.
    """
    agents = rules.agents * rules.rounds
    verdict = rules.task.verdict(0.0) if rules.judges else ""
    for turn, role in enumerate(rules.turns):
        earlier = (Response(_full_response(rules, examples), (), False, verdict),) * turn
        prompts = [rules.prompt(GameState(e, agents, earlier)) for e in examples]
        longest = sorted(prompts, key=len)[-_LONGEST:]
        try:
            for prompt in longest:
                rules.check_prompt(prompt, role)
            for policy in {id(policy.backbone): policy for policy in readers[role]}.values():
                policy.encode(longest, rules.max_new_tokens)
        except ValueError as error:
            if not (turn and rules.knowledge_transfer):
                raise
            raise ValueError(
                f"{error} That is {role} behind {turn} responses of max_new_tokens="
                f"{rules.max_new_tokens}: pass a lower --max-new-tokens, fewer --observers or "
                "--rounds, or --no-knowledge-transfer."
            ) from error


def _full_response(rules: Rules, examples: Sequence[Example]) -> str:
    """Return a text of about as many tokens as a response may have."""
    ids = rules.tokenizer.encode(max((e.query for e in examples), key=len), begin=False)
    return rules.tokenizer.decode(list(islice(cycle(ids), rules.max_new_tokens)))
