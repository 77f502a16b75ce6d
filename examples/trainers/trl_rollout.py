"""Both seats by one policy, in TRL's GRPOTrainer: a tiny model learns `toy` with its own answers.

python examples/trainers/trl_rollout.py --seed 0
"""

import argparse

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from agents.models.tiny import tiny_model
from cory_env import make_task
from cory_env.adapters.trl import CoryRollout

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--length", type=int, default=3, help="letters of a query")
parser.add_argument("--symbols", type=int, default=8, help="letters of the alphabet")
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--smoke", action="store_true")
flags = parser.parse_args()

task = make_task("toy", length=flags.length, symbols=flags.symbols)
model, tokenizer = tiny_model(task, flags.seed)
rollout = CoryRollout(task, observers=1)
trainer = GRPOTrainer(
    model,
    reward_funcs=rollout.reward,
    rollout_func=rollout,
    processing_class=tokenizer,
    train_dataset=Dataset.from_list(rollout.rows(512, flags.seed)),
    args=GRPOConfig(
        output_dir="runs/trl_rollout",
        max_steps=2 if flags.smoke else flags.steps,
        per_device_train_batch_size=256,  # 128 games of two turns
        num_generations=16,  # 8 games of each query
        max_completion_length=flags.length,
        learning_rate=4e-3 if flags.length == 1 else 2e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=flags.seed,
    ),
)
trainer.train()
print("episodes,reward")
for row in trainer.state.log_history:
    if "reward" in row:
        print(f"{128 * row['step']},{row['reward']:.3f}")
