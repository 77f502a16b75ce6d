"""Play the game by hand: one episode of `toy`, token by token, by a pioneer that knows the answer.

python examples/play_env.py
"""

import cory_env


def main() -> None:
    """Play one episode and show it."""
    env = cory_env.env(task="toy", render_mode="ansi")
    env.reset(seed=0)
    tokenizer = env.unwrapped.rules.tokenizer
    for agent in env.agent_iter():
        observation, _, termination, truncation, _ = env.last()
        if termination or truncation:
            env.step(None)
            continue
        read = observation["observation"][observation["attention_mask"].astype(bool)]
        prompt, _, written = tokenizer.decode(list(read)).partition(
            ">" if "pioneer" in agent else "="
        )
        # The pioneer reverses the query; the observer, which cannot see it, repeats the pioneer.
        answer = prompt[::-1] if "pioneer" in agent else prompt
        env.step(tokenizer.encode(answer)[len(written)])
    print(env.render())


if __name__ == "__main__":
    main()
