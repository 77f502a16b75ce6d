"""TorchRL's own check of the environment, through the mend in `examples/learners`."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import cory_env

pytest.importorskip("torchrl")
torch = pytest.importorskip("torch")

LEARNERS = Path(__file__).parent.parent.parent / "examples" / "learners"
FORMS = [
    {},
    {"one_hot": True},
    {"observers": 0},
    {"observers": 2},
    {"swap_every": 1},
    {"action_level": "response"},
]


@pytest.fixture
def torchrl_env(monkeypatch):
    monkeypatch.syspath_prepend(str(LEARNERS))
    return importlib.import_module("torchrl_env")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_torchrl_finds_the_specs_right(torchrl_env, form):
    env = torchrl_env.WithoutInfos(cory_env.parallel_env(task="toy", **form))
    torchrl_env.check_env_specs(torchrl_env.PettingZooWrapper(env, return_state=True), seed=0)


def test_torchrl_plays_the_very_same_game(torchrl_env):
    # Without its transform: around one, TorchRL's random actions do not keep to the masks.
    rollout = torchrl_env.make_env(seed=3).base_env.rollout(60, break_when_any_done=False)
    agents, after = rollout["agents"], rollout["next", "agents"]
    assert rollout["next", "done"].sum() >= 10
    num_legal = agents["action_mask"].sum(-1)  # of the agent on turn all, of the other a no-op
    assert (num_legal.sort(-1).values == torch.tensor([1, 12])).all()

    game = cory_env.parallel_env(task="toy", one_hot=True, max_prompt_tokens=4)
    game.reset(seed=3)  # TorchRL looks at one episode when it is made
    observations, _ = game.reset()
    for t in range(60):
        np.testing.assert_array_equal(game.state(), rollout["state"][t])
        actions = dict(zip(game.possible_agents, agents["action"][t].tolist(), strict=True))
        for i, agent in enumerate(game.possible_agents):
            seen, mask = observations[agent]["observation"], observations[agent]["action_mask"]
            np.testing.assert_array_equal(seen, agents["observation", "observation"][t, i])
            np.testing.assert_array_equal(mask, agents["action_mask"][t, i])
            assert mask[actions[agent]]
        observations, rewards, terminations, _, _ = game.step(actions)
        np.testing.assert_allclose(after["reward"][t, :, 0], list(rewards.values()), rtol=1e-6)
        assert after["done"][t, :, 0].tolist() == list(terminations.values())
        if not game.agents:
            observations, _ = game.reset()


def test_torchrl_still_needs_the_mend(torchrl_env):
    with pytest.raises(TypeError, match="invalid data type 'str'"):
        torchrl_env.PettingZooWrapper(cory_env.parallel_env(task="toy"))
