"""The game in the trainers of others, as far as it goes without their packages."""

import sys
from importlib import import_module

import numpy as np
import pytest

import cory_env
from cory_env.adapters.trl import CoryRollout, CorySeat
from cory_env.rewards.toy import MatchReward
from cory_env.tokenization import SymbolTokenizer


def partner(observation, info):
    return info["prompt"].rstrip(">")[::-1]


def test_a_seat_of_trl_is_played_by_its_tool():
    seat = CorySeat("observer_0", partner, task="toy", reward_sharing="individual")
    prompt = seat.reset(seed=5, prompt=[{"role": "user", "content": ""}], other=1)
    assert seat.get_reward() == 0.0
    assert "over" in seat.answer(prompt.rstrip("="))
    assert seat.get_reward() == 1.0
    with pytest.raises(ValueError, match="one answer, got another"):
        seat.answer("abc")
    assert seat.reset(seed=6) != prompt
    assert seat.get_reward() == 0.0
    assert seat.reset(seed=5) == prompt


def test_the_tool_of_a_seat_is_its_only_public_method():
    public = [name for name in vars(CorySeat) if not name.startswith("_")]
    assert sorted(public) == ["answer", "get_reward", "reset"]


class FakeTrainer:
    """Generates by a rule, and has what a rollout asks of a `GRPOTrainer`."""

    max_completion_length = 3

    class processing_class(SymbolTokenizer):
        chat_template = None

    def __init__(self):
        self.processing_class = self.processing_class("abcdefgh>,=")
        self.asked = []

    def _generate_single_turn(self, ids, images, fields, num_generations):
        assert (images, fields, num_generations) == (None, {}, 1)
        self.asked.append(ids)
        texts = [self.processing_class.decode(row) for row in ids]
        said = [text.rstrip(">=")[:: -1 if text.endswith(">") else 1] for text in texts]
        said = ["aaa" if i % 2 else text for i, text in enumerate(said)]
        encoded = [self.processing_class.encode(text, begin=False) for text in said]
        return encoded, [[-0.5] * len(row) for row in encoded]


def test_a_rollout_of_trl_plays_whole_games_turn_by_turn():
    rollout = CoryRollout("toy")
    queries = [row["prompt"] for row in rollout.rows(2, seed=1)]
    trainer = FakeTrainer()
    prompts = [query for query in queries for _ in range(4)]
    played = rollout(prompts, trainer)
    assert [len(ids) for ids in trainer.asked] == [4, 4]
    tokenizer = trainer.processing_class
    reward = MatchReward()
    for game in range(4):
        rows = [2 * game, 2 * game + 1]
        asked = [tokenizer.decode(played["prompt_ids"][row]) for row in rows]
        said = [tokenizer.decode(played["completion_ids"][row]) for row in rows]
        query = queries[game // 2]
        assert asked == [f"{query}>", f"{said[0]}="]
        example = cory_env.Example(query, reference=query[::-1])
        own = reward([example] * 2, said)
        assert [played["cory_task_reward"][row] for row in rows] == own.tolist()
        assert [played["cory_reward"][row] for row in rows] == [own.sum()] * 2
    assert played["logprobs"] == [[-0.5] * 3] * 8
    paid = rollout.reward(completions=None, **{"cory_reward": played["cory_reward"]})
    assert paid == played["cory_reward"]
    assert np.unique(paid).size > 1


def test_a_rollout_of_trl_says_what_is_wrong():
    rollout = CoryRollout("toy", observers=2)
    query = rollout.rows(1)[0]["prompt"]
    with pytest.raises(ValueError, match=r"groups of 3, .* num_generations that 3 divides"):
        rollout([query, query, "x"], FakeTrainer())
    with pytest.raises(ValueError, match=r"queries of rows\(\), got 'zzz'"):
        rollout(["zzz"] * 3, FakeTrainer())


@pytest.mark.parametrize("package", ["openenv", "verifiers"])
def test_a_missing_package_is_one_line_with_the_extra(package, monkeypatch):
    monkeypatch.delitem(sys.modules, f"cory_env.adapters.{package}", raising=False)
    for name in (package, "uvicorn", "verifiers.v1"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"^Expected the package {package}, .*\[{package}\], in"):
        import_module(f"cory_env.adapters.{package}")
