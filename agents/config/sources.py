"""Where models and classifiers come from: a word of ours, a folder, or a repository on the hub.

A mistyped word must not cost a minute of the hub's retries: what can be told apart here, is, and
for the rest the hub is asked once. Nothing here loads torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from cory_env.names import nearest

_REPOSITORY = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?(:[^:]+)?")
"""NAME or OWNER/NAME, and perhaps a file of it."""


_FILES = (".gguf", ".safetensors", ".bin", ".pt")


def check_source(kind: str, word: str, names: Iterable[str]) -> None:
    """Check that a word may be a name of ours, a folder, a file, or a repository.

    Args:
        kind: what is looked for, such as `model`.
        word: what the user wrote.
        names: those that need no files.

    Raises:
        ValueError: if it is none of these; says what was probably meant.
    """
    names = list(names)
    if word in names or Path(word).exists():
        return
    if not word.strip() or word != word.strip():
        raise ValueError(_line(kind, names, word, "leave out the blanks"))
    is_path = word.startswith((".", "/", "~")) or "\\" in word or word.count("/") > 1
    if is_path or (word.endswith(_FILES) and ":" not in word):
        raise ValueError(
            _line(kind, names, word, f"there is no such file or folder{_beside(word)}")
        )
    if not _REPOSITORY.fullmatch(word):
        raise ValueError(_line(kind, names, word, "no repository has such a name"))
    if "/" not in word and nearest(word, names):
        raise ValueError(_line(kind, names, word, f"did you mean {nearest(word, names)}?"))


@cache
def check_repository(kind: str, word: str) -> None:
    """Ask the hub once, without retries, whether a repository is there, unless it is here already.

    Args:
        kind: what is looked for, such as `model`.
        word: a folder, or a name on the hub, perhaps with `:FILE`.

    Raises:
        ValueError: if the hub has no such repository, or does not answer.
    """
    check_source(kind, word, ())
    if Path(word).exists():
        return
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
    )

    repository = word.split(":")[0]
    if try_to_load_from_cache(repository, "config.json") is not None:
        return
    hub = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise ValueError(_line(kind, (), word, "it is not in the cache, and HF_HUB_OFFLINE is set"))
    try:
        get_hf_file_metadata(hf_hub_url(repository, "config.json"))
    except EntryNotFoundError:  # the repository is there
        return
    except GatedRepoError:
        mend = f"{hub}/{repository} is gated: ask for access there, then run `hf auth login`"
        raise ValueError(_line(kind, (), word, mend)) from None
    except RepositoryNotFoundError:
        mend = f"{hub} has none of this name that you can see, nor is there such a folder"
        raise ValueError(_line(kind, (), word, f"{mend}{_beside(word)}")) from None
    except HfHubHTTPError:  # it is there and busy: what loads the files tries again
        return
    except Exception as error:  # the libraries below have a dozen names for no answer
        mend = (
            f"there is no such folder, and {hub} does not answer ({type(error).__name__}); with a "
            "slow network, set HF_HUB_ETAG_TIMEOUT to more than its 10 seconds"
        )
        raise ValueError(_line(kind, (), word, f"{mend}{_beside(word)}")) from None


def _line(kind: str, names: Iterable[str], word: str, mend: str) -> str:
    known = f" ({', '.join(names)})" if names else ""
    end = "" if mend.endswith("?") else "."
    return f"Expected a {kind}{known}, a folder, or a name on the hub, got {word!r}: {mend}{end}"


def _beside(word: str) -> str:
    """Return a question about the entry of the same folder that has the nearest name."""
    path = Path(word).expanduser()
    try:
        near = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    except OSError:
        return ""
    if near is None:
        return ""
    return f"; did you mean {path.parent / near if path.name != word else near}?"
