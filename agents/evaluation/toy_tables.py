"""The tables of `toy`, for the oracle: all responses, what they earn, and how likely they are.

A response of `toy` is at most `length` symbols, so all of them can be scored by the reference: one
forward pass over every beginning of a response gives the probabilities of all its continuations.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from agents.maths.exact_solver import Floats, Game
from agents.models.backbone import token_positions
from agents.policies.llm import LLMPolicy
from cory_env import Example, make_reward
from cory_env.tasks.toy import ToyTask
from cory_env.types import Tokenizer

_ROWS = 8192
"""Sequences in one forward pass."""


def every_response(task: ToyTask) -> list[tuple[int, ...]]:
    """Return the ids of all responses: those that end, and those that the limit cuts."""
    tokenizer = _tokenizer(task)
    end, size = tokenizer.eos_token_id, tokenizer.vocab_size
    others = [token for token in range(size) if token != end]
    ended = [
        (*ids, end)
        for n in range(task.max_new_tokens)
        for ids in itertools.product(others, repeat=n)
    ]
    return [*ended, *itertools.product(others, repeat=task.max_new_tokens)]


@torch.no_grad()
def response_log_probs(policy: LLMPolicy, task: ToyTask, prompts: Sequence[str]) -> Floats:
    """Return the log-probability (P, N) of every response to each prompt."""
    responses = every_response(task)
    beginnings = sorted({ids[:n] for ids in responses for n in range(len(ids))})
    place = {ids: i for i, ids in enumerate(beginnings)}
    encoded = [_tokenizer(task).encode(prompt) for prompt in prompts]
    rows = [[*prompt, *beginning] for prompt in encoded for beginning in beginnings]
    parts = [
        _next_log_probs(policy, rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)
    ]
    next_token = np.concatenate(parts).reshape(len(prompts), len(beginnings), -1)
    table = np.zeros((len(prompts), len(responses)))
    for column, ids in enumerate(responses):
        for n, token in enumerate(ids):
            table[:, column] += next_token[:, place[ids[:n]], token]
    return table


def toy_game(reference: LLMPolicy, task: ToyTask) -> Game:
    """Return the game of a pioneer and an observer who does not see the query.

    All strings are asked equally often.

    Args:
        reference: π0, whatever its sampling temperature.
        task: not much longer than 3, with not much more than 8 symbols: the table of the observer
            has the square of all responses.
    """
    rewards = toy_rewards(task)
    return Game(
        pioneer_log_probs=pioneer_table(reference, task),
        observer_log_probs=observer_table(reference, task),
        pioneer_rewards=rewards,
        observer_rewards=rewards[:, None],
    )


def pioneer_table(policy: LLMPolicy, task: ToyTask) -> Floats:
    """Return the log-probabilities (Q, N) of all responses to all queries."""
    return response_log_probs(policy, task, [task.pioneer_prompt(q) for q in _queries(task)])


def observer_table(policy: LLMPolicy, task: ToyTask) -> Floats:
    """Return the log-probabilities (1, N, M) of all responses behind all responses."""
    return response_log_probs(policy, task, [task.observer_prompt("", [t]) for t in _texts(task)])[
        None
    ]


def _queries(task: ToyTask) -> list[str]:
    return ["".join(letters) for letters in itertools.product(task.alphabet, repeat=task.length)]


def _texts(task: ToyTask) -> list[str]:
    return [_tokenizer(task).decode(ids, begin=False) for ids in every_response(task)]


def _tokenizer(task: ToyTask) -> Tokenizer:
    assert task.tokenizer is not None
    return task.tokenizer


def toy_rewards(task: ToyTask) -> Floats:
    """Return what every response to every query earns, (Q, N)."""
    reward, texts = make_reward(task.reward), _texts(task)
    rows = [reward([Example(q, reference=q[::-1])] * len(texts), texts) for q in _queries(task)]
    return np.stack(rows)


def _next_log_probs(policy: LLMPolicy, rows: Sequence[Sequence[int]]) -> Floats:
    """Return (rows, V) log-probabilities of the token after each sequence."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.arange(width) >= width - torch.tensor([len(row) for row in rows])[:, None]
    backbone = policy.backbone
    ids, mask = ids.to(backbone.device), mask.to(backbone.device)
    hidden = backbone.hidden(policy.adapter, ids, mask, token_positions(mask))[:, -1]
    logits = backbone.logits(policy.adapter, hidden).double() / policy.temperature
    return logits.log_softmax(-1).cpu().numpy()
