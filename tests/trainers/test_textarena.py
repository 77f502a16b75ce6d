"""TextArena's games, at the pinned version, as environments of PettingZoo; two models learn one."""

import json
import random
import re
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from pettingzoo.test import api_test

from agents.acting.actors import RandomActor
from agents.acting.episodes import play_episodes
from agents.cli.main import main
from agents.config.environment import EnvConfig
from agents.environments.opening import open_environment, with_imports
from cory_env.adapters.textarena import Randomness, env

pytestmark = pytest.mark.trainer

ROOT = Path(__file__).parent.parent.parent
NIM = ROOT / "examples" / "textarena" / "nim.py"
ACTIONS = "0 1,0 2,0 3,1 1,1 2,1 3,1 4,2 1,2 2,2 3,2 4,2 5"
# Of one, two, three, four and six players.
GAMES = (
    *("2048-v0", "Bandit-v0", "FrozenLake-v0", "GuessTheNumber-v0", "Sudoku-v0"),
    *("Breakthrough-v0", "ConnectFour-v0", "IteratedRockPaperScissors-v0", "KuhnPoker-v0"),
    *("LiarsDice-v0", "Nim-v0", "Othello-v0", "PigDice-v0", "TicTacToe-v0"),
    *("ThreePlayerTicTacToe-v0", "SettlersOfCatan-v0", "SecretMafia-v0"),
)


def play(game, seed, *actions):
    """Return all that is seen when actions are taken in turn, over and over."""
    game.reset(seed=seed)
    seen = []
    for turn, agent in enumerate(game.agent_iter(300)):
        observation, reward, termination, truncation, _ = game.last()
        seen.append((agent, observation["text"], reward))
        game.step(None if termination or truncation else actions[turn % len(actions)])
    return seen


