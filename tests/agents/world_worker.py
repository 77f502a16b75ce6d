"""What each of several processes does in `test_world.py`: learn, and keep the state."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from agents.config.train import TrainConfig
from agents.distributed.world import join_world
from agents.training.trainer import Trainer


def learn(config: TrainConfig, world, iterations: int = 3) -> tuple[dict, list[dict]]:
    """Return the tensors after some iterations, and the metrics of each."""
    trainer = Trainer(config, world)
    rows = [trainer.iterate(iteration) for iteration in range(iterations)]
    tensors, meta = trainer.state()
    moments = {f"{name}/std": m.std for name, m in trainer.algorithm._moments().items()}
    return tensors, [*rows, {**meta["kl_coefs"], **moments}]


def main(folder: Path) -> None:
    """Learn everything that `folder` asks for."""
    torch.set_num_threads(1)
    world = join_world(torch.device("cpu"))
    for path in sorted(folder.glob("*.config.json")):
        tensors, rows = learn(TrainConfig.from_json(json.loads(path.read_text())), world)
        if world.writes:
            name = path.name.removesuffix(".config.json")
            save_file({k: t.detach().clone() for k, t in tensors.items()}, folder / f"{name}.st")
            (folder / f"{name}.rows.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
