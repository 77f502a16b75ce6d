"""A run leaves its critics, and they say of a rollout what they said while it learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from agents import train
from agents.algorithms.ippo import IPPO
from agents.models.saved_critic import CRITIC_CONFIG, CRITIC_WEIGHTS
from agents.models.tiny import tiny_model
from agents.policies.critics import load_critic
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.training.trainer import Trainer

QUIET = Console(quiet=True)
EAGER = {"critic_learning_rate": 0.03}  # or values of four iterations would be rounding


def trained(config) -> Trainer:
    """Train, and return a trainer in the state of the end."""
    train(config, console=QUIET)
    trainer = Trainer(config)
    trainer.load_state(*load_checkpoint(RunFolder(config.run_folder).checkpoints()[-1]))
    return trainer


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("body", ["reference", "policy", "own"])
@pytest.mark.parametrize(
    ("algorithm", "names"), [("mappo", ["critic"]), ("ippo", ["critic_llm_0", "critic_llm_1"])]
)
def test_a_critic_that_was_left_says_what_it_said_in_training(
    tmp_path, toy_config, adapter, body, algorithm, names
):
    config = toy_config(
        adapter=adapter, critic_body=body, algorithm=algorithm, value_normalization=True, **EAGER
    )
    trainer = trained(config)
    base = tmp_path / "base"
    for part in tiny_model(trainer.games.rules.task, config.seed):
        part.save_pretrained(base)
    folder = RunFolder(config.run_folder)
    assert [path.name for path in folder.final_critics()] == names
    rollout = trainer.collect(trainer.assign(4))
    prepared = trainer.prepare(rollout)
    assert isinstance(trainer.algorithm, IPPO)
    for seat, turn in enumerate(rollout.turns):
        owner = trainer.parts.critics[turn.policy]
        if body == "policy" and owner.owner != turn.policy:
            continue  # it reads the hidden states of whoever speaks: of its owner, when loaded
        critic = load_critic(
            folder.final_path / owner.name, base=str(base), device="cpu", dtype="float32"
        )
        history = trainer.algorithm._history(rollout, seat)
        assert history is not None
        found, expected = critic.values(history, seat), prepared[seat].scored.baselines
        assert expected.std() > 1e-3
        # An adapter that is folded in rounds otherwise, in float32, than one beside its layer.
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)


def test_runs_without_a_critic_leave_none(toy_config):
    config = toy_config(algorithm="grpo", group_size=4, iterations=1)
    train(config, console=QUIET)
    assert RunFolder(config.run_folder).final_critics() == []


def test_what_is_no_critic_is_refused_by_name(toy_config):
    config = toy_config(iterations=1)
    train(config, console=QUIET)
    final = RunFolder(config.run_folder).final_path
    with pytest.raises(ValueError, match="Expected the folder of a critic, such as runs/imdb"):
        load_critic(final / "llm_0")
    critic = final / "critic"
    with pytest.raises(ValueError, match="Expected a seat from 0 to 1"):
        load_critic(critic, base=str(final / "llm_0")).values(None, 2)  # type: ignore[arg-type]
    _damage(critic, "num_seats", 3)
    with pytest.raises(ValueError, match=r"Expected a whole critic in .*, got .*size mismatch"):
        load_critic(critic)
    (critic / CRITIC_WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="Expected a whole critic in"):
        load_critic(critic)


def _damage(critic: Path, key: str, value: object) -> None:
    file = critic / CRITIC_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
