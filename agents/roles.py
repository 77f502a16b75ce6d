"""Role exchange (CORY eq. 5) as a permutation: which policy plays which role in an iteration.

Nothing is saved, reloaded or reset. Optimiser, KL controller, local critic and random state belong
to the policy.
"""

from __future__ import annotations

from collections.abc import Sequence


def assign_roles(
    roles: Sequence[str], policies: Sequence[str], iteration: int, swap_every: int | None
) -> dict[str, str]:
    """Return the policy of each role.

    Args:
        roles: in turn order.
        policies: as many as roles.
        iteration: >= 0.
        swap_every: iterations between two exchanges (T_REx); None never exchanges. Two policies
            change places; more move up one place in turn order.
    """
    shift = 0 if swap_every is None else (iteration // swap_every) % len(policies)
    return {role: policies[(i + shift) % len(policies)] for i, role in enumerate(roles)}
