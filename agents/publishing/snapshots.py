"""Snapshots: policies on disk that can be averaged, found in runs, policy folders and checkpoints.

All that decides whether they can be is read from configurations and the heads of safetensors files,
before torch is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from agents.models.files import (
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    check_safetensors,
    find_model,
    is_down,
    is_magnitude,
    is_up,
    plain_name,
    policy_kind,
)
from agents.records.folder import CHECKPOINT_TENSORS, RunFolder
from agents.records.objects import read_object

_MAY_DIFFER = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout"),
    *("base_model_name_or_path", "target_modules", "inference_mode", "init_lora_weights"),
    *("peft_version", "task_type", "auto_mapping"),
}
"""Fields of an adapter that no mean depends on, or that its tensors show better."""


_SHOWN_FIRST = {"peft_type": "kind", "use_dora": "kind", "revision": "revision"}


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A policy on disk."""

    title: str
    """What to call it, without a path of this machine."""
    folder: Path
    """With its configuration and tokenizer; of a checkpoint, that of the run's finished policy."""
    files: tuple[Path, ...]
    """With its weights."""
    prefix: str = ""
    """Of the names of its tensors in these."""
    kind: Literal["adapter", "whole"]

    @property
    def run(self) -> RunFolder | None:
        """Its run, if it lies in one."""
        return RunFolder.of_policy(self.folder)

    def named(self, stored: str) -> str | None:
        """Return the name of a tensor as peft and transformers have it; None for another's."""
        if not stored.startswith(self.prefix):
            return None
        name = stored.removeprefix(self.prefix)
        return plain_name(name) if self.kind == "adapter" else name

    def shapes(self) -> dict[str, Shape]:
        """Read the shapes of its tensors, by name.

        Raises:
            ValueError: if a file is damaged.
        """
        found: dict[str, Shape] = {}
        for path in self.files:
            for stored, shape in _shapes(path).items():
                if (name := self.named(stored)) is not None:
                    found[name] = shape
        return found


def find_snapshots(sources: Sequence[Path]) -> list[Snapshot]:
    """Return the policies that folders hold.

    Args:
        sources: runs, which stand for their final policies; policies; `checkpoints/step_<n>` of
            runs, or `checkpoints/step_<n>/llm_<i>` for one of their policies.

    Raises:
        ValueError: if there is none in a folder.
    """
    return [snapshot for source in sources for snapshot in _found_in(source)]


def check_alike(
    snapshots: Sequence[Snapshot], *, weights: Sequence[float], scale: float, rank: int
) -> None:
    """Check that policies have a mean.

    Args:
        snapshots: one alone can be scaled, or brought to another rank.
        weights: one for each, or none.
        scale: what the mean update is multiplied by.
        rank: of the mean adapter; 0 for none in particular.

    Raises:
        ValueError: if they are of several kinds, bases, layers or vocabularies, or if a number is
            out of range.
    """
    _check_numbers(snapshots, weights, scale, rank)
    first, *others = snapshots
    for other in others:
        _expect_same("kind", first, other, first.kind, other.kind)
    _check_scaling(first, scale, rank)
    for snapshot in snapshots:
        _check_adapter(snapshot)
    shapes = _sizes(first)
    for other in others:
        _expect_same("base model", first, other, *_bases(first, other))
        _check_settings(first, other)
        _check_shapes(first, other, shapes)
        if _vocabulary(first) != _vocabulary(other):
            raise ValueError(_differ("vocabulary", first, other, "two"))


def _found_in(source: Path) -> list[Snapshot]:
    if run := RunFolder.of_checkpoint(source):
        return [_of_checkpoint(run, source, name) for name in _policies_in(source)]
    if run := RunFolder.of_checkpoint(source.parent):
        names = _policies_in(source.parent)
        if source.name not in names:
            raise ValueError(
                f"Expected a policy of the checkpoint {source.parent} ({', '.join(names)}), got "
                f"{source.name!r}."
            )
        return [_of_checkpoint(run, source.parent, source.name)]
    return [_of_folder(folder) for folder in RunFolder(source).final_policies() or [source]]


def _of_folder(folder: Path) -> Snapshot:
    kind = policy_kind(folder, "a run, or the folder of a policy")
    check_safetensors(folder)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise ValueError(f"Expected weights as safetensors in {folder}, found none.")
    run, name = RunFolder.of_policy(folder), folder.resolve().name
    title = name
    if run:
        title = f"{run.name}/{folder.resolve().relative_to(run.final_path.resolve()).as_posix()}"
    return Snapshot(title=title, folder=folder, files=files, kind=kind)


def _of_checkpoint(run: RunFolder, step: Path, name: str) -> Snapshot:
    folder = run.last_policy_path(name)
    if not folder.is_dir():
        raise ValueError(
            f"Expected the checkpoint of a finished run, whose {name} has its configuration and "
            f"tokenizer, got {step}: let the run finish with `train TASK --resume`."
        )
    return Snapshot(
        title=f"{run.name}/{step.name}/{name}",
        folder=folder,
        files=(step / CHECKPOINT_TENSORS,),
        prefix=f"policy/{name}/",
        kind=policy_kind(folder),
    )


def _policies_in(step: Path) -> list[str]:
    names = _shapes(step / CHECKPOINT_TENSORS)
    return sorted({name.split("/")[1] for name in names if name.startswith("policy/")})


def _shapes(path: Path) -> dict[str, Shape]:
    try:
        with safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"Expected a whole safetensors file, got {path}: {error}.") from error


