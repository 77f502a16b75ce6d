"""Model cards of the policies of a finished run: `README.md` and `curves.png` in `final/llm_<i>`.

A card says what the policy was trained for and how, how it does, and how to load it without this
project. It names no path of the machine that it was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from agents.backbone import EMBEDDED_NAME
from agents.curves import curves_png
from agents.page import RunFiles, evaluation_rows, interval_of, rate_columns, read_run
from agents.records import policy_names, write_atomically

_COLUMNS = {"reward": "task reward", "kl": "KL, nats", "combined": "reward − η KL"}
_NOT_SHOWN = {"out", "trackers"}
"""Fields that say where a run was, not what it was."""
_LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
policy = PeftModel.from_pretrained(base, "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
_LOAD_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

policy = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


def write_cards(run: Path, repository: str = "") -> list[Path]:
    """Write the cards of all policies in `final/` and return their folders.

    Args:
        run: the run folder.
        repository: `ORG/NAME` if the policies are to be found as `ORG/NAME-llm_<i>`.

    Raises:
        ValueError: if the folder holds no finished run.
    """
    files = read_run(run)
    folders = [run / "final" / name for name in policy_names(files.rows)]
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing is not None or not folders:
        raise ValueError(
            f"Expected a finished run with final/llm_0, got {run}: let it finish with "
            "`python -m agents train TASK --resume`."
        )
    for folder in folders:
        address = f"{repository}-{folder.name}" if repository else f"final/{folder.name}"
        curves_png(files.rows, folder / "curves.png")
        write_atomically(folder / "README.md", card(files, folder, address))
    return folders


def card(run: RunFiles, folder: Path, address: str) -> str:
    """Return the text of one card.

    Args:
        run: what the run folder holds.
        folder: of the policy.
        address: what the lines that load it call it.
    """
    is_adapter = (folder / "adapter_config.json").is_file()
    model = str(run.config.get("model", ""))
    on_hub = model not in ("embedded", "tiny") and not Path(model).exists()
    task, algorithm = str(run.config.get("task")), str(run.config.get("algorithm"))
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        base_model=model if on_hub else None,
        pipeline_tag="text-generation",
        tags=["cory", "reinforcement-learning", algorithm, task],
    )
    load = (_LOAD_ADAPTER if is_adapter else _LOAD_WHOLE).format(
        base=_base_name(model), folder=address
    )
    kind = "A LoRA adapter" if is_adapter else "A whole model"
    others = [name for name in policy_names(run.rows) if name != folder.name]
    team = f", together with {', '.join(others)}" if others else ""
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {folder.name}: {task} with {algorithm}",
        f"{kind}, trained from {_base_text(model)} for the task `{task}` with the algorithm "
        f"`{algorithm}`{team}, by cory-env: language models that learn by answering the same "
        "queries one after the other and exchanging roles (CORY, arXiv 2410.06101).",
        f"## Loading\n\n```python\n{load}\n```",
        *_figures(run.evaluation),
        "## Training\n\n![Task reward, KL and combined reward](curves.png)",
        _configuration(run.config),
    ]
    return "\n\n".join(parts) + "\n"


def _base_name(model: str) -> str:
    if model == "embedded":
        return EMBEDDED_NAME
    return Path(model).name if Path(model).exists() else model


def _base_text(model: str) -> str:
    match model:
        case "embedded":
            return f"the model in `{EMBEDDED_NAME}` of the cory-env repository"
        case "tiny":
            return "a tiny model with random weights"
        case _:
            return f"`{_base_name(model)}`"


def _figures(evaluation: Mapping[str, object]) -> list[str]:
    if not evaluation:
        return []
    rows = evaluation_rows(evaluation)
    table = _table(rows, list(_COLUMNS.items()))
    if rates := rate_columns(rows):
        table += f"\n\n{_table(rows, rates)}"
    how = "answered greedily" if evaluation.get("greedy") else "sampled"
    return [
        "## Evaluation",
        f"{evaluation.get('num_queries')} queries of the {evaluation.get('split')} split, {how}; ± "
        f"half the 95 % bootstrap interval.\n\n{table}",
    ]


def _table(rows: Sequence[Mapping[str, object]], columns: Sequence[tuple[str, str]]) -> str:
    lines = [
        f"| | {' | '.join(title for _, title in columns)} |",
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
        shown[key] = _base_name(str(config[key])) if config.get(key) else ""
    if config.get("model") == "embedded":
        shown["model"] = "embedded"
    return f"## Configuration\n\n```json\n{json.dumps(shown, indent=2)}\n```"
