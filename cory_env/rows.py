"""The rows of a data set, wherever it is kept, each with a name for error messages.

JSONL, CSV and TSV files, also gzipped, are read by the standard library. A TSV file has the quotes
of a CSV file, as spreadsheets and pandas write it. All else (the hub, saved data sets, Parquet) is
read by `datasets`, which is imported when it is needed. Nothing here unpickles, or runs code that
comes with the data.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, cast

Source = str | PathLike[str] | Iterable[Mapping[str, object]]
Row = tuple[str, Mapping[str, object]]
"""Where a row stands, and its values by column."""

_LINES = (".jsonl", ".ndjson")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BUILDERS = {".json": "json", ".parquet": "parquet", ".arrow": "arrow"}
_KINDS = (*_LINES, *_DELIMITERS, *_BUILDERS)
_LONGEST_CELL = 2**31 - 1
"""Characters of a cell: the most that fits a C long on every system."""
_SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` writes into the folder of one split, or of several."""


def read_rows(source: Source, split: str | None = None, config: str | None = None) -> Iterator[Row]:
    """Yield the rows of a data set in their order.

    Args:
        source: a data file, a folder, a name on the hub, or the rows themselves.
        split: of a folder or a name; None for `train`. A file or a list is one split by itself.
        config: of a folder or a name that has several.

    Raises:
        ValueError: if it cannot be read; names the file and the line.
        ImportError: if that takes `datasets`, which is missing.
    """
    if not isinstance(source, str | PathLike):
        _expect_one_split("rows", split, config)
        return _numbered("row", source)
    path = Path(source)
    kind = (path.with_suffix("") if _is_packed(path) else path).suffix.lower()
    if path.is_dir():
        if any((path / name).exists() for name in _SAVED):
            return _saved_rows(path, split, config)
    elif path.is_file() or kind in _KINDS or not isinstance(source, str):
        _expect_one_split(str(path), split, config)
        return _file_rows(path, kind)
    rows = _load("load_dataset", str(source), name=config, split=split or "train")
    return _numbered(f"{source}, row", rows)


def _file_rows(path: Path, kind: str) -> Iterator[Row]:
    if not path.is_file():
        raise ValueError(f"Expected a data file, got {path}: there is no such file.")
    if kind in _LINES:
        return _json_rows(path)
    if kind in _DELIMITERS:
        return _csv_rows(path, _DELIMITERS[kind])
    if kind in _BUILDERS:
        rows = _load("load_dataset", _BUILDERS[kind], data_files=str(path), split="train")
        return _numbered(f"{path}, row", rows)
    raise ValueError(f"Expected a file of a known kind ({', '.join(_KINDS)}), got {path}.")


def _json_rows(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Expected a JSON object in {where}, got {error}.") from error
        yield where, _mapping(where, row)


def _csv_rows(path: Path, delimiter: str) -> Iterator[Row]:
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = _next_cells(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"Expected cells in {where}, got {error}: a cell that begins with a quotation mark "
                "ends with one, and those within it are doubled."
            ) from error
        if not cells:
            continue
        if header is None:
            header = _header(where, cells)
        elif len(cells) != len(header):
            raise ValueError(
                f"Expected {len(header)} cells in {where}, as in the header {header}, "
                f"got {len(cells)}: {cells}."
            )
        else:
            yield where, dict(zip(header, cells, strict=True))


def _next_cells(reader: Iterator[list[str]]) -> list[str]:
    # The limit is one of the whole process, and 128 KiB unless it is set: it is given back.
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(limit)


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _header(where: str, cells: list[str]) -> list[str]:
    if repeated := [name for name in cells if cells.count(name) > 1]:
        raise ValueError(f"Expected distinct columns in {where}, got {repeated[0]!r} twice.")
    return cells


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, numbered from 1, with their line ends."""
    try:
        with gzip.open(path) if _is_packed(path) else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, _decoded(f"{path}, line {number}", line)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Expected a file that can be read, got {path}: {error}.") from error


def _decoded(where: str, line: bytes) -> str:
    try:
        return line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected UTF-8 in {where}, got {line[error.start : error.start + 1]!r} in byte "
            f"{error.start + 1}: save the file as UTF-8."
        ) from error


def _saved_rows(path: Path, split: str | None, config: str | None) -> Iterator[Row]:
    rows = _load("load_from_disk", str(path))
    if isinstance(rows, dict):
        splits = cast("dict[str, Iterable[object]]", rows)
        split = split or "train"
        if split not in splits or config is not None:
            raise ValueError(
                f"Expected one of the splits {sorted(splits)} of {path} and no config, "
                f"got split {split!r} and config {config!r}."
            )
        rows = splits[split]
    else:
        _expect_one_split(str(path), split, config)
    return _numbered(f"{path}, row", rows)


def _load(function: str, *args: str, **options: str | None) -> Any:
    """Call a function of `datasets`."""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"Expected the package datasets in order to read {args[-1]!r}, found none: pip install "
            "datasets, or name a .jsonl or .csv file."
        ) from error
    try:
        return getattr(datasets, function)(*args, **options)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        what = options.get("data_files") or args[0]
        raise ValueError(f"Expected a data set in {what}, got {error}.") from error


def _numbered(where: str, rows: Iterable[object]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        yield f"{where} {number}", _mapping(f"{where} {number}", row)


def _mapping(where: str, row: object) -> Mapping[str, object]:
    if not isinstance(row, Mapping):
        raise ValueError(f"Expected values by column in {where}, got {row!r}.")
    return cast("Mapping[str, object]", row)


def _expect_one_split(source: str, split: str | None, config: str | None) -> None:
    if split is not None or config is not None:
        raise ValueError(
            f"Expected no split and no config with {source}, which is one split by itself, "
            f"got split {split!r} and config {config!r}."
        )
