"""TRL's own GRPOTrainer, at the pinned version, trains in the game."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.trainer

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "trainers"


def rewards(name, *flags, cwd):
    """Run an example, and return what it printed of each step."""
    environment = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *flags]
    run = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    printed = run.stdout.partition("episodes,reward\n")[2]
    return [float(reward) for reward in re.findall(r"^\d+,(.*)$", printed, re.MULTILINE)], run


def test_both_seats_by_one_policy_learn_a_small_toy(tmp_path):
    """A pair whose observer cannot read its pioneer gets 1.25 of 2 at most.

    Twelve seeds that were tried stood between 1.96 and 1.99 in their last five steps of 60, and two
    of four are asked for.
    """
    small = ("--length", "1", "--symbols", "4", "--steps", "60")
    learnt = 0
    for seed in range(4):
        steps, _ = rewards("trl_rollout", *small, "--seed", str(seed), cwd=tmp_path)
        assert len(steps) == 60
        learnt += sum(steps[-5:]) > 5 * 1.6
        if learnt == 2:
            return
    pytest.fail(f"{learnt} of 4 seeds learnt")


def test_one_seat_is_played_by_its_tool(tmp_path):
    steps, run = rewards("trl_seat", "--smoke", cwd=tmp_path)
    assert len(steps) == 2
    assert run.stdout.count("'tools/call_frequency': '1'") == 2
    assert run.stdout.count("'tools/failure_frequency': '0'") == 2
    spread = re.findall(r"'rewards/CorySeat/std': '([^']*)'", run.stdout)
    assert all(float(value) > 0 for value in spread)
    assert all(float(norm) > 0 for norm in re.findall(r"'grad_norm': '([^']*)'", run.stdout))


def test_the_example_of_both_seats_is_the_whole_toy(tmp_path):
    steps, _ = rewards("trl_rollout", "--smoke", cwd=tmp_path)
    assert len(steps) == 2
