"""Other people's environments, as learners see them: looks, rewards, ends, and what is wrong."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Text
from pettingzoo.test import api_test, parallel_api_test
from pettingzoo.utils import parallel_to_aec

from agents.acting.actors import Choice, RandomActor
from agents.acting.episodes import MOST_ACTIONS, TRIES, play_episodes
from agents.config.environment import EnvConfig
from agents.environments.base import action_of, action_texts, legal_mask
from agents.environments.opening import open_environment, with_imports
from agents.environments.several import SeveralEnvironment
from agents.environments.single import SingleEnvironment
from agents.errors import LostError, PlayError
from tests.agents.environments.worlds import Count, Echo, Letters, Match, Pennies, describe

WORLDS = "tests/agents/environments/worlds.py"


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("agents.config.plugins._own", [])


class Scripted:
    """Takes given actions, one after the other, whoever is on turn."""

    def __init__(self, *actions):
        self.actions, self.read = list(actions), []

    def forget(self):
        pass

    def act(self, prompts, legal, generators, *, greedy=False):
        self.read += prompts
        return [Choice(self.actions.pop(0), -0.5, (1,)) for _ in prompts]


def generators(count: int = 1):
    return [np.random.default_rng(seed) for seed in range(count)]


def single(env=None) -> SingleEnvironment:
    return SingleEnvironment("match", env or Match(), describe, ())


def several(env=None) -> SeveralEnvironment:
    return SeveralEnvironment("count", env or Count(), describe, ("one", "two"))


def test_the_fakes_keep_to_the_interface():
    api_test(Count(), num_cycles=50)
    parallel_api_test(Pennies(), num_cycles=20)


def test_an_agent_is_paid_for_its_action_before_by_all_that_comes_until_the_next():
    script = Scripted(1, 0, 1)  # 5 matches: agent_0 takes two, agent_1 one, agent_0 the last two
    (episode,) = play_episodes(
        [several()], dict.fromkeys(Count().possible_agents, script), generators()
    )
    zero, one = episode["agent_0"], episode["agent_1"]
    assert script.read == ["5 left:", "3 left:", "2 left:"]
    assert [step.reward for step in zero.steps] == [0.0, 1.0]
    # 0.25 before its first action, then 0.25 and the loss with agent_0's last one
    assert [step.reward for step in one.steps] == [0.25 - 1.0]
    assert one.early_reward == 0.25
    assert (zero.total, one.total) == (1.0, -0.5)
    assert zero.last_text is one.last_text is None


def test_a_cut_episode_pays_what_is_owed_and_says_what_was_seen_last():
    script = Scripted(0, 0)
    (episode,) = play_episodes(
        [several()], dict.fromkeys(Count().possible_agents, script), generators(), max_steps=2
    )
    zero, one = episode["agent_0"], episode["agent_1"]
    assert [step.reward for step in zero.steps] == [0.0]
    assert [step.reward for step in one.steps] == [0.0]
    assert one.early_reward == 0.25
    assert zero.last_text == one.last_text == "3 left:"
    (episode,) = play_episodes(
        [several()],
        dict.fromkeys(Count().possible_agents, Scripted(0, 0, 0)),
        generators(),
        max_steps=3,
    )
    assert [step.reward for step in episode["agent_1"].steps] == [0.25]


@pytest.mark.parametrize(("fault", "text"), [("", None), ("cut", "n")])
def test_an_episode_that_was_cut_by_its_own_limit_would_have_gone_on(fault, text):
    (episode,) = play_episodes(
        [single(Match(fault=fault))], {"agent_0": Scripted(0, 0, 0)}, generators()
    )
    last = episode["agent_0"].last_text
    assert (last or "")[:1] == (text or "")
    assert len(episode["agent_0"].steps) == 3


def test_an_environment_of_one_agent_tells_rewards_with_the_next_look():
    env = Match()
    wrapped = single(env)
    wrapped.reset(3)
    first = wrapped.look()
    assert (first.reward, first.ended, first.legal) == (0.0, "no", None)
    wrapped.act(env.shown)
    assert wrapped.look().reward == 1.0
    wrapped.act((env.shown + 1) % 4)
    assert wrapped.look().reward == 0.0
    wrapped.act(env.shown)
    last = wrapped.look()
    assert (last.reward, last.ended, last.text) == (1.0, "terminated", "")
    assert wrapped.look() is None


def test_actions_that_begin_at_another_number_are_counted_from_there():
    env = Match(start=5)
    (episode,) = play_episodes([single(env)], {"agent_0": Scripted(0, 1, 3)}, generators())
    assert len(episode["agent_0"].steps) == 3  # it asserts that actions are its own


def test_agents_that_act_at_once_do_not_see_what_the_other_does():
    env = SeveralEnvironment("pennies", parallel_to_aec(Pennies()), describe, ())
    script = Scripted(0, 0, 1, 0)
    (episode,) = play_episodes([env], dict.fromkeys(env.agents, script), generators())
    assert script.read == ["n0:", "n0:", "n1:", "n1:"]
    assert [step.reward for step in episode["agent_0"].steps] == [1.0, -1.0]
    assert [step.reward for step in episode["agent_1"].steps] == [-1.0, 1.0]


def test_texts_come_and_go_and_fit_their_space():
    env = SingleEnvironment("echo", Echo(), None, ())
    assert env.actions is None
    script = Scripted("xbba")  # of the letters a and b, and at most two
    (episode,) = play_episodes([env], {"agent_0": script}, generators())
    assert script.read[0] in ("say a", "say b")
    assert episode["agent_0"].steps[0].reward == float(script.read[0] == "say b")
    assert action_of(Text(max_length=2, charset="ab"), None, "xbba") == "bb"
    assert action_of(Discrete(2), None, "x") == "x"


def test_texts_may_be_chosen_from_a_list_of_which_a_function_says_what_is_legal():
    allowed = {"say a": ["a!", "b"], "say b": ["b"]}
    letters = Letters()
    env = SingleEnvironment("echo", letters, None, ("a!", "b"), allowed.__getitem__)
    assert env.actions == ("a!", "b")
    (episode,) = play_episodes([env], {"agent_0": Scripted(0)}, generators())
    (step,) = episode["agent_0"].steps
    assert step.legal.tolist() == [step.prompt == "say a", True]
    assert letters.taken == "a!"  # as it is listed, whatever letters the space has


def test_the_mask_of_an_environment_comes_before_the_function():
    env = SeveralEnvironment("count", Count(), lambda o: "x", ("one", "two"), lambda o: 1 / 0)
    env.reset(0)
    assert env.look().legal.tolist() == [True, True]


def test_a_function_that_allows_what_is_no_action_is_refused():
    assert legal_mask("x", lambda o: o, ("a", "b"), ["b"]).tolist() == [False, True]
    for allowed, line in (
        (["c"], "some of the --actions of x, got 'c'"),
        (3, "legal_actions to play"),
    ):
        with pytest.raises(PlayError, match=line):
            legal_mask("x", lambda o: o, ("a", "b"), allowed)
    env = SingleEnvironment("echo", Echo(), None, ("a", "b"), lambda o: [])
    with pytest.raises(PlayError, match="that allows something"):
        env.reset(0)


class Leaving(Match):
    """Cannot be reached at the steps that are named."""

    def __init__(self, *lost):
        super().__init__()
        self.lost, self.taken = lost, 0

    def step(self, action):
        self.taken += 1
        if self.taken in self.lost:
            raise ConnectionError("gone")
        return super().step(action)


def test_episodes_are_played_again_if_an_environment_is_lost():
    actors = {"agent_0": RandomActor(4)}
    whole = play_episodes([single(), single()], actors, generators(2))
    others = [single(Leaving(2, 4)), single()]  # in the first and in the second try
    assert play_episodes(others, actors, generators(2)) == whole


def test_an_environment_that_is_lost_every_time_is_given_up():
    env = Leaving(1, 2, 3, 4, 5)
    with pytest.raises(LostError, match=r"to play on, got ConnectionError: gone\.$"):
        play_episodes([single(env)], {"agent_0": RandomActor(4)}, generators())
    assert env.taken == TRIES


def test_an_episode_depends_on_its_own_randomness_alone():
    actor = RandomActor(4)
    both = play_episodes([single(), single()], {"agent_0": actor}, generators(2))
    (second,) = play_episodes([single()], {"agent_0": actor}, generators(2)[1:])
    told = [
        [(s.prompt, s.choice.action, s.reward) for s in e["agent_0"].steps] for e in (*both, second)
    ]
    assert told[1] == told[2] != told[0]


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (Match(fault="raises"), "Expected match to play on, got RuntimeError: the world."),
        (Match(fault="nan"), "Expected finite rewards from match, got nan for agent_0."),
        (Match(fault="mask"), r"mask of 4 zeros and ones .* allows something, got \[0 0 0 0\]"),
        (Match(fault="wide mask"), r"mask of 4 zeros and ones .* got \[1 1 1 1 1\] for agent_0"),
        (Match(steps=10**9), f"to end, got one of {MOST_ACTIONS:,} actions: pass --max-steps N"),
    ],
)
def test_an_environment_that_fails_is_named_in_one_line(env, line):
    with pytest.raises(PlayError, match=line):
        play_episodes([single(env)], {"agent_0": RandomActor(4)}, generators())


def test_agents_that_nobody_has_named_are_refused():
    with pytest.raises(PlayError, match=r"keep to its agents .agent_0, agent_1., got 'agent_2'"):
        play_episodes(
            [several(Count(fault="stranger"))],
            dict.fromkeys(["agent_0", "agent_1", "agent_2"], RandomActor(2)),
            generators(),
        )


@pytest.mark.parametrize(
    ("agents", "line"),
    [
        ([["a"], ["b"]], r"texts or numbers, got \['a'\], which cannot be a key"),
        ([], r"name each of its agents in possible_agents, got \[\]"),
        (["1", 1], "name each of its agents"),
    ],
)
def test_agents_without_names_are_refused(agents, line):
    env = Count()
    env.possible_agents = agents
    with pytest.raises(ValueError, match=line):
        several(env)


@pytest.mark.parametrize(
    ("describe", "line"),
    [
        (lambda o: "", "a text to read in match, got an empty one"),
        (lambda o: 3, "a text to read in match, got int: let describe return one"),
        (lambda o: o["x"], "Expected describe to play on, got TypeError"),
        (None, "got int: pass --describe FILE"),
    ],
)
def test_what_cannot_be_read_is_refused(describe, line):
    env = SingleEnvironment("match", Match(), describe, ())
    with pytest.raises(PlayError, match=line):
        env.reset(0)


@pytest.mark.parametrize(
    ("space", "given", "line"),
    [
        (Discrete(3), ("a", "b"), "Expected 3 texts for the actions of x, got 2: a, b"),
        (Box(0, 1), (), "discrete actions or texts in x, got Box"),
    ],
)
def test_actions_that_nobody_can_name_are_refused(space, given, line):
    with pytest.raises(ValueError, match=line):
        action_texts("x", space, given)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"env": "gym:FrozenLak-v1"}, "got 'FrozenLak-v1': did you mean FrozenLake-v1?"),
        ({"env": "FrozenLake-v1"}, "textarena:ID or openenv:URL, got 'FrozenLake-v1'"),
        ({"env": "pettingzoo:classic/tictacto-v3"}, "did you mean classic/tictactoe-v3?"),
        ({"env": "pettingzoo:json"}, "a module with env or parallel_env, got 'json' without"),
        ({"env": "pettingzoo:no_such_module"}, "of no_such_module: pip install no_such_module"),
        ({"env": "gym:FrozenLake-v1", "describe": "nowhere.py"}, "got 'nowhere.py'"),
        (
            {"env": "gym:FrozenLake-v1", "describe": f"{WORLDS}:descrive"},
            r"a function descrive\(observation\) in .*worlds.py, got none: did you mean .*describe",
        ),
        ({"env": "gym:FrozenLake-v1", "env_options": "slippery=1"}, "to open, got TypeError"),
        ({"env": "gym:FrozenLake-v1", "env_options": "slippery"}, "NAME=VALUE"),
        (
            {"env": f"pettingzoo:{WORLDS}", "env_options": "match=1"},
            r"to open, got TypeError: .*unexpected keyword argument 'match'. See --env-options",
        ),
        ({"env": "gym:FrozenLake-v1", "actions": "a,b,a,c"}, "of their own each, got 'a' for 2"),
        ({"env": "gym:FrozenLake-v1", "actions": "a,,b"}, "a text for every action"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_in_one_line(values, line):
    with pytest.raises(ValueError, match=line):
        open_environment(with_imports(EnvConfig(**values)))


@pytest.mark.parametrize(
    ("env", "agents", "actions"),
    [
        ("pettingzoo:{tmp}/pennies.py", ("agent_0", "agent_1"), ("heads", "tails")),
        (f"pettingzoo:{WORLDS}", ("agent_0", "agent_1"), ("heads", "tails")),
        ("pettingzoo:tests.agents.environments.worlds", ("agent_0", "agent_1"), ("heads", "tails")),
        ("gym:tests.agents.environments.worlds:Match-v0", ("agent_0",), ("0", "1", "2", "3")),
        ("pettingzoo:classic/rps-v2", ("player_0", "player_1"), ("0", "1", "2")),
    ],
)
def test_environments_are_opened_by_file_module_and_name(env, agents, actions, tmp_path):
    code = "from tests.agents.environments.worlds import Pennies as parallel_env\n"
    (tmp_path / "pennies.py").write_text(code, encoding="utf-8")
    texts = "heads,tails" if actions[0] == "heads" else ""
    values = {"env": env.format(tmp=tmp_path), "actions": texts, "describe": WORLDS}
    opened = open_environment(with_imports(EnvConfig(**values)))
    assert (opened.agents, opened.actions) == (agents, actions)
    opened.reset(0)
    assert opened.look().ended == "no"
    opened.close()


def test_missing_packages_are_named_with_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    for name in [n for n in sys.modules if n.startswith("pettingzoo.classic")]:
        monkeypatch.delitem(sys.modules, name)
    config = EnvConfig(env="pettingzoo:pettingzoo.classic.tictactoe_v3")
    with pytest.raises(ValueError, match=r'pip install "pettingzoo\[classic\]"'):
        with_imports(config)
