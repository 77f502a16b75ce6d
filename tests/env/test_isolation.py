"""No environment shares anything with another, with a copy, with its callers or with the process.

Every form, at both levels, is compared to an undisturbed one, to the end of an episode and beyond.
"""

import copy
import functools
import gc
import hashlib
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import psutil
import pytest
from gymnasium.utils.env_checker import data_equivalence

import cory_env
from cory_env.registry import TASKS
from tests.env.forms import FORMS, FORMS_AND_LEVELS

NUM_MOVES = 40
"""Two episodes and more of every task, at either level."""


load = functools.cache(cory_env.make_task)


def make(form, level, task="toy", **options):
    """Return a form whose roles are swapped, so that the count of episodes shows as well."""
    options = {"swap_every": 1, "seat": "llm_1", **options}
    return FORMS[form](load(task) if isinstance(task, str) else task, action_level=level, **options)


def move(game, level, rng):
    """Play one random move, or begin the next episode, and look."""
    tokenizer = game.rules.tokenizer
    size = game.rules.max_new_tokens if level == "response" else None
    action = rng.integers(tokenizer.vocab_size, size=size)
    if level == "token" and rng.random() < 0.3:
        action = tokenizer.eos_token_id
    if game.on_turn is None:
        game.reset()
    else:
        game.act(action)
    return copy.deepcopy(game.look())


def rollout(game, level, seed=0, num_moves=NUM_MOVES):
    rng = np.random.default_rng(seed)
    return [move(game, level, rng) for _ in range(num_moves)]


def begin(form, level, task="toy", seed=0, **options):
    game = make(form, level, task, **options)
    game.reset(seed=seed)
    return game


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda game: pickle.loads(pickle.dumps(game))}
every_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
every_form = pytest.mark.parametrize(("form", "level"), FORMS_AND_LEVELS)
every_task = pytest.mark.parametrize("task", sorted(TASKS))


@every_copy
@every_form
@every_task
def test_a_copy_goes_on_alike_and_apart(task, form, level, copied):
    """From the middle of an episode, with the random state of the draw and of the spaces."""
    game = begin(form, level, task, seed=3)
    rollout(game, level, seed=1, num_moves=1)
    twin = copied(game)
    before = copy.deepcopy(game.look())
    assert data_equivalence(twin.look(), before, exact=True)
    seen = rollout(twin, level)
    assert data_equivalence(game.look(), before, exact=True)
    assert data_equivalence(rollout(game, level), seen, exact=True)


@every_copy
@every_form
def test_a_copy_before_the_first_reset_and_after_the_end_is_one_too(form, level, copied):
    game = make(form, level)
    twin = copied(game)
    for one in (game, twin):
        one.reset(seed=3)
    while game.on_turn is not None:
        move(game, level, np.random.default_rng(0))
        move(twin, level, np.random.default_rng(0))
    last = copied(game)
    seen = rollout(game, level)
    assert data_equivalence(rollout(twin, level), seen, exact=True)
    assert data_equivalence(rollout(last, level), seen, exact=True)


@every_copy
@pytest.mark.parametrize("level", ["token", "response"])
def test_a_copy_has_the_random_state_of_the_spaces(level, copied):
    game = begin("aec", level)
    space = game.env.action_space("llm_0")
    space.seed(7)
    space.sample()
    other = copied(game).env.action_space("llm_0")
    seen = [other.sample() for _ in range(8)]
    assert data_equivalence([space.sample() for _ in range(8)], seen, exact=True)


def fingerprint(task):
    """Return a digest of all that is to be seen in every form after `reset(seed=11)`."""
    looks = [rollout(begin(*pair, task, seed=11), pair[1]) for pair in FORMS_AND_LEVELS]
    return hashlib.sha256(repr(as_text(looks)).encode()).hexdigest()


