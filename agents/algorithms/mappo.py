"""MAPPO: clipped PPO with one critic for all policies (Yu et al. 2022, arXiv 2103.01955)."""

from __future__ import annotations

from agents.algorithms.configs import MAPPOConfig
from agents.algorithms.ippo import IPPO


class MAPPO(IPPO):
    """PPO with one central critic, which is told the seat and reads the joint history."""

    critic = "central"
    Config = MAPPOConfig
