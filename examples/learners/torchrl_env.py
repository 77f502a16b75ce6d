"""The toy game in TorchRL: the mend that its `PettingZooWrapper` needs, and its own check.

python examples/learners/torchrl_env.py
"""

from pettingzoo.utils import BaseParallelWrapper
from torchrl.envs import ExcludeTransform, MarlGroupMapType, PettingZooWrapper, TransformedEnv
from torchrl.envs.utils import check_env_specs

import cory_env


class WithoutInfos(BaseParallelWrapper):
    """TorchRL makes a tensor of every info that a reset brings, and fails on texts: none, then."""

    def reset(self, seed=None, options=None):
        observations, infos = super().reset(seed, options)
        return observations, {agent: {} for agent in infos}


def make_env(seed=None):
    """Return one game whose agents form a group, as QMIX, VDN and central critics need it."""
    game = WithoutInfos(cory_env.parallel_env(task="toy", one_hot=True, max_prompt_tokens=4))
    group_map = MarlGroupMapType.ALL_IN_ONE_GROUP
    env = PettingZooWrapper(game, return_state=True, group_map=group_map, seed=seed)
    # An empty row says as much, and BenchMARL's networks read arrays of one shape.
    return TransformedEnv(env, ExcludeTransform(("agents", "observation", "attention_mask")))


if __name__ == "__main__":
    check_env_specs(make_env())
