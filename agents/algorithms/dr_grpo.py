"""Dr. GRPO: GRPO without the divisions that bias it (Liu et al. 2025, arXiv 2503.20783)."""

from __future__ import annotations

from agents.algorithms.configs import DrGRPOConfig
from agents.algorithms.grpo import GRPO


class DrGRPO(GRPO):
    """GRPO "done right": no division by the group's deviation or by the response's length.

    Source: Liu et al. 2025, arXiv 2503.20783, section 3.
    """

    # Differs from Liu et al.: they drop the KL penalty; here `--kl-coef 0` does.
    divides_by_deviation = False
    Config = DrGRPOConfig
