"""Scores of given texts: what a policy thinks of each of some candidates behind a prompt.

A candidate's score is the log-prob of its tokens where prompt and candidate are tokenised together
(SayCan, arXiv 2204.01691; TWOSOME, arXiv 2401.14151, section 4.1). Where the last characters of the
prompt and the first of the candidate are one token, the candidate begins with that token, and the
prompt's share of it is scored, too: tokenised apart, they would be a text that no model has read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agents.maths.distributions import sampling_log_probs
from agents.models.backbone import token_positions
from agents.models.chat import prompt_ids
from agents.policies.base import CHUNK_ROW_TOKENS, CHUNK_TOKENS, Policy
from cory_env.tokenization import TransformersCodec

Normalise = Literal["sum", "token", "word"]


@dataclass(frozen=True, slots=True)
class Span:
    """A candidate behind its prompt."""

    ids: tuple[int, ...]
    """Of both together."""
    start: int
    """Place of the candidate's first token, at least 1."""


def spans(policy: Policy, label: str, prompt: str, candidates: Sequence[str]) -> list[Span]:
    """Tokenise a prompt with each of its candidates.

    Behind a chat template's end of the prompt a candidate begins anew, as what is sampled does.

    Args:
        policy: who reads them.
        label: what it reads before every prompt.
        prompt: the text.
        candidates: C texts.

    Raises:
        ValueError: if a candidate has no token, prompt and candidate are longer than the model's
            context, or the model reads nothing before the candidate.
    """
    tokenizer = policy.backbone.tokenizer
    codec = TransformersCodec(tokenizer)  # type: ignore[arg-type]
    (before,) = prompt_ids(tokenizer, [label + prompt])
    found: list[Span] = []
    for candidate in candidates:
        if tokenizer.chat_template:
            ids, start = [*before, *codec.encode(candidate, begin=False)], len(before)
        else:
            ids = codec.encode(label + prompt + candidate)
            start = _start(policy, label + prompt, candidate, ids, before)
        if start < 1 or start >= len(ids):
            raise ValueError(
                f"Expected a prompt and a candidate of at least one token each, got {prompt!r} and "
                f"{candidate!r}: give a longer prompt, or another text."
            )
        if len(ids) > policy.backbone.context:
            raise ValueError(
                f"Expected a prompt and its answers to fit the model's context of "
                f"{policy.backbone.context} tokens, got {len(ids)} tokens, {prompt[:60]!r}…: "
                "shorten what is described."
            )
        found.append(Span(tuple(ids), start))
    return found


def _start(policy: Policy, prompt: str, candidate: str, ids: list[int], before: list[int]) -> int:
    """Return the place of the first token that reaches behind the prompt."""
    tokenizer = policy.backbone.tokenizer
    if tokenizer.is_fast:
        joint = tokenizer(
            prompt + candidate,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
        )
        special = len(ids) - len(joint["input_ids"])  # type: ignore[arg-type]
        if special >= 0 and ids[special:] == joint["input_ids"]:
            ends = [end for _, end in joint["offset_mapping"]]  # type: ignore[union-attr]
            return special + sum(end <= len(prompt) for end in ends)
    # Without offsets: from where the ids are others than those of the prompt alone.
    pairs = zip(ids, before, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(before)))


def divisors(candidates: Sequence[str], rows: Sequence[Sequence[Span]], how: Normalise) -> Tensor:
    """Return what the scores of candidates are divided by, (U, C) float32.

    Args:
        candidates: C texts.
        rows: (U, C) spans.
        how: `sum`: 1. `token`: the number of scored tokens. `word`: that of the candidate's words,
            at least 1 (TWOSOME, section 4.2).
    """
    if how == "word":
        return torch.tensor([[float(max(1, len(c.split()))) for c in candidates]] * len(rows))
    if how == "token":
        return torch.tensor([[float(len(s.ids) - s.start) for s in row] for row in rows])
    return torch.ones(len(rows), len(candidates))


