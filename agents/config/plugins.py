"""Plug-ins of the user's own: files and modules that `--import` names.

A file that is imported is run. So only the user says which: on the command line, or by calling
`import_plugins`. A run's config.json remembers the absolute path of each file and the SHA-256 of
its content, and who evaluates or resumes the run need not name it again. But a run folder may have
been downloaded: what it names is run only if the file is there, has that very content, and this
user has imported that very content on this machine before.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from cory_env.names import nearest
from cory_env.registry import failure

_DIGEST = "#sha256="


_MEND = "pass --import FILE"


_own: list[str] = []
"""What the user has named in this process, in the form of config.json."""


def import_plugins(*names: str | Path) -> tuple[str, ...]:
    """Import files or modules, whose plug-ins are found by their names then.

    Args:
        names: files such as `my_task.py`, or modules as an import statement has them.

    Returns:
        What config.json remembers: `TrainConfig(imports=…)`.

    Raises:
        ValueError: if there is no such file or module, or it fails.
    """
    entries = [_import_named(str(name)) for name in names]
    for entry in entries:
        _trust(entry)
    _own.extend(entries)
    return tuple(entries)


def import_remembered(entries: Iterable[str], run: Path) -> None:
    """Import what a run was made with, unless the user has named files of their own.

    Args:
        entries: what its config.json remembers.
        run: the run folder.

    Raises:
        ValueError: if a file is missing or changed, or was never imported by this user.
    """
    entries = [entry for entry in entries if not _own]
    for entry in entries:
        path, _, digest = entry.partition(_DIGEST)
        code = _remembered_code(Path(path), digest, run) if digest else b""
        if entry not in _trusted():
            raise ValueError(
                f"Expected {path}, which {run} names, to be a file of your own, got one that you "
                f"have not imported before: look at it, then {_MEND}."
            )
        if _is_loaded(Path(path)) if digest else path in sys.modules:
            continue
        print(f"importing {path}, as {run} was made with it", file=sys.stderr)
        if digest:
            _run(Path(path), code, digest)
        else:
            _import_module(path)


def command_line(entries: Iterable[str]) -> list[str]:
    """Return the flags that import the same files or modules in another process."""
    return [word for entry in entries for word in ("--import", entry.partition(_DIGEST)[0])]


def _remembered_code(path: Path, digest: str, run: Path) -> bytes:
    if not path.is_absolute():  # it would be looked for wherever one happens to be
        raise ValueError(f"Expected absolute paths in the imports of {run}, got {path}: {_MEND}.")
    if not path.is_file():
        raise ValueError(f"Expected {path}, which {run} was made with, found none: {_MEND}.")
    code = path.read_bytes()
    if hashlib.sha256(code).hexdigest() != digest:
        raise ValueError(
            f"Expected {path} as {run} was made with it, got one that has changed since: {_MEND} "
            "to use it as it is now."
        )
    return code


def _import_named(name: str) -> str:
    path = Path(name).expanduser()
    if path.suffix != ".py" and not path.exists() and "/" not in name and os.sep not in name:
        _import_module(name)
        return name
    if not path.is_file():
        folder = path.parent
        files = [file.name for file in folder.glob("*.py")] if folder.is_dir() else []
        near = nearest(path.name, files)
        end = f": did you mean {folder / near}?" if near else "."
        raise ValueError(f"Expected a Python file or a module to import, got {name!r}{end}")
    path, code = path.resolve(), path.read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    if not _is_loaded(path):
        _run(path, code, digest)
    return f"{path}{_DIGEST}{digest}"


def _import_module(name: str) -> None:
    try:
        import_module(name)
    except (Exception, SystemExit) as error:  # a plug-in may raise anything: this is the boundary
        raise ValueError(
            f"Expected a Python file or a module to import, got {name!r}: {failure(error)}."
        ) from error


def _is_loaded(path: Path) -> bool:
    """Return whether a file is imported, perhaps by the user, or is the script that runs."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return any(
        file and Path(file).name == path.name and Path(file).resolve() == path for file in files
    )


def _run(path: Path, code: bytes, digest: str) -> None:
    """Run the very bytes that were looked at, as a module."""
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_{digest[:8]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:  # for modules beside it; last, so that it hides none
        sys.path.append(str(path.parent))
    try:
        exec(compile(code, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(
            f"Expected a plug-in to be imported, got {failure(error)}: mend it."
        ) from error


def _state_file() -> Path:
    """Return where the contents are listed that this user has imported."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    # As the XDG base directory specification has it: a relative path counts as none.
    return (state if state.is_absolute() else Path.home() / ".local/state") / "cory" / "imported"


def _trusted() -> set[str]:
    try:
        return {*_state_file().read_text(encoding="utf-8").splitlines()}
    except OSError:
        return set()


def _trust(entry: str) -> None:
    if entry in _trusted():
        return
    try:
        _state_file().parent.mkdir(parents=True, exist_ok=True)
        with _state_file().open("a", encoding="utf-8") as file:
            file.write(f"{entry}\n")
    except OSError:  # a home that cannot be written: the file will have to be named each time
        return