@pytest.mark.parametrize("name", GAMES)
def test_games_keep_to_the_interface_and_their_seed(name):
    game = env(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about spaces of texts
        api_test(game, num_cycles=50)
    first = play(game, 3, "1", "2 1", "a b")
    assert play(env(name), 3, "1", "2 1", "a b") == first
    assert all(text for _, text, _ in first[:1])


def test_other_seeds_are_other_games():
    first, other = (play(env("KuhnPoker-v0"), seed, "bet", "call") for seed in range(2))
    assert first != other


def test_nobody_else_draws_from_a_game_nor_a_game_from_them():
    expected = play(env("PigDice-v0"), 5, "roll", "roll", "hold")
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 # the state that games share
    drawn = [random.random(), np.random.random()]  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert play(env("PigDice-v0"), 5, "roll", "roll", "hold") == expected
    assert [random.random(), np.random.random()] == drawn  # noqa: NPY002
    one, other = env("PigDice-v0"), env("PigDice-v0")
    one.reset(seed=5)
    other.reset(seed=6)
    for _ in range(4):  # side by side
        one.step("roll")
        other.step("roll")
    alone = env("PigDice-v0")
    alone.reset(seed=5)
    for _ in range(4):
        alone.step("roll")
    assert one.last()[0] == alone.last()[0]


def test_randomness_is_put_back_after_an_error():
    state = random.getstate()

    def fail():
        with Randomness(3).in_place():
            raise ZeroDivisionError(random.random())

    with pytest.raises(ZeroDivisionError):
        fail()
    assert random.getstate() == state


def test_turns_rewards_and_ends_are_those_of_the_game():
    seen = play(env("TicTacToe-v0"), 0, "0", "3", "1", "4", "[2]", None)
    assert [agent for agent, _, _ in seen] == [f"player_{n % 2}" for n in (0, 1, 0, 1, 0)] + [
        seen[5][0],
        seen[6][0],
    ]
    assert {agent: reward for agent, _, reward in seen[5:]} == {"player_0": 1.0, "player_1": -1.0}
    assert [reward for _, _, reward in seen[:5]] == [0.0] * 5
    assert "Player 0 placed their symbol (O) in cell 0." in seen[1][1]
    assert "0 | 1 | 2" in seen[0][1]


def test_what_is_not_understood_is_told_and_costs_the_game_when_repeated():
    game = env("TicTacToe-v0")
    game.reset(seed=0)
    game.step("nonsense")
    assert game.agent_selection == "player_0"
    assert "attempted an invalid move" in game.last()[0]["text"]
    game.step("nonsense")
    assert game.terminations == {"player_0": True, "player_1": True}
    assert game.rewards == {"player_0": -1.0, "player_1": 1.0}
    assert game.infos["player_0"]["invalid_move"] is True
    assert game.infos["player_1"]["invalid_move"] is False


def test_a_second_game_tells_nothing_of_the_first():
    game = env("TicTacToe-v0")
    first = play(game, 0, "0", "3", "1", "4", "2")
    assert play(game, 0, "0", "3", "1", "4", "2") == first


def test_players_are_as_many_as_asked_for():
    assert env("LiarsDice-v0", num_players=4).possible_agents == [f"player_{n}" for n in range(4)]
    assert len(env("ThreePlayerTicTacToe-v0").possible_agents) == 3


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("TicTacTo-v0", "", r"a game of TextArena, got 'TicTacTo-v0': did you mean .*TicTacToe-v0"),
        ("Nim-v0", "num_players=3", r"Nim-v0 to .*The number of players has to be 2, received 3"),
        ("Nim-v0", "heaps=3", r"Nim-v0 to .*unexpected keyword argument 'heaps'"),
    ],
)
def test_what_is_not_there_is_one_line(name, options, line, tmp_path, capsys):
    flags = ["--env", f"textarena:{name}", "--out", str(tmp_path / "run")]
    flags += ["--env-options", options] if options else []
    assert main(["train", *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(line, error)
    assert "Traceback" not in error


def test_chance_is_legal_and_a_game_is_seeded():
    config = EnvConfig(env="textarena:Nim-v0", describe=str(NIM), actions=ACTIONS)
    games = [open_environment(with_imports(config)) for _ in range(20)]
    actor = RandomActor(len(games[0].actions))
    actors = {agent: actor for agent in games[0].agents}

    def episodes():
        rngs = [np.random.default_rng(seed) for seed in range(20)]
        return play_episodes(games, actors, rngs)

    first = episodes()
    for episode in first:
        totals = sorted(trajectory.total for trajectory in episode.values())
        assert totals == [-1.0, 1.0]
        taken = sum(
            int(games[0].actions[step.choice.action].split()[1])
            for trajectory in episode.values()
            for step in trajectory.steps
        )
        assert taken == 3 + 4 + 5  # nothing illegal was tried
    again = [[s.prompt for t in e.values() for s in t.steps] for e in episodes()]
    assert again == [[s.prompt for t in e.values() for s in t.steps] for e in first]


def train(folder, *flags):
    """Run `train --env textarena:Nim-v0`, and return its folder's rows."""
    command = ["train", "--env", "textarena:Nim-v0", "--describe", str(NIM), "--actions", ACTIONS]
    command += ["--model", "tiny", "--episodes", "4", "--evaluation-episodes", "4"]
    assert main([*command, "--out", str(folder), *flags]) == 0
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_with_a_pool_resumes_to_the_bit(tmp_path):
    pool = ("--partners", "pool:2", "--swap-every", "2")
    whole = train(tmp_path / "whole", *pool, "--iterations", "4")
    train(tmp_path / "parts", *pool, "--iterations", "2")
    parts = train(tmp_path / "parts", *pool, "--iterations", "4", "--resume")
    timed = ("second", "seconds", "seconds_total", "played")
    for row, other in zip(whole, parts, strict=True):
        kept = {key: value for key, value in row.items() if not key.endswith(timed)}
        assert kept == {key: value for key, value in other.items() if not key.endswith(timed)}
    rows = json.loads((tmp_path / "parts" / "evaluation.json").read_text())["rows"]
    names = [row["name"] for row in rows]
    assert "llm_0 as player_1, against reference" in names


def test_models_write_texts_where_no_actions_are_listed(tmp_path):
    flags = ["--env", "textarena:IteratedRockPaperScissors-v0", "--model", "tiny"]
    flags += ["--episodes", "2", "--evaluation-episodes", "2", "--iterations", "1"]
    flags += ["--max-new-tokens", "4", "--out", str(tmp_path / "run")]
    assert main(["train", *flags]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert row["llm_0/task_reward"] == -row["llm_1/task_reward"]


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nim.py", "--smoke", "--out", str(tmp_path / "nim")])
    runpy.run_path(str(NIM), run_name="__main__")
    assert (tmp_path / "nim" / "final" / "llm_1").is_dir()


def test_the_example_prints_its_actions(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nim.py", "--actions"])
    runpy.run_path(str(NIM), run_name="__main__")
    assert capsys.readouterr().out.strip() == ACTIONS
