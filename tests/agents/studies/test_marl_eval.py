"""The file that marl-eval reads, as its README has it."""

from __future__ import annotations

from agents.studies.marl_eval import Entry, marl_eval


def test_the_file_by_hand():
    entries = [
        Entry(task="t", algorithm="a,b/c", seed=seed, responses=8, metrics={"reward": seed / 2})
        for seed in (0, 1)
    ]
    assert marl_eval("env", entries) == {
        "env": {
            "t": {
                "ab-c": {
                    "seed_0": {
                        "step_1": {"step_count": 8, "reward": [0.0]},
                        "absolute_metrics": {"reward": [0.0]},
                    },
                    "seed_1": {
                        "step_1": {"step_count": 8, "reward": [0.5]},
                        "absolute_metrics": {"reward": [0.5]},
                    },
                }
            }
        }
    }