def score_spans(policy: Policy, rows: Sequence[Sequence[Span]]) -> Tensor:
    """Return the log-probs of candidates, (U, C) float32, differentiably.

    What several candidates read is read once: actions of one token each cost one row a prompt.
    Scored is at the policy's temperature over the whole vocabulary: outside a nucleus of `top_p` a
    candidate would be impossible.

    Args:
        policy: who scores.
        rows: (U, C) spans.
    """
    texts: dict[tuple[int, ...], int] = {}
    places: dict[tuple[int, int], int] = {}
    at: list[int] = []
    tokens: list[int] = []
    cells: list[int] = []
    flat = [span for row in rows for span in row]
    for cell, span in enumerate(flat):
        text = texts.setdefault(span.ids[:-1], len(texts))
        for n in range(span.start, len(span.ids)):
            at.append(places.setdefault((text, n - 1), len(places)))
            tokens.append(span.ids[n])
            cells.append(cell)
    hidden = _hidden(policy, list(texts), list(places))
    device = hidden.device
    chosen = _log_probs(
        policy, hidden, torch.tensor(at, device=device), torch.tensor(tokens, device=device)
    )
    sums = torch.zeros(len(flat), device=device)
    return sums.index_add(0, torch.tensor(cells, device=device), chosen).view(len(rows), -1)


def _log_probs(policy: Policy, hidden: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probs (N,) of tokens (N,) at places (N,) of hidden states (P, D).

    Distributions of `CHUNK_TOKENS` places are in memory at a time, whatever their number.
    """

    def chunk(states: Tensor, start: int, rows: Tensor) -> Tensor:
        log_probs = sampling_log_probs(
            policy.backbone.logits(policy.adapter, states), temperature=policy.temperature
        )
        return log_probs[at[rows] - start, tokens[rows]]

    found = hidden.new_zeros(len(at), dtype=torch.float32)
    for start in range(0, len(hidden), CHUNK_TOKENS):
        states = hidden[start : start + CHUNK_TOKENS]
        rows = ((at >= start) & (at < start + CHUNK_TOKENS)).nonzero()[:, 0]
        if torch.is_grad_enabled() and len(hidden) > CHUNK_TOKENS:
            part = cast("Tensor", checkpoint(chunk, states, start, rows, use_reentrant=False))
        else:
            part = chunk(states, start, rows)
        found = found.index_copy(0, rows, part)
    return found


def _hidden(policy: Policy, texts: list[tuple[int, ...]], places: list[tuple[int, int]]) -> Tensor:
    """Return the last hidden states (P, D) at places (text, token) of texts."""
    backbone = policy.backbone
    width = max(map(len, texts))
    pad = backbone.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(t)) + list(t) for t in texts], device=backbone.device)
    lengths = torch.tensor([len(t) for t in texts], device=backbone.device)
    mask = torch.arange(width, device=backbone.device)[None] >= width - lengths[:, None]
    size = len(ids) if torch.is_grad_enabled() else max(1, CHUNK_ROW_TOKENS // width)
    states = [
        backbone.hidden(policy.adapter, i, m, token_positions(m))
        for i, m in zip(ids.split(size), mask.split(size), strict=True)
    ]
    of = torch.tensor([text for text, _ in places], device=backbone.device)
    at = torch.tensor([n + width - len(texts[text]) for text, n in places], device=backbone.device)
    return torch.cat(states)[of, at]


def score_texts(
    policy: Policy,
    prompts: Sequence[str],
    candidates: Sequence[str],
    *,
    normalise: Normalise = "sum",
    label: str = "",
) -> Tensor:
    """Score candidates behind prompts, differentiably; equal prompts are scored once.

    Args:
        policy: who scores.
        prompts: B texts.
        candidates: C texts.
        normalise: what log-probs are divided by: see `divisors`.
        label: what the policy reads before every prompt.

    Returns:
        (B, C) float32. Divided log-probs are no log-probs: compare them within a row.

    Raises:
        ValueError: see `spans`.
    """
    if not prompts or not candidates:
        raise ValueError(
            f"Expected at least one prompt and one candidate, got {len(prompts)} and "
            f"{len(candidates)}."
        )
    row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    rows = [spans(policy, label, prompt, candidates) for prompt in row_of]
    scores = score_spans(policy, rows)
    scores = scores / divisors(candidates, rows, normalise).to(scores.device)
    return scores[torch.tensor([row_of[prompt] for prompt in prompts], device=scores.device)]
