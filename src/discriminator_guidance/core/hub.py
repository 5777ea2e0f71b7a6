"""Repositories on the Hugging Face Hub, where huggingface_hub is installed; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import reason

PATTERNS = ["*.json", "*.md", "*.npz", "*.safetensors"]
AGAIN = "save it again, or download it again"


def local_folder(name: str | Path) -> Path:
    """The path of that name, or else a copy of the repository "user/repo" on the Hub."""
    path = Path(name)
    if path.exists() or path.parent.is_dir() or len(path.parts) != 2:
        return path
    with _hub(f"a folder {path}, or such a repository on the Hub") as hub:
        return Path(hub.snapshot_download(path.as_posix(), allow_patterns=PATTERNS))


def upload(folder: Path, repo: str, private: bool) -> None:
    """Put the files of a folder into a repository on the Hub, which is made if there is none."""
    with _hub(f"to write the repository {repo} on the Hub") as hub:
        hub.HfApi().create_repo(repo, private=private, exist_ok=True)
        hub.HfApi().upload_folder(repo_id=repo, folder_path=folder)


@contextmanager
def _hub(what: str) -> Iterator[Any]:
    try:
        import huggingface_hub

        yield huggingface_hub
    except Exception as error:  # it raises some dozen types
        remedy = "check the name, the connection, `pip install huggingface_hub` and `hf auth login`"
        raise InputError(what, reason(error), remedy) from error
