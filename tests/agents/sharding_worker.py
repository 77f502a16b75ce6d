"""What each of several processes does in `test_sharding.py`: learn, count bytes, save."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from agents.config.train import TrainConfig
from agents.distributed.sharding import held_bytes
from agents.distributed.world import World, join_world
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.training.loop import _save, _write_final
from agents.training.trainer import Trainer


def learn(config: TrainConfig, world: World, until: int = 3) -> tuple[Trainer, list[dict]]:
    """Learn in `config.out` from its last checkpoint on; return the learner and its metrics."""
    trainer, done = Trainer(config, world), 0
    folder = RunFolder(config.run_folder)
    if found := folder.checkpoints():
        trainer.load_state(*load_checkpoint(found[-1]))
        done = folder.iterations_done()
    rows = [trainer.iterate(iteration) for iteration in range(done, until)]
    world.any(False)  # everybody has read the last checkpoint
    _save(trainer, folder, until, trainer.state())
    _write_final(trainer, folder, trainer.averages.means())
    return trainer, rows


def layer_bytes(trainer: Trainer) -> int:
    """Return what this process holds of the frozen model's linear layers, in bytes."""
    base = trainer.policies["llm_0"].backbone.base
    layers = [p for name, p in base.named_parameters() if ".layers." in name]
    return held_bytes(p for p in layers if not p.requires_grad)


def main(folder: Path) -> None:
    """Learn everything that `folder` asks for."""
    torch.set_num_threads(1)
    world = join_world(torch.device("cpu"))
    for path in sorted(folder.glob("*.json")):
        trainer, rows = learn(TrainConfig.from_json(json.loads(path.read_text())), world)
        held = world.gather_list([layer_bytes(trainer)])
        if world.writes:
            run = trainer.config.run_folder
            (run / "rows.json").write_text(json.dumps({"rows": rows, "held": held}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
