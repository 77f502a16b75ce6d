"""The variants of `compare`: each returns the fields of the configuration that it changes.

Pairs are what the paper has with one thing changed, whatever the preset starts from: later agents'
rewards as they were sampled, unless the name says `value`.
"""

from __future__ import annotations

from typing import Any

_SAMPLED = {"handover": "sampled"}


def ppo() -> dict[str, Any]:
    """A single agent that learns by PPO: the baseline."""
    return {"algorithm": "ppo", "observers": 0, **_SAMPLED}


def cory_mappo() -> dict[str, Any]:
    """A pair with one critic that reads what both have read and written."""
    return {"algorithm": "mappo", **_SAMPLED}


def cory_ippo() -> dict[str, Any]:
    """A pair with a critic each: the paper's form."""
    return {"algorithm": "ippo", **_SAMPLED}


def cory_happo() -> dict[str, Any]:
    """A pair that learns in turn order, each against what the ones before have become."""
    return {"algorithm": "happo", **_SAMPLED}


def no_transfer() -> dict[str, Any]:
    """Observers do not read the earlier responses."""
    return {"knowledge_transfer": False, **_SAMPLED}


def no_exchange() -> dict[str, Any]:
    """Roles are never exchanged."""
    return {"swap": "never", **_SAMPLED}


def plateau() -> dict[str, Any]:
    """Roles are exchanged once the team's reward no longer rises."""
    return {"swap": "plateau", **_SAMPLED}


def individual() -> dict[str, Any]:
    """Each agent earns its own reward only."""
    return {"reward_sharing": "individual", **_SAMPLED}


def mean() -> dict[str, Any]:
    """All agents earn the mean of their rewards."""
    return {"reward_sharing": "mean", **_SAMPLED}


def competitive() -> dict[str, Any]:
    """Each agent earns its own reward less those of the others."""
    return {"reward_sharing": "-1", **_SAMPLED}


def shared_credit() -> dict[str, Any]:
    """An agent's return keeps what was decided before its turn."""
    return {"credit": "shared", **_SAMPLED}


def value_handover() -> dict[str, Any]:
    """The critic's value of the next agent's first state stands for what later agents earn."""
    return {"handover": "value"}


def solo_kl() -> dict[str, Any]:
    """Observers are held to what the reference says to the query alone."""
    return {"kl_prompt": "solo", **_SAMPLED}


def individual_solo_kl() -> dict[str, Any]:
    """`individual` and `solo-kl` together."""
    return {**individual(), **solo_kl()}


def value_solo_kl() -> dict[str, Any]:
    """`value-handover` and `solo-kl` together."""
    return {**solo_kl(), **value_handover()}


def three() -> dict[str, Any]:
    """A chain of three agents."""
    return {"observers": 2, **_SAMPLED}
