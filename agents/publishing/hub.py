"""Upload the policies of a finished run to the Hugging Face Hub, or to what `HF_ENDPOINT` names."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # type: ignore[reportPrivateImportUsage] # that of the HTTP library it is built on
)
from huggingface_hub.utils import validate_repo_id

from agents.models.files import ADAPTER_CONFIG, is_on_hub
from agents.publishing.cards import base_of, final_folders, write_card
from agents.publishing.merge import merge
from agents.records.view import read_run
from agents.terminal.hush import hushed


def check_push(repository: str) -> None:
    """Check what can be checked without the network.

    Raises:
        ValueError: if the name is not one of a repository, or nobody is logged in.
    """
    try:
        validate_repo_id(f"{repository}-llm_0")
    except HFValidationError as error:
        raise ValueError(
            f"Expected ORG/NAME to push to, got {repository!r}: {str(error).splitlines()[0]}"
        ) from error
    if repository.count("/") != 1:
        raise ValueError(f"Expected ORG/NAME to push to, got {repository!r}.")
    if not get_token():
        raise ValueError(
            "Expected a login to push to the hub, found none: run `hf auth login`, or set HF_TOKEN."
        )


@hushed()
def push(run: str | Path, repository: str, *, public: bool = False) -> list[str]:
    """Upload every policy as `<repository>-llm_<i>` and return the addresses.

    An adapter of a base that is on the hub goes as it is; one of a base that is not (the embedded
    model, a folder) goes merged into it, so that others can load it.

    Args:
        run: folder of a finished run; nothing in it is changed.
        repository: ORG/NAME.
        public: let everyone see new repositories.

    Raises:
        ValueError: if the run is not finished, or the hub refuses.
    """
    run = Path(run)
    check_push(repository)
    files, addresses = read_run(run), []
    for folder in final_folders(files):
        name = f"{repository}-{folder.name}"
        with tempfile.TemporaryDirectory() as scratch:
            copy = _for_others(folder, Path(scratch) / folder.name)
            write_card(files, copy, name, base_of(folder))
            addresses.append(_upload(copy, name, run, repository, public=public))
    return addresses


def _for_others(folder: Path, copy: Path) -> Path:
    """Copy a policy; an adapter whose base is not on the hub is merged into it."""
    base = base_of(folder)
    if (folder / ADAPTER_CONFIG).is_file() and not is_on_hub(base):
        return merge(folder, copy)
    shutil.copytree(folder, copy)
    return copy


def _upload(folder: Path, name: str, run: Path, repository: str, *, public: bool) -> str:
    api = HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        message = f"{folder.name} of {run.name}"
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except (HTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"Expected the hub to take {name}, got {reason}. The run in {run} is complete: try "
            f"again with `python -m agents push {run} {repository}`."
        ) from error
    return f"{api.endpoint}/{name}"
