"""BenchMARL on the parallel form: MAPPO, IPPO, QMIX or VDN by changing one word.

python examples/learners/benchmarl_any.py [--algorithm qmix] [--seed 0] [--episodes N] [--smoke]
"""

import argparse
import random
import tempfile
from dataclasses import replace

from benchmarl.algorithms import algorithm_config_registry
from benchmarl.environments.pettingzoo.common import PettingZooClass
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from torch import nn
from torchrl import logger
from torchrl_env import make_env

COMMON = {"gamma": 1.0, "lr": 3e-3, "share_policy_params": False, "evaluation": False}
ON_POLICY = {"on_policy_collected_frames_per_batch": 1200, "on_policy_n_minibatch_iters": 10}
OFF_POLICY = {"off_policy_collected_frames_per_batch": 1200, "off_policy_n_optimizer_steps": 120}


class Toy(PettingZooClass):
    def get_env_fun(self, num_envs, continuous_actions, seed, device):
        return lambda: make_env(random.randrange(2**31))  # by `seed` all games would be the same

    def supports_discrete_actions(self):
        return True


class Printer(Callback):
    episodes = 0

    def on_batch_collected(self, batch):
        rewards = batch["next", "agents", "reward"][batch["next", "agents", "done"]]
        self.episodes += len(rewards) // 2
        print(f"{self.episodes},{rewards.mean():.3f}", flush=True)


def main() -> None:
    """Train both; a pair whose observer did not read could not bring the reward above 1.125."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithm", choices=("mappo", "ippo", "qmix", "vdn"), default="mappo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=12000)
    parser.add_argument("--smoke", action="store_const", const=200, dest="episodes")
    arguments = parser.parse_args()
    logger.setLevel("WARNING")
    task = Toy("toy", {"max_cycles": 6})  # steps of an episode: three tokens of each agent
    algorithm = algorithm_config_registry[arguments.algorithm].get_from_yaml()
    network = MlpConfig([128], nn.Linear, nn.ReLU, num_feature_dims=2)
    run = {"max_n_frames": 6 * arguments.episodes, "loggers": [], "save_folder": tempfile.mkdtemp()}
    config = replace(ExperimentConfig.get_from_yaml(), **COMMON, **ON_POLICY, **OFF_POLICY, **run)
    print("episodes,reward")
    Experiment(task, algorithm, network, arguments.seed, config, callbacks=[Printer()]).run()


if __name__ == "__main__":
    main()
