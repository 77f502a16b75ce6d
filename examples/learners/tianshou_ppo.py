"""Tianshou's PPO, one learner per agent, on the turn-based form.

python examples/learners/tianshou_ppo.py [--seed 0] [--episodes 20480] [--smoke]
"""

import argparse

import numpy as np
import tianshou as ts
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.multiagent.marl import MultiAgentOnPolicyAlgorithm
from tianshou.algorithm.optim import AdamOptimizerFactory
from torch import as_tensor, manual_seed, nn

import cory_env


class Network(nn.Sequential):
    def forward(self, obs, state=None, info=None):
        outputs = super().forward(as_tensor(obs.obs).flatten(1))
        return outputs if outputs.shape[1] == 1 else (outputs, None)  # values, or logits and state


def pay_pioneer(episode):
    """Pay the pioneer at its own last action: Tianshou pays only who acts last of all."""
    last = np.flatnonzero(episode.obs.agent_id == "pioneer_0")[-1]
    episode.rew[last], episode.terminated[last] = episode.rew[-1], True
    return {"rew": episode.rew, "terminated": episode.terminated}


def main() -> None:
    """Train both; a pair whose observer did not read could not bring the reward above 1.125."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20480)
    parser.add_argument("--smoke", action="store_const", const=256, dest="episodes")
    arguments = parser.parse_args()
    manual_seed(arguments.seed)
    np.random.seed(arguments.seed)  # Tianshou shuffles with it
    options = {"task": "toy", "one_hot": True, "max_prompt_tokens": 4}
    games = ts.env.DummyVectorEnv([lambda: ts.env.PettingZooEnv(cory_env.env(**options))] * 64)
    games.seed(64 * arguments.seed)
    tokens, adam, ppos = games.action_space[0], AdamOptimizerFactory(lr=3e-3), []
    for _ in range(2):  # 84 inputs: seven places of twelve tokens
        nets = [Network(nn.Linear(84, 128), nn.ReLU(), nn.Linear(128, n)) for n in (tokens.n, 1)]
        policy = DiscreteActorPolicy(actor=nets[0], action_space=tokens)
        ppos.append(ts.algorithm.PPO(policy=policy, critic=nets[1], optim=adam, gamma=1.0))
    learner = MultiAgentOnPolicyAlgorithm(algorithms=ppos, env=games.workers[0].env)
    learner.policy.is_within_training_step = True
    buffer = ts.data.VectorReplayBuffer(4096, 64)
    collector = ts.data.Collector(learner, games, buffer, on_episode_done_hook=pay_pioneer)
    print("episodes,reward")
    for episodes in range(256, arguments.episodes + 1, 256):
        collector.reset()
        print(f"{episodes},{collector.collect(n_episode=256).returns.mean():.3f}", flush=True)
        learner.update(buffer, batch_size=128, repeat=10)


if __name__ == "__main__":
    main()
