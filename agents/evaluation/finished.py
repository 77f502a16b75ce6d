"""`evaluate`: score the policies of a run from its last checkpoint, be it finished or under way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.checks import check_run
from agents.config.train import TrainConfig
from agents.evaluation.answers import BATCH_SIZE, Decoding
from agents.evaluation.rows import Evaluation
from agents.evaluation.score import evaluate_policies
from agents.models.averaging import Mean
from agents.models.loading import pick_device
from agents.parts import Parts
from agents.policies.averages import Averages
from agents.policies.weights import load_policies, part_of
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.tasks import build_task
from agents.terminal.hush import hushed


@hushed()
def evaluate(
    run: str | Path,
    *,
    split: str = "",
    num_queries: int = 512,
    greedy: bool = False,
    seed: int = 0,
    k: Sequence[int] = (),
    samples: int = 0,
    batch_size: int = BATCH_SIZE,
    device: str = "",
) -> Evaluation:
    """Score the policies of a run's last checkpoint: each alone, as a team, and the reference.

    Args:
        run: the run folder.
        split: which queries, such as `train` or `test`; empty for the run's own `test_split`.
        num_queries: how many, from the first.
        greedy: take the most probable tokens only; else they are scored beside the sampled ones.
        seed: of the sampling.
        k: sizes for pass@k and majority@k, where the reward is 0 or 1.
        samples: responses per query; 0 for the largest k, or 1.
        batch_size: episodes in memory at a time; the figures do not depend on it.
        device: where to compute; empty for the run's own.

    Returns:
        What is also written to `evaluation.json` in the run folder.

    Raises:
        ValueError: if the folder is not a run with a checkpoint, or a number is out of range.
    """
    folder = RunFolder(Path(run))
    decoding = Decoding(
        greedy=greedy,
        greedy_too=not greedy,
        k=tuple(k),
        samples=samples,
        seed=seed,
        batch_size=batch_size,
    )
    config = check_run(folder.path, split)
    if device:
        config = config.replace(device=device)
    pick_device(config.device)  # says so before anything is loaded
    if not (checkpoints := folder.checkpoints()):
        raise ValueError(f"Expected a run with a checkpoint, got {folder}, which has none yet.")
    if num_queries < 1:
        raise ValueError(f"Expected at least 1 query, got {num_queries}.")
    split = split or config.test_split
    task = build_task(config.task, split, config.task_arguments)
    parts, means = load_run(config, checkpoints[-1])
    asked = {"split": split, "num_queries": num_queries, "decoding": decoding, "means": means}
    evaluation = evaluate_policies(config, parts.policies, task, parts.reward, **asked)
    evaluation["iterations"] = folder.iterations_done()
    folder.write_evaluation(evaluation)
    return evaluation


def load_run(config: TrainConfig, checkpoint: Path) -> tuple[Parts, dict[str, Mean]]:
    """Return the parts of a run with the weights of a checkpoint, and the averages up to it."""
    tensors, meta = load_checkpoint(checkpoint)
    parts = Parts.build(config, learns=False)
    load_policies(parts.policies, tensors)
    averages = Averages(parts.policies)
    averages.restore(part_of(tensors, "average/"), meta.get("averages", {}))
    return parts, averages.means()
