"""What an algorithm is: it prepares rollouts and gives a loss. It never sees the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from agents.backbone import Backbone
from agents.config import TrainConfig
from agents.critic import Critic
from agents.kl import KLController
from agents.policy import LLMPolicy
from agents.types import LossOutput, Rollout, TrainBatch


class Algorithm(ABC):
    """A learning rule over rollouts."""

    central_critic: bool
    """Whether one critic serves all policies and reads the joint history."""

    def __init__(
        self,
        config: TrainConfig,
        backbone: Backbone,
        policies: Mapping[str, LLMPolicy],
        critics: Mapping[str, Critic],
        controllers: Mapping[str, KLController],
        max_new_tokens: int,
    ):
        """Take hold of what learns.

        Args:
            config: of the run.
            backbone: of all policies.
            policies: by name.
            critics: by policy name; the same object for all if the critic is central.
            controllers: KL coefficients by policy name.
            max_new_tokens: T, the longest response of the game.
        """
        self.config = config
        self.backbone = backbone
        self.policies = policies
        self.critics = critics
        self.controllers = controllers
        self.max_new_tokens = max_new_tokens

    @abstractmethod
    def prepare(self, rollout: Rollout) -> dict[str, TrainBatch]:
        """Return, per policy, a batch to learn from; no gradient is recorded."""

    @abstractmethod
    def loss(self, policy: str, batch: TrainBatch) -> LossOutput:
        """Return the loss of one policy (and its critic) on some episodes of its batch."""
