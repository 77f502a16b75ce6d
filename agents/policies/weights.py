"""Weights of policies by name, as checkpoints hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from agents.distributed.sharding import spread_like
from agents.policies.base import Policy

Weights = dict[str, Tensor]
"""Of one policy, by the names of its parameters."""


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def check_policy_tensors(policies: Mapping[str, Policy], tensors: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint is of these policies.

    Raises:
        ValueError: if it is of another model or configuration.
    """
    expected = {
        f"policy/{name}/{key}": parameter.shape
        for name, policy in policies.items()
        for key, parameter in policy.parameters().items()
    }
    found = {key: t.shape for key, t in tensors.items() if key.startswith("policy/")}
    if expected != found:
        odd = sorted(key for key in expected | found if expected.get(key) != found.get(key))[0]
        raise ValueError(
            f"Expected a checkpoint of this model, got one of another: {odd} has shape "
            f"{tuple(found[odd]) if odd in found else 'none'} instead of "
            f"{tuple(expected[odd]) if odd in expected else 'none'}."
        )


@torch.no_grad()
def load_policies(policies: Mapping[str, Policy], tensors: Mapping[str, Tensor]) -> None:
    """Give policies the weights of a checkpoint.

    Raises:
        ValueError: if it is of another model or configuration.
    """
    check_policy_tensors(policies, tensors)
    for name, policy in policies.items():
        for key, parameter in policy.parameters().items():
            parameter.copy_(spread_like(parameter, tensors[f"policy/{name}/{key}"]))


def copied(policy: Policy) -> Weights:
    """Return the present weights of a policy, which stay as they are."""
    return {key: parameter.detach().clone() for key, parameter in policy.parameters().items()}


@contextmanager
def playing_as(policies: Mapping[str, Policy], others: Mapping[str, Weights]) -> Iterator[None]:
    """Give policies other weights for a while, and back what they had.

    Args:
        policies: by name.
        others: of some of them.
    """
    present: dict[str, Weights] = {}
    try:
        for name, weights in others.items():
            present[name] = copied(policies[name])
            _load(policies[name], weights)
        yield
    finally:
        for name, weights in present.items():
            _load(policies[name], weights)


@torch.no_grad()
def _load(policy: Policy, weights: Weights) -> None:
    for key, parameter in policy.parameters().items():
        parameter.copy_(weights[key])
