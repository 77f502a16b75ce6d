"""Starting points for a run: presets by their names, and what fits a model of another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.registries import PRESETS
from cory_env.registry import Registry


def real_model(task: str, adapter: str = "lora") -> dict[str, Any]:
    """Any task with a model other than the embedded one, of some 100M to 10B parameters.

    Limits are the task's own, with room for a chain of thought; batches are those of the paper, in
    parts that fit one GPU.
    """
    values = {
        "task": task,
        "iterations": 100,
        "batch_size": 64,
        "minibatch_size": 32,
        "microbatch_size": 8,
        # That of the paper for LoRA; whole models move much further at the same rate.
        "learning_rate": 1e-5 if adapter == "full" else 1e-4,
        "evaluation_queries": 64,
    }
    # A right answer earns 1: a nat must cost little beside it.
    answers = {"kl_coef": 0.01}
    own = {
        "gsm8k": {**answers, "batch_size": 32},
        # The task's limit is the length of the embedded model's worked answers.
        "arithmetic": {**answers, "max_new_tokens": 128},
    }
    return {**values, **own.get(task, {})}


_SMALL_MODELS = ("embedded", "tiny", "agents/assets/model")


def preset_values(name: str) -> dict[str, Any]:
    """Return the fields of a preset.

    Raises:
        ValueError: if there is no such preset, or it returns something else.
    """
    return named_fields(PRESETS, name)


def named_fields(registry: Registry[Any], name: str) -> dict[str, Any]:
    """Return the fields that a preset or a variant, somebody's own perhaps, returns.

    Raises:
        ValueError: if there is none of this name, or it returns something else.
    """
    values = registry.find(name)()
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValueError(
            f"Expected the {registry.kind} {name} to return fields and their values, got "
            f'{values!r}: return {{"learning_rate": 1e-3}}.'
        )
    return dict(values)


def starting_values(
    task: str, *, preset: str = "", model: str = "", adapter: str = ""
) -> tuple[dict[str, Any], str]:
    """Return the fields that a run starts from, by its task and its model.

    Args:
        task: the task.
        preset: a preset that was asked for by its name; it wins.
        model: the model, or several with commas; empty for the preset's.
        adapter: what is trained of it; empty for the preset's.

    Returns:
        The fields, and a line that says what was chosen for the model; empty where nothing was.

    Raises:
        ValueError: if there is no such preset.
    """
    given = {name: value for name, value in (("model", model), ("adapter", adapter)) if value}
    real = [name for name in model.split(",") if name and name not in _SMALL_MODELS]
    if preset or not real:
        name = preset or (task if task in PRESETS.known() else "")
        return {**(preset_values(name) if name else {}), "task": task, **given}, ""
    if model in PRESETS.known() and (values := preset_values(model)).get("task") == task:
        return {**values, **given}, f"Starting from the preset {model}, made for it."
    values = real_model(task, adapter)
    chosen = ", ".join(f"{key} {value:g}" for key, value in values.items() if key != "task")
    limits = "" if "max_new_tokens" in values else ", max_new_tokens the task's own"
    return {**values, **given}, (
        f"{real[0]} is not the embedded model, so limits, batches and learning rate are those of a "
        f"real one ({chosen}{limits}); flags win, and --preset names another start."
    )
