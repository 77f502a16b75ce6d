"""Conformance: what every task, reward and form of the environment keeps to.

For authors of plug-ins, to be called from their own tests. All functions raise `AssertionError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv  # pyright: ignore[reportMissingTypeStubs] # it ships none

from cory_env.game import score
from cory_env.registry import make_reward
from cory_env.task import Task
from cory_env.tokenization import load_tokenizer
from cory_env.types import Example, Reward, Tokenizer
from cory_env.vector import VectorEnv
from cory_env.views import Action, Observation

NUM_CHECKED = 64
"""How many examples of a task are looked at: those with the longest queries."""

ODD_RESPONSES = (
    "",
    " ",
    "\n\n",
    "€ 🎬 \u202e",
    "\x00\ufffd",
    '"quoted"',
    "<|endoftext|>",
    "-1e999",
    "#### 1/0",
    "9" * 5000,
    "very " * 2000,
)
"""Texts that a language model may well produce."""


def check_task(task: Task) -> None:
    """Check that a task can be played.

    Its examples are a finite list, sampling depends on the given generator alone, prompts fit, also
    around the longest responses of two observers, and the default reward likes a gold answer at
    least as much as silence.
    """
    _expect(isinstance(task, Task), f"Expected an object of a subclass of Task, got {task!r}.")  # pyright: ignore[reportUnnecessaryIsInstance]
    _expect(len(task.examples) > 0, f"Expected examples in task {task.name!r}, got none.")
    sampled = _check_sampling(task)
    longest = sorted(task.examples, key=lambda example: len(example.query))[-NUM_CHECKED:]
    examples = [*longest, *sampled]
    _check_prompts(task, examples)
    answered = [example for example in examples if example.reference is not None]
    gold = [example.reference or "" for example in answered]
    reward = make_reward(task.reward)
    worse = score(reward, answered, gold) < score(reward, answered, [""] * len(answered))
    _expect(
        not worse.any(),
        f"Expected reward {task.reward!r} to score references no lower than silence, "
        f"but it does so for {[answered[i] for i in np.flatnonzero(worse)][:1]}.",
    )


def check_reward(reward: Reward, examples: Sequence[Example]) -> None:
    """Check that a reward is a batched function of each single response.

    Args:
        reward: the batched callable.
        examples: a few examples it should be able to score; it is given odd answers to them.
    """
    asked = [example for example in examples for _ in ODD_RESPONSES]
    texts = [text for _ in examples for text in ODD_RESPONSES]
    scores = reward(asked, texts)
    _expect(
        isinstance(scores, np.ndarray)  # pyright: ignore[reportUnnecessaryIsInstance]
        and scores.dtype == np.float64
        and scores.shape == (len(texts),),
        f"Expected a float64 array of shape ({len(texts)},), got {scores!r}.",
    )
    _expect(bool(np.isfinite(scores).all()), f"Expected finite scores, got {scores}.")
    again, empty = reward(asked, texts), reward([], [])
    _expect(np.array_equal(scores, again), f"Expected the same scores again, got {again}.")
    _expect(empty.shape == (0,), f"Expected shape (0,) for an empty batch, got {empty.shape}.")
    alone = np.concatenate([reward([a], [t]) for a, t in zip(asked, texts, strict=True)])
    # Batched arithmetic may differ in its last bits, and nothing more.
    _expect(
        np.allclose(scores, alone, rtol=1e-5, atol=1e-6),
        f"Expected each score to depend on its own response alone, got {scores} and {alone}.",
    )


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Check that a tokenizer is one for prompts and responses.

    A prompt is not ended; what the vocabulary can say of a response comes back as it was, words
    with single spaces at least, and is what its ids, all of them legal, add to a prompt's text.
    Texts that the tokenizer refuses with a ValueError are not looked at.
    """
    end, legal = tokenizer.eos_token_id, range(tokenizer.vocab_size)
    _expect(end in legal, f"Expected the end token in {legal}, got {end}.")
    for text in (*ODD_RESPONSES, "The film was", "big", " big", "bigger, é\n", "ab"):
        text = text[:80]
        try:
            prompt, response = tokenizer.encode(text), tokenizer.encode(text, begin=False)
            said = tokenizer.decode(response, begin=False)
            again = tokenizer.decode(tokenizer.encode(said, begin=False), begin=False)
        except ValueError:
            continue
        ids = [*prompt, *response]
        _expect(set(ids) <= set(legal), f"Expected ids in {legal} for {text!r}, got {ids}.")
        _expect(
            end not in response and (len(prompt) < 2 or prompt[-1] != end),
            f"Expected no end token behind {text!r}, nor in it as a response, got {ids}.",
        )
        if said.strip() and said.removeprefix(" ") == " ".join(said.split()):
            _expect_equal(f"text of the response {said!r}", again, said)
        _expect_equal(
            f"text of {said!r} behind a prompt",
            tokenizer.decode([*tokenizer.encode("ab"), *response]),
            tokenizer.decode(tokenizer.encode("ab")) + said,
        )
        fits = [tokenizer.fits(text, len(prompt) + more) for more in (-1, 0)]
        _expect_equal(f"fits at {len(prompt)} tokens", fits, [False, len(prompt) > 0])


