"""TorchRL's PPO on the parallel form: MAPPO, or IPPO with `--algorithm ippo`.

python examples/learners/torchrl_ppo.py [--algorithm mappo] [--seed 0] [--episodes 24000] [--smoke]
"""

import argparse

from tensordict.nn import TensorDictModule
from torch import manual_seed, nn, no_grad, optim, randint
from torchrl.envs import SerialEnv
from torchrl.modules import MaskedCategorical, MultiAgentMLP, ProbabilisticActor
from torchrl.objectives import ClipPPOLoss
from torchrl_env import make_env


def network(size, name, centralised=False):
    """Return one network per agent; 84 inputs are seven places of twelve tokens."""
    shape = {"share_params": False, "depth": 1, "num_cells": 256, "activation_class": nn.ReLU}
    nets = MultiAgentMLP(84, size, n_agents=2, centralised=centralised, **shape)
    return TensorDictModule(nn.Sequential(nn.Flatten(-2), nets), [("observation",) * 2], [name])


def main() -> None:
    """Train both; a pair whose observer did not read could not bring the reward above 1.125."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithm", choices=("mappo", "ippo"), default="mappo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=24000)
    parser.add_argument("--smoke", action="store_const", const=256, dest="episodes")
    arguments = parser.parse_args()
    manual_seed(arguments.seed)
    games, episodes = SerialEnv(20, make_env), 0
    games.set_seed(arguments.seed)
    keys = {"logits": "logits", "mask": "action_mask"}
    sampling = {"distribution_class": MaskedCategorical, "return_log_prob": True}
    actor = ProbabilisticActor(network(12, "logits"), keys, **sampling)
    critic = network(1, "state_value", centralised=arguments.algorithm == "mappo")
    loss = ClipPPOLoss(actor, critic, normalize_advantage=True)
    loss.make_value_estimator(gamma=1.0, lmbda=0.8)
    optimizer = optim.Adam(loss.parameters(), lr=2e-3)
    team = TensorDictModule(actor, ["agents"], ["agents"])
    print("episodes,reward")
    while episodes < arguments.episodes:
        with no_grad():
            rollout = games.rollout(60, team, break_when_any_done=False)
            batch = rollout["agents"].set("next", rollout["next", "agents"])
            loss.value_estimator(batch)
        done = batch["next", "done"]
        episodes += int(done[:, :, 0].sum())
        print(f"{episodes},{batch['next', 'reward'][done].mean():.3f}", flush=True)
        batch = batch.flatten(0, 1)
        for _ in range(40):
            parts = loss(batch[randint(len(batch), (300,))])
            optimizer.zero_grad()
            (parts["loss_objective"] + parts["loss_critic"] + parts["loss_entropy"]).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
