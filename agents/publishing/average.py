"""Write the mean of policies as a folder that peft, or transformers, loads by itself.

Neither the base nor any model is loaded: adapters are averaged by their factors, whole models one
file after the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from agents.models.averaging import Adapter, config_of_rank, mean_adapter, mean_tensor, normalized
from agents.models.files import ADAPTER_CONFIG
from agents.publishing.cards import MeanOf, write_mean_card
from agents.publishing.folders import check_new, new_folder
from agents.publishing.snapshots import Snapshot, check_alike, find_snapshots
from agents.records.checkpoint import check_checkpoint
from agents.terminal.hush import hushed

_COPIED = (".json", ".jinja", ".model", ".txt")
"""Configuration and tokenizer; neither code nor pickles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """What `average` has written."""

    folder: Path
    policies: tuple[str, ...]
    """What was averaged."""
    rank: int
    """Of the adapter; 0 of a whole model."""
    error: float
    """Relative, of the layer that has lost most by the rank."""

    def __str__(self) -> str:
        """Say it in one line."""
        lost = f", rank {self.rank}, relative error {self.error:.2%}" if self.rank else ""
        return f"{self.folder}: mean of {', '.join(self.policies)}{lost}"


@hushed()
def average(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Sequence[float] = (),
    scale: float = 1.0,
    rank: int = 0,
) -> Average:
    """Write the mean of policies of one base: of the updates of adapters, of whole models' weights.

    Args:
        sources: runs, which stand for their final policies; folders of policies; checkpoints of
            finished runs, `checkpoints/step_<n>`, or one policy of them, `…/step_<n>/llm_0`.
        out: new or empty folder.
        weights: one for each policy, divided by their sum; equal ones if empty.
        scale: what the mean update of LoRA adapters is multiplied by.
        rank: of the mean adapter; 0 for the smallest by which no layer's update loses 1 %.

    Raises:
        ValueError: if there is no mean of these, or `out` holds something.
    """
    out = Path(out)
    snapshots = find_snapshots([Path(source) for source in sources])
    check_alike(snapshots, weights=weights, scale=scale, rank=rank)
    check_new(out)
    for step in sorted({file.parent for s in snapshots if s.prefix for file in s.files}):
        check_checkpoint(step)
    shares = normalized(weights or [1.0] * len(snapshots))
    first = snapshots[0]
    with new_folder(out) as folder:
        for path in first.folder.iterdir():
            if path.suffix in _COPIED and path.is_file():
                shutil.copyfile(path, folder / path.name)
        error = 0.0
        if first.kind == "adapter":
            rank, error = _write_adapter(snapshots, shares, folder, scale=scale, rank=rank)
        else:
            _write_whole(snapshots, shares, folder)
        titles = tuple(snapshot.title for snapshot in snapshots)
        mean = MeanOf(
            shares=tuple(zip(titles, shares, strict=True)), scale=scale, rank=rank, error=error
        )
        config = first.run.read_config_values() if first.run else {}
        write_mean_card(folder, out.name, mean, config)
    return Average(folder=out, policies=titles, rank=rank, error=error)


def _write_adapter(
    snapshots: Sequence[Snapshot],
    shares: Sequence[float],
    folder: Path,
    *,
    scale: float,
    rank: int,
) -> tuple[int, float]:
    """Write configuration and factors; return rank and error."""
    config = _adapter_config(snapshots[0])
    adapters = [_read_adapter(snapshot) for snapshot in snapshots]
    mean = mean_adapter(adapters, shares, scale=scale, rank=rank or None)
    with _opened(snapshots[0]) as tensors:
        dtype = tensors.read(next(iter(tensors))).dtype
    (folder / ADAPTER_CONFIG).unlink()
    config_of_rank(config, mean.rank).save_pretrained(str(folder))
    save_file(
        mean.adapter.tensors(dtype), folder / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    return mean.rank, mean.error


def _read_adapter(snapshot: Snapshot) -> Adapter:
    with _opened(snapshot) as tensors:
        found = {name: tensors.read(name) for name in tensors}
    return Adapter.of(found, _adapter_config(snapshot))


def _adapter_config(snapshot: Snapshot) -> LoraConfig:
    return cast("LoraConfig", LoraConfig.from_pretrained(str(snapshot.folder)))


def _write_whole(snapshots: Sequence[Snapshot], shares: Sequence[float], folder: Path) -> None:
    """Write the mean of every tensor to a file like that of the first model's folder."""
    with ExitStack() as stack:
        sources = [stack.enter_context(_opened(snapshot)) for snapshot in snapshots]
        for path in sorted(snapshots[0].folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as model:
                like = {name: model.get_tensor(name).dtype for name in model.keys()}  # noqa: SIM118
            mean = {
                name: mean_tensor([source.read(name) for source in sources], shares).to(dtype)
                for name, dtype in like.items()
            }
            save_file(mean, folder / path.name, metadata={"format": "pt"})


@dataclass(frozen=True, slots=True)
class _Tensors:
    """Tensors of a policy by name, read one at a time."""

    places: Mapping[str, tuple[safe_open, str]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def read(self, name: str) -> Tensor:
        file, stored = self.places[name]
        return file.get_tensor(stored)


@contextmanager
def _opened(snapshot: Snapshot) -> Iterator[_Tensors]:
    """Open the files of a policy."""
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(f, framework="pt")) for f in snapshot.files]
        yield _Tensors(
            {
                name: (file, stored)
                for file in files
                for stored in file.keys()  # noqa: SIM118
                if (name := snapshot.named(stored)) is not None
            }
        )
