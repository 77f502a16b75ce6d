"""One seat with the tool `answer`, in TRL's GRPOTrainer: the embedded model learns to be positive.

It knows no tools. So its chat template has all that it says be a call of `answer`; a model that
does know tools keeps its own template, and needs neither of the two assignments.
"""

import argparse
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import agents
from cory_env.adapters.trl import CorySeat

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--smoke", action="store_true")
flags = parser.parse_args()

model = Path(agents.__file__).parent / "assets" / "model"
tokenizer = AutoTokenizer.from_pretrained(model)
tokenizer.chat_template = """{% for m in messages %}{% if m.role == 'assistant' %}Review:
{%- for c in m.tool_calls or [] %} {{ c.function.name }} {{ c.function.arguments | tojson }}
{%- endfor %}{{ m.content }}{{ eos_token }}{% else %}{{ m.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Review:{% endif %}"""
call = {"type": "function", "function": {"name": "answer", "arguments": {"text": "{content}"}}}
said = {"open_pattern": r"(?=[\s\S])", "close_pattern": r"<\|endoftext\|>|$", "content": "text"}
tokenizer.response_template = {
    "start_anchor": "Review:",
    "defaults": {"role": "assistant"},
    "fields": {"tool_calls": {**said, "transform": [call]}},
}
rows = [{"prompt": [{"role": "user", "content": ""}], "seed": seed} for seed in range(256)]
trainer = GRPOTrainer(
    str(model),
    environment_factory=partial(CorySeat, "pioneer_0", task="imdb", reward_sharing="individual"),
    processing_class=tokenizer,
    train_dataset=Dataset.from_list(rows),
    args=GRPOConfig(
        output_dir="runs/trl_seat",
        max_steps=2 if flags.smoke else 20,
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=40,  # with what the model adds when it has been told the outcome
        max_tool_calling_iterations=1,
        learning_rate=1e-3,
        **{"logging_steps": 1, "save_strategy": "no", "report_to": "none"},
        **{"use_cpu": True, "bf16": False, "disable_tqdm": True, "seed": flags.seed},
    ),
)
trainer.train()
print("episodes,reward")
for row in trainer.state.log_history:
    if "reward" in row:
        print(f"{32 * row['step']},{row['reward']:.3f}")
