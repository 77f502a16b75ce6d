"""One candidate of the training benchmark, alone in its process: JSON on the last line of stdout.

    python -m benchmarks.candidates CANDIDATE SHAPE --model FOLDER --iterations 3

Candidates: `plain` (`benchmarks/plain.py`), `lora` and `full` (`agents`, CORY's pair), `rloo-lora`,
`rloo-full`, `grpo-lora`, `grpo-full` (`agents`, one policy), and the same with `trl-` before them.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from transformers import AutoModelForCausalLM

from benchmarks import shapes
from benchmarks.launches import Launches, python_calls, share_outside
from benchmarks.shapes import SHAPES, Shape

if TYPE_CHECKING:  # at run time each candidate loads no more than it needs: its memory is measured
    from agents.training.trainer import Trainer
    from benchmarks.plain import PlainPolicy

GROUP_SIZE = 4
LORA_RANK = 16


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to run."""

    candidate: tyro.conf.Positional[str]
    shape: tyro.conf.Positional[str]
    model: Path
    """Folder that `write_model` has written."""
    iterations: int = 3
    """Counted ones; one more comes first."""
    batch_size: int = 0
    """Instead of the shape's."""
    observers: int = 1
    """Of `lora` and `full`."""
    dtype: str = "auto"
    """Of `agents`."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    launches: bool = False
    """Count the operators of more iterations; not of TRL's."""


Row = dict[str, float]
"""Seconds of an iteration, as a whole (`seconds`) and by phase, and what each has launched."""

LAUNCHES = Launches()
"""Counts while it is entered."""

_COUNT = "_launches"


def main() -> None:
    """Run a candidate and print what it took."""
    arguments = tyro.cli(Arguments)
    shape = SHAPES[arguments.shape]
    size = arguments.batch_size or shape.batch_size
    kind = arguments.candidate
    if kind == "plain":
        rows = _plain(shape, arguments.model, size, arguments.device)
    elif kind.startswith("trl-"):
        count = arguments.iterations + 1
        rows = iter(_trl(kind, shape, arguments.model, size, count, arguments.device))
    else:
        rows = _ours(arguments, shape, size)
    before = _peak_mb()
    first, *counted = [next(rows) for _ in range(arguments.iterations + 1)]
    peak = _peak_mb()
    launched = _launched(rows) if arguments.launches else {}
    print(
        json.dumps(
            {
                "candidate": kind,
                "shape": arguments.shape,
                "batch_size": size,
                "first": first,
                "rows": counted,
                "launched": launched,
                "peak_mb": peak,
                "before_mb": before,
                "threads": torch.get_num_threads(),
            }
        )
    )


def _peak_mb() -> float:
    """Return the largest memory on the GPU, or the largest resident set of this program.

    getrusage would count that of its parent, too.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _launched(rows: Iterator[Row]) -> Row:
    """Return what an iteration launches, by phase, and the share of its CPU time for the rest."""
    with LAUNCHES:
        row = next(rows)
    counts = {key.removesuffix(_COUNT): n for key, n in row.items() if key.endswith(_COUNT)}
    calls = python_calls(lambda: next(rows))
    return {**counts, "python_calls": calls, "outside": share_outside(lambda: next(rows))}


def _timed(row: Row, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        begun, before = now(), LAUNCHES.total
        try:
            return function(*arguments, **options)
        finally:
            row[phase] = row.get(phase, 0.0) + now() - begun
            row[phase + _COUNT] = row.get(phase + _COUNT, 0.0) + LAUNCHES.total - before

    return call


def now() -> float:
    """Return the time, once a GPU has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _ours(arguments: Arguments, shape: Shape, size: int) -> Iterator[Row]:
    from agents.config.train import TrainConfig
    from agents.models.kernels import keep_freed_memory
    from agents.training.trainer import Trainer

    keep_freed_memory()  # as the command line does
    shapes.register()
    alone = "-" in arguments.candidate
    algorithm, adapter = arguments.candidate.split("-") if alone else ("mappo", arguments.candidate)
    trainer = Trainer(
        TrainConfig(
            task=shapes.TASK,
            task_options=f"shape={arguments.shape}",
            model=str(arguments.model),
            algorithm=algorithm,
            observers=0 if alone else arguments.observers,
            adapter=adapter,  # type: ignore[arg-type]
            lora_rank=LORA_RANK,
            batch_size=size,
            minibatch_size=size,
            epochs=shape.epochs,
            group_size=GROUP_SIZE if alone else 1,
            learning_rate=1e-5,
            device=arguments.device,
            dtype=arguments.dtype,  # type: ignore[arg-type]
        )
    )
    return _our_rows(trainer)