def _check_numbers(
    snapshots: Sequence[Snapshot], weights: Sequence[float], scale: float, rank: int
) -> None:
    titles = ", ".join(snapshot.title for snapshot in snapshots)
    if len(snapshots) < 2 and scale == 1 and not rank:
        raise ValueError(f"Expected at least two policies to average, got {titles or 'none'}.")
    if weights and len(weights) != len(snapshots):
        raise ValueError(
            f"Expected {len(snapshots)} weights, for {titles}, got {len(weights)}: one for each."
        )
    if not all(math.isfinite(w) and w >= 0 for w in weights) or (weights and not any(weights)):
        raise ValueError(
            "Expected weights of at least 0, and one above, got "
            f"{' '.join(f'{weight:g}' for weight in weights)}."
        )
    if not math.isfinite(scale):
        raise ValueError(f"Expected scale to be a finite number, got {scale}.")
    if rank < 0:
        raise ValueError(f"Expected rank to be at least 0, got {rank}.")


def _check_scaling(snapshot: Snapshot, scale: float, rank: int) -> None:
    if snapshot.kind == "whole" and (rank or scale != 1):
        raise ValueError(
            "Expected no --rank and no --scale with whole models, whose base is not beside them, "
            f"got rank {rank} and scale {scale:g}: leave them out."
        )
    if _settings(snapshot).get("use_dora") and scale != 1:
        raise ValueError(
            f"Expected no --scale with DoRA, whose magnitudes are no update, got {scale:g}: leave "
            "it out."
        )


def _settings(snapshot: Snapshot) -> dict[str, Any]:
    path = snapshot.folder / ADAPTER_CONFIG
    return dict(read_object(path)) if path.is_file() else {}


def _check_adapter(snapshot: Snapshot) -> None:
    """Check that an adapter is a low-rank update of an unchanged base, and nothing besides."""
    if snapshot.kind == "whole":
        return
    settings, where = _settings(snapshot), f" in {snapshot.folder}"
    initial = settings.get("init_lora_weights", True)
    odd = [n for n in snapshot.shapes() if not (is_down(n) or is_up(n) or is_magnitude(n))]
    if settings.get("peft_type") != "LORA":
        found = f"the kind {settings.get('peft_type')}"
    elif settings.get("target_parameters"):
        found = "target_parameters"
    elif initial not in (True, False, "gaussian"):
        found = f"init_lora_weights={initial!r}, which changes the base,"
    elif odd:
        found = odd[0]
    else:
        return
    raise ValueError(
        f"Expected LoRA or DoRA adapters that hold low-rank factors alone, got {found}{where}."
    )


def _bases(first: Snapshot, other: Snapshot) -> tuple[str, str]:
    """Return what two policies were trained from, as far as their folders and runs say."""
    if first.kind == "adapter":
        names = [_settings(s).get("base_model_name_or_path") or "" for s in (first, other)]
        return find_model(str(names[0])), find_model(str(names[1]))
    ours, theirs = _model(first), _model(other)
    if not (ours and theirs):
        kinds = [read_object(s.folder / MODEL_CONFIG).get("model_type") for s in (first, other)]
        return str(kinds[0]), str(kinds[1])
    return ours, theirs


def _model(snapshot: Snapshot) -> str:
    """Return what the run of a policy calls its base model; nothing if it lies in none."""
    config = snapshot.run.read_config_values() if snapshot.run else {}
    models = str(config.get("model") or "").split(",")
    return models[int(snapshot.folder.name.rpartition("_")[2]) if len(models) > 1 else 0]


def _check_settings(first: Snapshot, other: Snapshot) -> None:
    ours, theirs = _settings(first), _settings(other)
    names = [*_SHOWN_FIRST, *sorted(ours.keys() | theirs.keys())]
    for name in names:
        if name not in _MAY_DIFFER and ours.get(name) != theirs.get(name):
            shown = _SHOWN_FIRST.get(name, name)
            _expect_same(shown, first, other, f"{name}={ours.get(name)}", f"{theirs.get(name)}")


def _sizes(snapshot: Snapshot) -> dict[str, Shape]:
    """Return the shapes that must agree: those of factors without their rank."""
    shapes = snapshot.shapes()
    if snapshot.kind == "whole":
        return shapes
    return {
        name: shape[1:] if is_down(name) else shape[:1] if is_up(name) else shape
        for name, shape in shapes.items()
    }


def _check_shapes(first: Snapshot, other: Snapshot, shapes: dict[str, Shape]) -> None:
    theirs = _sizes(other)
    if shapes.keys() != theirs.keys():
        odd = sorted(shapes.keys() ^ theirs.keys())[0]
        without = other if odd in shapes else first
        raise ValueError(_differ("set of layers", first, other, f"no {odd} in {without.title}"))
    for name, shape in shapes.items():
        if shape != theirs[name]:
            raise ValueError(
                _differ("shape", first, other, f"{name} of {shape} and {theirs[name]}")
            )


def _vocabulary(snapshot: Snapshot) -> object:
    """Return the tokens of a policy, of a tokenizer that says them in one file."""
    path = snapshot.folder / "tokenizer.json"
    if not path.is_file():
        return None
    content = read_object(path)
    model, added = content.get("model"), content.get("added_tokens")
    return (model.get("vocab") if isinstance(model, dict) else None), added


def _expect_same(what: str, first: Snapshot, other: Snapshot, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise ValueError(_differ(what, first, other, f"{ours} and {theirs}"))


def _differ(what: str, first: Snapshot, other: Snapshot, found: str) -> str:
    return (
        f"Expected policies of one {what}, got {found} ({first.title}, {other.title}): average "
        "policies that were trained from the same base in the same way."
    )
