"""Named starting points for a run: the fields that differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.registries import PRESETS
from cory_env.registry import Registry


def imdb() -> dict[str, Any]:
    """Two embedded models coevolve on film reviews within minutes on a laptop."""
    return {"task": "imdb"}


def imdb_individual() -> dict[str, Any]:
    """`imdb` where each policy earns its own reward only, reads its partner, and exchanges roles.

    The better of the two pairs that are level with single-agent PPO: to a policy that will be used
    alone, its partner's reward is noise (docs/results.md).
    """
    return {"task": "imdb", "reward_sharing": "individual"}


def imdb_handover() -> dict[str, Any]:
    """`imdb` with shared rewards, the critic's value of what the partner will earn instead of it.

    CORY at its best: level with single-agent PPO, where the sampled reward of the partner costs it
    an eighth of its combined reward (docs/results.md).
    """
    return {"task": "imdb", "handover": "value"}


def arithmetic() -> dict[str, Any]:
    """Two embedded models learn to read new words for gains and losses: GSM8K's game at their size.

    In the words of its pre-training what is left to learn is addition, which takes more episodes.
    """
    return {
        "task": "arithmetic",
        "task_options": "wording=new,difficulty=1",
        "iterations": 120,
        "batch_size": 128,
        "minibatch_size": 32,
        "learning_rate": 1.5e-3,
        # Rewards of 0 and 1 are noisy: at a constant rate, what a run ends with is luck.
        "schedule": "linear",
        # A right answer earns 1: a nat must cost little beside it.
        "kl_coef": 0.01,
    }


def smollm2() -> dict[str, Any]:
    """SmolLM2-135M-Instruct learns to answer one-step word problems: a real model, on a laptop.

    For one policy alone: `--observers 0 --algorithm ppo --iterations 20 --max-new-tokens 48`. What
    was tried: docs/real-model.md.
    """
    return {
        "task": "arithmetic",
        "task_options": "wording=known,difficulty=1",
        "model": "smollm2",
        "iterations": 30,
        "batch_size": 64,
        "minibatch_size": 32,
        "microbatch_size": 16,
        # Twice what an answer takes: the model begins with long ones and learns to be short.
        "max_new_tokens": 32,
        # At 0.7 it is right twice as often to begin with, and no more often in the end.
        "temperature": 1.0,
        "learning_rate": 1e-3,
        "schedule": "linear",
        # A right answer earns 1: a nat must cost little beside it.
        "kl_coef": 0.01,
        # What the partner will earn, without the noise of its few right answers.
        "handover": "value",
        # Often enough that both policies answer alone early on.
        "swap_every": 2,
        "save_every": 5,
        "sample_every": 5,
    }


def gsm8k() -> dict[str, Any]:
    """GSM8K within the 256 tokens that the embedded model reads.

    It shows the mechanics: a model of this size solves next to none. Another `--model` starts from
    `real_model` instead.
    """
    return {
        "task": "gsm8k",
        # 39 % of the test questions are this short: up to 166 tokens with the worked example.
        "task_options": "longest=200",
        "max_new_tokens": 32,
        "batch_size": 32,
        "minibatch_size": 32,
        "microbatch_size": 8,
        "learning_rate": 1e-4,
        "kl_coef": 0.01,
    }


def toy() -> dict[str, Any]:
    """Two tiny untrained models learn to reverse a string, and to trust each other."""
    return {
        "task": "toy",
        "model": "tiny",
        "adapter": "full",
        "dtype": "float32",
        "iterations": 600,
        "batch_size": 256,
        "minibatch_size": 64,
        "epochs": 4,
        "learning_rate": 2e-3,
        # At a constant rate, noise is what is left of the way to the optimum (docs/results.md).
        "schedule": "linear",
        # The untrained reference is nearly uniform: KL to it is an entropy bonus. Without it both
        # policies settle on one constant answer.
        "kl_coef": 0.03,
        "save_every": 50,
        "sample_every": 50,
    }


def paper_imdb() -> dict[str, Any]:
    """Table 1 of the paper: GPT2-Large and the classifier it names; needs the hub and a GPU."""
    return {
        "task": "imdb",
        "algorithm": "ippo",
        "model": "gpt2-large",
        "adapter": "full",
        "reward": "lvwerra/distilbert-imdb",
        "iterations": 100,
        "batch_size": 256,
        "minibatch_size": 256,
        "epochs": 4,
        "learning_rate": 1.41e-5,
        "kl": "detached",
        "kl_coef": 0.3,
        "clip": 0.2,
        "value_clip": 0.2,
        "value_coef": 0.1,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "swap_every": 5,
        "credit": "shared",
    }


def paper_gsm8k() -> dict[str, Any]:
    """The GSM8K table of the paper, for CORY: Llama-2-7b-chat in 4 bit; needs hub and GPU."""
    return {
        "task": "gsm8k",
        "algorithm": "ippo",
        "model": "meta-llama/Llama-2-7b-chat-hf",
        "chat_template": False,  # the paper's prompt is a text, with a worked example
        "adapter": "lora",
        "quantization": "4bit",
        "iterations": 100,
        # Minibatches of 2, whose gradients are accumulated 16 times: one step per batch and epoch.
        "batch_size": 32,
        "minibatch_size": 32,
        "microbatch_size": 2,
        "epochs": 4,  # the paper does not say; this is its figure for IMDB
        "learning_rate": 1e-4,
        "kl": "detached",
        "kl_coef": 0.01,
        "clip": 0.2,
        "value_clip": 0.2,
        "value_coef": 0.1,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "swap_every": 5,
        "credit": "shared",
    }


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