def _our_rows(trainer: Trainer) -> Iterator[Row]:
    row: Row = {}
    collect = _timed(row, "generation", trainer.collect)
    prepare = _timed(row, "scoring", trainer.prepare)
    learn = _timed(row, "update", trainer.learn)

    def iterate(iteration: int) -> None:
        rollout = collect(trainer.assign(iteration))
        prepared = prepare(rollout)
        learned = learn(rollout, prepared, iteration)
        trainer.steer(rollout, trainer.row(rollout, prepared, learned))

    for iteration in count():
        row.clear()
        _timed(row, "seconds", iterate)(iteration)
        yield dict(row)


def _plain(shape: Shape, model: Path, size: int, device: str) -> Iterator[Row]:
    from benchmarks.plain import PlainConfig, PlainPolicy

    config = PlainConfig(epochs=shape.epochs)
    policies = []
    for _ in range(2):
        base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        base.to(device)
        head = torch.nn.Linear(base.config.hidden_size, 1, device=device)
        policies.append(
            PlainPolicy(base, lambda x, head=head: head(x)[..., 0], [*head.parameters()], config)
        )
    return _plain_rows(policies, shape, size, device)


def _plain_rows(
    policies: Sequence[PlainPolicy], shape: Shape, size: int, device: str
) -> Iterator[Row]:
    task, row = shapes.NumberedWords(shape=_name(shape)), {}
    tokenizer = shapes.word_tokenizer(shape.config.vocab_size)
    while True:
        row.clear()
        begun = now()
        queries = [example.query for example in task.examples[:size]]
        prompts, rewards, played = queries, torch.zeros(size, device=device), []
        for policy in policies:
            ids = tokenizer(prompts, return_tensors="pt")["input_ids"].to(device)
            responses = _timed(row, "generation", policy.generate)(ids, shape.new_tokens)
            texts = tokenizer.batch_decode(responses)  # an end is a word: no prompt is shorter
            scores = shapes.even_words([], texts)
            rewards = rewards + torch.tensor(scores, dtype=torch.float32, device=device)
            played.append((ids, responses))
            prompts = [task.observer_prompt(q, [t]) for q, t in zip(queries, texts, strict=True)]
        for policy, (ids, responses) in zip(policies, played, strict=True):
            prepare = policy.prepare
            policy.prepare = _timed(row, "scoring", prepare)
            _timed(row, "update", policy.update)(ids, responses, rewards)
            policy.prepare = prepare
        row["update"] -= row["scoring"]
        yield {**row, "seconds": now() - begun}


def _name(shape: Shape) -> str:
    return next(name for name, other in SHAPES.items() if other is shape)


def _trl(
    kind: str, shape: Shape, model: Path, size: int, iterations: int, device: str
) -> list[Row]:
    """Let TRL train one policy with as many responses, tokens and epochs."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # pyright: ignore

    _, algorithm, adapter = kind.split("-")
    trainer_class, config_class = {
        "rloo": (RLOOTrainer, RLOOConfig),
        "grpo": (GRPOTrainer, GRPOConfig),
    }[algorithm]
    task = shapes.NumberedWords(shape=_name(shape))
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(now())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    def reward(completions: Sequence[str], **_: Any) -> list[float]:
        return shapes.even_words([], completions).tolist()

    with tempfile.TemporaryDirectory() as out:
        trainer = trainer_class(
            model=str(model),
            reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": [e.query for e in task.examples]}),
            callbacks=[Clock()],
            peft_config=(
                LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear")
                if adapter == "lora"
                else None
            ),
            args=config_class(
                output_dir=out,
                per_device_train_batch_size=size,
                num_generations=GROUP_SIZE,
                max_completion_length=shape.new_tokens,
                num_iterations=shape.epochs,
                max_steps=shape.epochs * iterations,
                beta=0.28,
                learning_rate=1e-5,
                disable_dropout=True,
                bf16=device == "cuda" or torch.cpu._is_avx512_bf16_supported(),
                gradient_checkpointing=False,
                use_cpu=device == "cpu",
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
            ),
        )
        trainer.train()
    marks = ends[:: shape.epochs]
    return [{"seconds": b - a} for a, b in itertools.pairwise(marks)]


if __name__ == "__main__":
    main()
