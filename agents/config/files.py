"""Configurations in files of the user: YAML, or the config.json of a run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.config.archives import FORMAT, current
from agents.config.fields import plain_value
from agents.config.groups import GROUPS, Everyday
from agents.config.options import Options, field_docs, field_names, options_of, values_of
from agents.config.plugins import import_remembered
from agents.config.presets import starting_values
from agents.config.run import RunConfig
from agents.config.train import TrainConfig, every_owner, fitting, no_such_field, owners
from agents.registries import ALGORITHMS, ENGINES
from agents.yaml_files import Entry, read_yaml, yaml_text
from cory_env.registry import TASKS

_COLUMNS = 100


def read_fields(path: Path) -> dict[str, Entry]:
    """Read the fields that a file gives, each checked by itself, once its plug-ins are imported.

    Args:
        path: a YAML file with names and values, or a config.json, of an earlier version perhaps.

    Raises:
        ValueError: if there is no such file, field or value, with the line that it stands in; or
            a plug-in that it names is not there, or not the user's own (`import_remembered`).
    """
    entries = read_yaml(path)
    if imports := entries.get("imports"):
        import_remembered(_placed(_texts, imports), path)
    written_as = 1 if path.suffix == ".json" else FORMAT
    values = current({"format": written_as, **{name: e.value for name, e in entries.items()}})
    entries = {name: Entry(value, entries[name].place) for name, value in values.items()}
    run = {name: entries[name].value for name in ("algorithm", "engine") if name in entries}
    for name, entry in entries.items():
        _placed(lambda value, name=name: _check_alone(name, value, run), entry)
    return entries


def read_config(path: str | Path, **changes: Any) -> TrainConfig:
    """Return the configuration that a file describes, as `train --config FILE` does.

    What the file leaves out is that of the preset that bears its task's name, or else the default.

    Args:
        path: a YAML file, or the config.json of a run.
        changes: fields that beat the file.

    Raises:
        ValueError: if there is no such file, field or value, with the line that it stands in.
    """
    values, _ = laid_over(read_fields(Path(path)), changes)
    return TrainConfig(**{**fitting(values), **changes})


def laid_over(
    entries: Mapping[str, Entry], chosen: Mapping[str, Any], preset: str = ""
) -> tuple[dict[str, Any], str]:
    """Return fields by who beats whom: what is chosen, the file, the preset.

    Args:
        entries: of the file; empty for none.
        chosen: fields that are given by flags or arguments.
        preset: by its name; empty for the one that fits task and model.

    Returns:
        The fields, and a line that says what was chosen for the model; empty where nothing was, or
        where a file says most of it.

    Raises:
        ValueError: if there is no such preset, or a field of the file is none of the algorithm or
            engine that is meant.
    """
    given = {**{name: entry.value for name, entry in entries.items()}, **chosen}
    task, model, adapter = (str(given.get(name, "")) for name in ("task", "model", "adapter"))
    base, line = starting_values(task or Everyday.task, preset=preset, model=model, adapter=adapter)
    own = _fitting_owners(entries, base, chosen)
    return {**base, **own, **chosen}, "" if entries else line


def _fitting_owners(
    entries: Mapping[str, Entry], base: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a file says, less what its algorithm or engine had if another one is chosen."""
    values = {name: entry.value for name, entry in entries.items()}
    meant = {**base, **chosen, **values}
    algorithm, engine = (str(meant.get(n, getattr(RunConfig, n))) for n in ("algorithm", "engine"))
    known = [name for kind in owners(algorithm, engine) for name in field_names(kind)]
    for name, entry in entries.items():
        if name not in known:
            error = no_such_field(name, [algorithm], engine)
            raise ValueError(_with_place(str(error), entry.place))
    for registry, own in ((ALGORITHMS, algorithm), (ENGINES, engine)):
        if chosen.get(registry.kind, own) != own:  # its defaults were not meant for the other one
            defaults = values_of(options_of(registry, own)())
            values = {n: v for n, v in values.items() if n not in defaults or v != defaults[n]}
    return values


def config_text(config: TrainConfig) -> str:
    """Return a configuration as YAML: all fields by groups, each below its help.

    `read_fields` reads it back.
    """
    brought = {
        f"Of the algorithm {config.algorithm}.": config.algorithm_config,
        f"Of the engine {config.engine}.": config.engine_config,
    }
    parts = [(str(kind.__doc__).partition("\n")[0], kind, config) for kind in GROUPS]
    parts += [(said, type(part), part) for said, part in brought.items()]
    lines = ["# Fields of a run, for `train --config FILE`; null stands for None."]
    for said, kind, values in parts:
        shown = [name for name in field_names(kind) if name != "imports" or config.imports]
        lines += ["", f"# ==== {said}"] * bool(shown)
        for name in shown:
            lines += _field_lines(name, field_docs(kind)[name], getattr(values, name))
    return "\n".join(lines) + "\n"


def _field_lines(name: str, said: str, value: Any) -> list[str]:
    comment = textwrap.wrap(
        said, _COLUMNS - 2, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    plain = list(value) if isinstance(value, tuple) else value
    return ["", *comment, f"{name}: {yaml_text(plain)}"]


def _texts(value: object) -> tuple[str, ...]:
    return plain_value("imports", tuple[str, ...], value)


def _check_alone(name: str, value: object, run: Mapping[str, Any]) -> None:
    """Check a value by the first owner that has the field; the one that the file names, if any."""
    if name == "task":
        TASKS.check(str(value), "your own comes with --import FILE.")
    algorithm, engine = (run.get(n, getattr(RunConfig, n)) for n in ("algorithm", "engine"))
    having: list[type[Options]] = [
        kind for kind in [*owners(algorithm, engine), *every_owner()] if name in field_names(kind)
    ]
    if not having:
        raise no_such_field(name, [algorithm], engine)
    having[0](**{name: value})


def _placed(check: Any, entry: Entry) -> Any:
    """Return what a check makes of a value; its error says where the value stands."""
    try:
        return check(entry.value)
    except (ValueError, TypeError) as error:
        raise ValueError(_with_place(str(error), entry.place)) from None


def _with_place(message: str, place: str) -> str:
    """Return a message with the place behind what came: `…, got 3 in line 2 of run.yaml: mend`."""
    found = re.search(r"(, got .*?)([.?:](?: |$))", message)
    if not found:
        return f"{message} ({place})"
    return f"{message[: found.end(1)]} in {place}{message[found.end(1) :]}"
