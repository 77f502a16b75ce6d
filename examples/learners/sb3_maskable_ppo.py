"""Two of sb3-contrib's MaskablePPO learn together: each trains at its seat against the other.

pip install -c constraints.txt -e ".[sb3]"
python examples/learners/sb3_maskable_ppo.py [--seed 0] [--rounds 40] [--smoke]

One learner trains at a time, so the two take turns. A pair whose observer did not read could not
bring the reward above 1.125.
"""

import argparse

from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_util import make_vec_env

import cory_env

SEATS = ("pioneer_0", "observer_0")
EPISODES = 1024  # of each seat in a round
OPTIONS = {"task": "toy", "one_hot": True, "max_prompt_tokens": 4}


def evaluate(models, num_episodes):
    """Return what each agent is paid in the mean."""
    env, total = cory_env.env(**OPTIONS, split="test"), 0.0
    for episode in range(num_episodes):
        env.reset(seed=episode)
        for agent in env.agent_iter():
            observation, reward, termination, _, _ = env.last()
            env.step(None if termination else int(models[agent].predict(observation)[0]))
            total += reward / len(SEATS)
    return total / num_episodes


def main() -> None:
    """Train both seats by turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    models, seed = {}, arguments.seed

    def seat_env(seat, other):
        """Return 64 games in which a seat learns and the other plays what it has learnt."""
        partner = lambda observation, _: int(models[other].predict(observation)[0])  # noqa: E731
        return make_vec_env(lambda: cory_env.gym_env(seat, partner, **OPTIONS), 64, seed)

    ppo = {"learning_rate": 2e-3, "n_steps": 3 * EPISODES // 64, "batch_size": 512, "gamma": 1.0}
    for seat, other in (SEATS, SEATS[::-1]):
        models[seat] = MaskablePPO("MultiInputPolicy", seat_env(seat, other), seed=seed, **ppo)
    print("episodes,reward")
    for done in range(1, 2 if arguments.smoke else arguments.rounds + 1):
        for model in models.values():
            model.learn(3 * EPISODES, reset_num_timesteps=False)  # a response has three tokens
        print(f"{done * len(SEATS) * EPISODES},{evaluate(models, 256):.3f}", flush=True)


if __name__ == "__main__":
    main()
