"""Gold answers as the responses that a policy would have given."""

from __future__ import annotations

from collections.abc import Sequence

from agents.policies.base import Policy
from cory_env.tokenization import TransformersCodec


def gold_ids(policy: Policy, text: str | None, max_new_tokens: int) -> list[int]:
    """Return a gold answer as token ids behind a prompt, its end token included.

    Args:
        policy: who should say it.
        text: the answer.
        max_new_tokens: T; a longer answer is cut.

    Raises:
        ValueError: if there is none.
    """
    if text is None:
        raise ValueError("Expected a gold answer to every query, got one without: leave it out.")
    codec = TransformersCodec(policy.backbone.tokenizer)  # type: ignore[arg-type]
    end = int(policy.backbone.stop_ids[0])
    return [*codec.encode(text, begin=False), end][:max_new_tokens]


def steps(policy: Policy, ids: Sequence[int], step_end: str) -> list[list[int]]:
    """Cut a response behind every token whose text ends a step; the parts are the response.

    Args:
        policy: whose tokens they are.
        ids: of the response.
        step_end: how a step ends, such as `;`.
    """
    tokenizer, parts = policy.backbone.tokenizer, [[]] if ids else []
    for place, token in enumerate(ids):
        parts[-1].append(token)
        ends = str(tokenizer.decode([token])).rstrip().endswith(step_end)
        if ends and place + 1 < len(ids):
            parts.append([])
    return parts


def first_difference(
    gold: Sequence[list[int]], found: Sequence[list[int]]
) -> tuple[list[int], list[int], list[int]] | None:
    """Return where two responses part: their common steps, the gold next one, and the other.

    None if they are the same, or one has ended where the other goes on.
    """
    for place, (right, wrong) in enumerate(zip(gold, found, strict=False)):
        if right != wrong:
            return [token for step in gold[:place] for token in step], right, wrong
    return None
