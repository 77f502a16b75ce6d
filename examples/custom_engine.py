"""An engine of your own: it samples with weights that lag behind, as asynchronous training does.

An engine takes over a policy's weights in `sync` and samples in `generate`. What it declares at its
top is asked by the configuration. The tokens come from an older policy than the one that learns:
`importance_cap` bounds their weights, and `llm_0/sampler_gap` of metrics.jsonl shows the lag.

    python examples/custom_engine.py [--smoke]
    python -m agents train toy --import examples/custom_engine.py --engine lagging
"""

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from agents import TrainConfig, train
from agents.config.presets import preset_values
from agents.engines import Engine, register_engine
from agents.policies.base import Policy
from agents.policies.llm import Generated


def overwrite(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Give a policy other weights."""
    with torch.no_grad():
        for name, parameter in policy.parameters().items():
            parameter.copy_(weights[name])


@register_engine("lagging")
class LaggingEngine(Engine):
    """The model that learns, as it was one iteration ago."""

    importance_cap = 2.0

    def __init__(self) -> None:
        self.versions: dict[str, list[dict[str, Tensor]]] = {}

    def sync(self, policy: Policy) -> None:
        """Keep the present weights beside those of the last iteration."""
        now = {name: p.detach().clone() for name, p in policy.parameters().items()}
        self.versions[policy.name] = [*self.versions.get(policy.name, [])[-1:], now]

    def generate(self, policy: Policy, prompts: Sequence[str], **options) -> Generated:
        """Sample one response to each prompt."""
        versions = self.versions[policy.name]
        try:
            overwrite(policy, versions[0])
            return policy.generate(prompts, **options)
        finally:
            overwrite(policy, versions[-1])


if __name__ == "__main__":
    size = {"iterations": 2, "evaluation_queries": 8} if "--smoke" in sys.argv else {}
    values = {**preset_values("toy"), "engine": "lagging", "out": "runs/lagging"}
    train(TrainConfig(**{**values, **size}))