def replay(games: VectorEnv, env: AECEnv[str, Observation, Action]) -> None:
    """Play the finished episodes of `games` again in `env` and find the same in every step.

    Args:
        games: episodes that have ended.
        env: an environment of either action level with the same switches. With `swap_every`, one
            whose next episodes have the roles of `games`.
    """
    _expect(
        bool(games.states) and games.agent_selection is None,
        "Expected episodes that have ended.",
    )
    rules = games.rules
    for i, state in enumerate(games.states):
        env.reset(options={"example": state.example})
        for turn, (agent, response) in enumerate(zip(state.agents, state.responses, strict=True)):
            prompt = rules.encode_prompt(rules.prompt(state, turn), agent)
            by_token = isinstance(env.action_space(agent), spaces.Discrete)
            actions: Sequence[Action] = response.ids if by_token else [response.ids]
            for played, action in enumerate(actions):
                _expect_equal("agent on turn", env.agent_selection, agent)
                observation, reward, terminated, truncated, _ = env.last()
                seen = [*prompt, *response.ids[:played]]
                _expect_equal("observation", _seen(observation), seen)
                _expect_equal("reward before the end", reward, 0.0)
                _expect_equal("end before the end", terminated or truncated, False)
                env.step(action)
            if state.agents[turn + 1 : turn + 2] != (agent,):
                seen = [*prompt, *response.ids]
                _expect_equal("final observation", _seen(env.observe(agent)), seen)
        latest = dict(zip(state.agents, state.responses, strict=True))
        for agent, response in latest.items():
            info = env.infos[agent]
            _expect_equal("end", env.terminations[agent], True)
            _expect_equal("response", info["response"], response.text)
            _expect_equal("truncation", info["truncated_response"], response.truncated)
            for name, ours, theirs in (
                ("reward", games.rewards[agent][i], env.rewards[agent]),
                ("task reward", games.task_rewards[agent][i], info["task_reward"]),
            ):
                # The reward was called with another batch: see `check_reward`.
                _expect(
                    math.isclose(ours, theirs, rel_tol=1e-5, abs_tol=1e-6),
                    f"Expected {name} {ours} of {agent} in episode {i}, got {theirs}.",
                )


def _check_sampling(task: Task) -> list[Example]:
    global_state = str(np.random.get_state())  # noqa: NPY002 # nobody may touch it: the point
    first, second = (
        [task.sample(np.random.default_rng(seed)) for seed in range(8)] for _ in range(2)
    )
    _expect(first == second, f"Expected equal samples for equal seeds, got {first} and {second}.")
    _expect(
        global_state == str(np.random.get_state()),  # noqa: NPY002
        f"Expected task {task.name!r} to draw from the generator it is given, but it used NumPy's "
        "global one.",
    )
    return first


def _check_prompts(task: Task, examples: Sequence[Example]) -> None:
    tokenizer = load_tokenizer(task.tokenizer or "embedded")
    for query in (example.query for example in examples):
        ids = tokenizer.encode(query, begin=False) * task.max_new_tokens
        response = tokenizer.decode(ids[: task.max_new_tokens], begin=False)
        prompts = [task.observer_prompt(query, [response] * earlier) for earlier in range(3)]
        for prompt in (task.pioneer_prompt(query), *prompts):
            length = len(tokenizer.encode(prompt))
            _expect(
                1 <= length <= task.max_prompt_tokens,
                f"Expected prompts of 1 to max_prompt_tokens={task.max_prompt_tokens} tokens, "
                f"got {length} in {prompt!r}.",
            )


def _seen(observation: Observation | None) -> list[int]:
    assert observation is not None
    return observation["observation"][observation["attention_mask"] == 1].tolist()


def _expect_equal(name: str, got: object, expected: object) -> None:
    _expect(got == expected, f"Expected {name} {expected!r}, got {got!r}.")


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
