"""GSPO: GRPO with one ratio per response (Zheng et al. 2025, arXiv 2507.18071)."""

from __future__ import annotations

from agents.algorithms.configs import GSPOConfig
from agents.algorithms.grpo import GRPO


class GSPO(GRPO):
    """GRPO with one ratio per response, the geometric mean of its tokens'.

    Source: Zheng et al. 2025, arXiv 2507.18071, eq. 5 to 7; clip ranges of section 5.1.
    """

    Config = GSPOConfig