def as_text(value):
    """Return something of which `repr` leaves nothing out."""
    if isinstance(value, dict):
        return [(key, as_text(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [as_text(part) for part in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


def test_a_seed_gives_the_same_episodes_in_every_process():
    """Whatever order a process gives to its sets."""
    script = "from tests.env.test_isolation import *\n"
    script += "for task in sorted(TASKS): print(fingerprint(task))"
    ours = os.environ.get("PYTHONHASHSEED")
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "2" if ours == "1" else "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.split() == [fingerprint(task) for task in sorted(TASKS)]


@every_form
@every_task
def test_a_seed_starts_everything_anew(task, form, level):
    """Also the count of episodes, and in the middle of one."""
    game = begin(form, level, task, seed=5)
    first = rollout(game, level)
    game.reset(seed=6)
    assert not data_equivalence(rollout(game, level), first, exact=True)
    game.reset(seed=5)
    assert data_equivalence(rollout(game, level), first, exact=True)


@every_form
@every_task
def test_global_random_states_are_neither_written_nor_read(task, form, level):
    seen = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 # the point
        before = random.getstate(), str(np.random.get_state())  # noqa: NPY002
        seen.append(rollout(begin(form, level, cory_env.make_task(task)), level))
        assert (random.getstate(), str(np.random.get_state())) == before  # noqa: NPY002
    assert data_equivalence(*seen, exact=True)


@every_form
def test_without_a_seed_the_global_one_is_not_taken(form, level):
    seen = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 # the point
        game = make(form, level, partner=silent)
        game.reset()
        seen.append([game.rules.task.name, *rollout(game, level)])
    assert not data_equivalence(*seen, exact=True)


def silent(observation, info):
    """Play token 0, the end token of `toy`, whatever is to be seen."""
    return 0 if "action_mask" in observation else []


@every_task
def test_environments_side_by_side_do_not_meet(task):
    """All forms at once, in turns, over one task object: each as if it were alone."""
    own = cory_env.make_task
    alone = [rollout(begin(form, level, own(task)), level) for form, level in FORMS_AND_LEVELS]
    games = [begin(form, level, task) for form, level in FORMS_AND_LEVELS]
    generators = [np.random.default_rng(0) for _ in games]
    together = [[] for _ in games]
    for _ in range(NUM_MOVES):
        for (_, level), game, rng, seen in zip(
            FORMS_AND_LEVELS, games, generators, together, strict=True
        ):
            seen.append(move(game, level, rng))
    assert data_equivalence(together, alone, exact=True)


def scribble(value):
    """Write to all that can be written to."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            value.fill(1)
    elif isinstance(value, dict):
        for part in value.values():
            scribble(part)
        value.update(dict.fromkeys(value, "scribble"), scribble="scribble")
    elif isinstance(value, list | tuple):
        for part in value:
            scribble(part)
        if isinstance(value, list):
            value.clear()


def handed_out(form, game):
    """Return all that the form hands out when it is asked, as it hands it out."""
    env = game.env
    if form == "aec":
        observations = [env.observe(agent) for agent in env.possible_agents]
        return [*observations, env.state(), env.last() if env.agents else None]
    if form == "parallel":
        return [game.last, env.state()]
    if form == "seat":
        return [game.last, env.action_masks()]
    rewards = [*env.rewards.values(), *env.task_rewards.values()]
    return [game.prompts, env.roles, env.examples, env.responses, rewards]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("copied", [lambda game: game, *COPIES.values()], ids=["itself", *COPIES])
def test_what_is_handed_out_can_be_scribbled_on(form, one_hot, copied):
    """What is shared between observations cannot be written to, nor can it in a copy."""
    level = "response" if form == "vector" else "token"
    game, twin = copied(begin(form, level, one_hot=one_hot)), begin(form, level, one_hot=one_hot)
    first, second = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(NUM_MOVES):
        scribble(handed_out(form, game))
        if form in ("parallel", "seat"):
            game.last = copy.deepcopy(twin.last)  # the driver's own copy, which it looks at
        assert data_equivalence(move(game, level, first), move(twin, level, second), exact=True)


def scribbling(observation, info):
    action = silent(observation, info)
    scribble([observation, info])
    return action


@pytest.mark.parametrize("level", ["token", "response"])
@pytest.mark.parametrize("seat", ["llm_0", "llm_1"])
def test_partners_can_scribble_on_what_they_see(seat, level):
    game, twin = (
        begin("seat", level, seat=seat, partner=partner, render_mode="ansi")
        for partner in (scribbling, silent)
    )
    first, second = np.random.default_rng(0), np.random.default_rng(0)
    for _ in range(NUM_MOVES):
        assert data_equivalence(move(game, level, first), move(twin, level, second), exact=True)
        assert game.env.render() == twin.env.render()
        assert game.env.aec_env.infos == twin.env.aec_env.infos


@pytest.mark.parametrize("form", FORMS)
def test_what_was_handed_in_can_be_scribbled_on(form):
    game, twin = (begin(form, "response") for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(NUM_MOVES):
        ids = rng.integers(game.rules.tokenizer.vocab_size, size=game.rules.max_new_tokens)
        if game.on_turn is None:
            game.reset()
            twin.reset()
        else:
            twin.act(ids.copy())
            game.act(ids)
            scribble(ids)
        assert data_equivalence(game.look(), twin.look(), exact=True)


def test_arguments_are_left_as_they_are():
    example = cory_env.Example("abc", reference="cba")
    options = {"example": example, "mine": 1}
    for form in ("aec", "parallel", "seat"):
        make(form, "token").env.reset(seed=0, options=options)
        assert options == {"example": example, "mine": 1}
    parallel, games = (begin(form, "response").env for form in ("parallel", "vector"))
    actions = {"llm_0": [1, 2], "llm_1": ""}
    parallel.step(actions)
    assert actions == {"llm_0": [1, 2], "llm_1": ""}
    batch = [[1, 2], "ab"]
    games.step(batch)
    assert batch == [[1, 2], "ab"]


def files_open():
    return sorted(file.path for file in psutil.Process().open_files())


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@every_form
@every_task
def test_what_was_opened_is_closed(task, form, level, capsys):
    """Also where `close` is called twice, or not at all."""
    before = files_open()
    mode = {} if form == "vector" else {"render_mode": "human"}
    game = begin(form, level, cory_env.make_task(task), **mode)
    rollout(game, level, num_moves=5)
    assert files_open() == before
    if form != "vector":
        game.env.close()
        game.env.close()
    assert files_open() == before
    del game
    gc.collect()
