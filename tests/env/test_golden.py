"""A playthrough per task: every public call of an episode, as it was when last looked at.

python -m tests.env.test_golden            # show what has changed
python -m tests.env.test_golden --write    # take it for right
"""

import difflib
import sys
from pathlib import Path

import numpy as np
import pytest

import cory_env
from cory_env.registry import TASKS

FOLDER = Path(__file__).parent.parent / "golden"


def number(value):
    return f"{value:.5g}"


def playthrough(name):
    """Return the text of one episode: a wild pioneer, an observer that knows, a silent one.

    A lesson has two rounds.
    """
    task = cory_env.make_task(name, "test")
    rounds = 2 if task.teaches else 1
    env = cory_env.env(task, observers=2, rounds=rounds, reward_sharing=0.5, render_mode="ansi")
    env.reset(seed=0)
    rules, tokenizer = env.unwrapped.rules, env.unwrapped.rules.tokenizer
    reference = rules.task.sample(np.random.default_rng(0)).reference
    length = min(16, rules.max_new_tokens)
    script = [
        *np.random.default_rng(0).integers(tokenizer.vocab_size, size=length),
        *[tokenizer.eos_token_id] * (length < rules.max_new_tokens),
        *rules.response(reference or " was a joy.", "observer_0").ids,
        tokenizer.eos_token_id,
    ] * rounds
    lines = [f"env: {env}", f"agents: {env.agents}", f"state space: {env.state_space.shape}"]
    lines += [f"action space: {env.action_space(env.agents[0])}"]
    for key, space in env.observation_space(env.agents[0]).items():
        lines.append(f"observation space, {key}: {space.shape} {space.dtype}")
    for action in script:
        observation, reward, _, _, _ = env.last()
        seen = observation["observation"][observation["attention_mask"] == 1].tolist()
        lines += [f"{env.agent_selection} sees {seen}, has {number(reward)}, plays {action}"]
        env.step(action)
    lines += ["", env.render(), ""]
    for agent in env.agents:
        info = {k: number(v) if k == "task_reward" else v for k, v in env.infos[agent].items()}
        lines += [f"{agent}: reward {number(env.rewards[agent])}, info {info}"]
    state = env.state()
    lines += [f"state: {state[state >= 0].tolist()}", ""]
    return "\n".join(lines)


def path_of(name):
    return FOLDER / f"playthrough_{name}.txt"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_playthrough_is_the_golden_one(name):
    assert playthrough(name) == path_of(name).read_text(encoding="utf-8"), (
        "The game has changed. If that is meant: python -m tests.env.test_golden --write"
    )


def main(write):
    for name in sorted(TASKS):
        path, new = path_of(name), playthrough(name)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        print(*difflib.unified_diff(old.splitlines(), new.splitlines(), path.name, "now"), sep="\n")
        if write:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main("--write" in sys.argv)
