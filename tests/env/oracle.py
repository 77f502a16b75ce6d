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
    """(A,) ids of the latest; none before the first turn."""
    responses: list
    """(K,) ids so far, of each turn."""
    infos: list
    rewards: list
    latest: list
    """(A,) the latest turn of each, or its first."""
    opening: list
    """Ids of the first prompt of all."""


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
    task, tokenizer, query = game.task, game.tokenizer, example.query.encode().decode()  # Unicode
    turns = [i for _ in range(game.rounds) for i in range(len(roles))]
    prompts, responses = [[] for _ in roles], [[] for _ in turns]
    latest, opening = list(range(len(roles))), tokenizer.encode(task.pioneer_prompt(query))
    for turn, i in enumerate(turns):
        latest[i] = turn
        info = infos[i]
        heard = [t for j, t in zip(turns, texts, strict=False) if game.knowledge_transfer or i == j]
        prompt = task.observer_prompt(query, heard) if turn else task.pioneer_prompt(query)
        info["prompt"], prompts[i], text = prompt, tokenizer.encode(prompt), None
        if not 1 <= len(prompts[i]) <= game.max_prompt_tokens:
            raise ValueError(prompts[i])
        while actions and text is None:
            responses[turn], text = _play(game, responses[turn], actions.pop(0))
        if text is None:
            return View(
                agents, agents[i], prompts, responses, infos, [0.0 for _ in roles], latest, opening
            )
        cut = tokenizer.eos_token_id not in responses[turn]
        info |= {"response": text, "truncated_response": cut}
        texts.append(text)
    scores = [float(score) for score in game.reward([example for _ in turns], texts)]
    for i, info in enumerate(infos):
        own = [score for j, score in zip(turns, scores, strict=True) if i == j]
        info |= {"task_reward": own[-1]} | ({"task_rewards": own} if game.rounds > 1 else {})
    paid = [_share(scores, turns, i, game.reward_sharing) for i in range(len(roles))]
    return View(agents, None, prompts, responses, infos, paid, latest, opening)


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


def _share(scores, turns, i, sharing):
    """Return what the agent in place i is paid."""
    if sharing in ("mean", "last"):
        return sum(scores) / len(scores) if sharing == "mean" else scores[-1]
    own = sum(score for j, score in zip(turns, scores, strict=True) if i == j)
    others = sum(score for j, score in zip(turns, scores, strict=True) if i != j)
    return own + {"collective": 1, "individual": 0}.get(sharing, sharing) * others
