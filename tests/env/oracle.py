"""The game once more, by brute force and without its code: what every form is compared to.

`watch` plays an episode from its first move each time it is asked. Task, tokenizer and reward are
black boxes that it is given.
"""

import operator
from typing import NamedTuple


class View(NamedTuple):
    """What is to be seen, in turn order."""

    order: list
    """(A,) the agents."""
    on_turn: str | None
    prompts: list
    """(A,) ids; none before the turn."""
    responses: list
    """(A,) ids so far."""
    infos: list
    rewards: list


def watch(game, example, episode, actions):
    """Return what is to be seen after these actions of whoever was on turn.

    `game` has all switches, and `task`, `tokenizer`, `reward` and `action_level`. An illegal action
    raises an error of the type that the environment owes.
    """
    roles = ["pioneer_0", *(f"observer_{i}" for i in range(game.observers))]
    agents = [f"llm_{i}" for i in range(len(roles))] if game.swap_every else list(roles)
    for _ in range(episode // game.swap_every if game.swap_every else 0):
        agents.append(agents.pop(0))
    infos, texts, actions = [{"role": role} for role in roles], [], list(actions)
    prompts, responses = [[] for _ in roles], [[] for _ in roles]
    task, tokenizer, query = game.task, game.tokenizer, example.query.encode().decode()  # Unicode
    for i, info in enumerate(infos):
        heard = list(texts) if game.knowledge_transfer else []
        prompt = task.observer_prompt(query, heard) if i else task.pioneer_prompt(query)
        info["prompt"], prompts[i], text = prompt, tokenizer.encode(prompt), None
        if not 1 <= len(prompts[i]) <= game.max_prompt_tokens:
            raise ValueError(prompts[i])
        while actions and text is None:
            responses[i], text = _play(game, responses[i], actions.pop(0))
        if text is None:
            return View(agents, agents[i], prompts, responses, infos, [0.0 for _ in roles])
        info |= {"response": text, "truncated_response": tokenizer.eos_token_id not in responses[i]}
        texts.append(text)
    scores = [float(score) for score in game.reward([example for _ in roles], texts)]
    infos = [info | {"task_reward": score} for info, score in zip(infos, scores, strict=True)]
    paid = [_share(scores, i, game.reward_sharing) for i in range(len(roles))]
    return View(agents, None, prompts, responses, infos, paid)


def _play(game, ids, action):
    """Return the ids of a response after one more action, and its text if that ends it."""
    tokenizer, T, by_token = game.tokenizer, game.max_new_tokens, game.action_level == "token"
    end = tokenizer.eos_token_id
    if isinstance(action, str) and not by_token:
        whole = tokenizer.encode(action.encode().decode(), begin=False)  # Unicode
        ids, text = (
            whole[:T],
            action if len(whole) <= T else tokenizer.decode(whole[:T], begin=False),
        )
    else:
        tokens = [operator.index(token) for token in ([action] if by_token else action)]
        ids = ids + tokens
        ids = ids[: ids.index(end) + 1] if end in ids else ids
        if len(ids) > T or any(token not in range(tokenizer.vocab_size) for token in tokens):
            raise ValueError(tokens)
        text = tokenizer.decode([token for token in ids if token != end], begin=False)
    unfinished = len(ids) < T and end not in ids
    return (ids, None) if by_token and unfinished else (ids + [end] * unfinished, text)


def _share(scores, i, sharing):
    """Return what the agent in turn i is paid."""
    own, others = scores[i], scores[:i] + scores[i + 1 :]
    weight = {"collective": 1, "individual": 0}.get(sharing, sharing)
    return sum(scores) / len(scores) if sharing == "mean" else own + weight * sum(others)
