"""Upload the policies of a finished run to the Hugging Face Hub, or to what `HF_ENDPOINT` names."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # type: ignore[reportPrivateImportUsage] # that of the HTTP library it is built on
)
from huggingface_hub.utils import validate_repo_id

from agents.cards import write_cards


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


def push(run: str | Path, repository: str, *, public: bool = False) -> list[str]:
    """Upload every policy as `<repository>-llm_<i>` and return the addresses.

    Args:
        run: folder of a finished run; nothing in it but the model cards is changed.
        repository: ORG/NAME.
        public: let everyone see new repositories.

    Raises:
        ValueError: if the run is not finished, or the hub refuses.
    """
    run = Path(run)
    check_push(repository)
    api, addresses = HfApi(), []
    for folder in write_cards(run, repository):
        name = f"{repository}-{folder.name}"
        try:
            api.create_repo(name, private=not public, exist_ok=True)
            with tempfile.TemporaryDirectory() as copy:
                shutil.copytree(folder, copy, dirs_exist_ok=True)
                _forget_folders(Path(copy))
                api.upload_folder(
                    repo_id=name, folder_path=copy, commit_message=f"{folder.name} of {run.name}"
                )
        except (HTTPError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"Expected the hub to take {name}, got {reason}. The run in {run} is complete: try "
                f"again with `python -m agents push {run} {repository}`."
            ) from error
        addresses.append(f"{api.endpoint}/{name}")
    return addresses


def _forget_folders(folder: Path) -> None:
    """Leave of a base model that is a folder on this machine nothing but its name."""
    path = folder / "adapter_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        base = Path(config.get("base_model_name_or_path") or "")
        if base.is_absolute():
            config["base_model_name_or_path"] = base.name
            path.write_text(json.dumps(config, indent=2), encoding="utf-8")
