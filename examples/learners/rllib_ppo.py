"""RLlib's PPO on its new API stack, one policy per agent, on the parallel form.

python examples/learners/rllib_ppo.py [--seed 0] [--episodes 16384] [--smoke]
"""

import argparse

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from torch import nn

import cory_env


class MaskedNetwork(TorchRLModule, ValueFunctionAPI):
    def setup(self):
        self.actor, self.critic = (  # 84 inputs: seven places of twelve tokens
            nn.Sequential(nn.Flatten(), nn.Linear(84, 128), nn.ReLU(), nn.Linear(128, size))
            for size in (self.action_space.n, 1)
        )

    def _forward(self, batch, **kwargs):
        logits, legal = self.actor(batch["obs"]["observation"]), batch["obs"]["action_mask"]
        return {"action_dist_inputs": logits.masked_fill(legal == 0, -1e9)}

    def compute_values(self, batch, embeddings=None):
        return self.critic(batch["obs"]["observation"]).squeeze(-1)


def main() -> None:
    """Train both; a pair whose observer did not read could not bring the reward above 1.125."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=16384)
    parser.add_argument("--smoke", action="store_const", const=256, dest="episodes")
    arguments = parser.parse_args()
    options = {"task": "toy", "one_hot": True, "max_prompt_tokens": 4}
    ray.tune.register_env("toy", lambda _: ParallelPettingZooEnv(cory_env.parallel_env(**options)))
    agents = {"pioneer_0", "observer_0"}
    config = PPOConfig().environment("toy").reporting(metrics_num_episodes_for_smoothing=256)
    config.multi_agent(policies=agents, policy_mapping_fn=lambda agent, *_, **__: agent)
    config.rl_module(rl_module_spec=RLModuleSpec(MaskedNetwork))
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=64)
    config.training(gamma=1.0, lambda_=0.95, lr=3e-3, use_kl_loss=False, num_epochs=10)
    config.training(train_batch_size_per_learner=1536).debugging(seed=64 * arguments.seed)
    ray.init(num_cpus=1, include_dashboard=False)
    algorithm, episodes = config.build_algo(), 0
    print("episodes,reward")
    while episodes < arguments.episodes:
        results = algorithm.train()["env_runners"]
        episodes += results["num_episodes"]
        print(f"{episodes},{results['episode_return_mean'] / len(agents):.3f}", flush=True)


if __name__ == "__main__":
    main()
