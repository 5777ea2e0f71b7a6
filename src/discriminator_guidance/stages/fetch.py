"""Command `fetch`: the files that a profile needs from elsewhere, downloaded with pooch, checked, or described."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from discriminator_guidance.data.files import reason, sha256
from discriminator_guidance.errors import ConfigError, InputError

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.config.sections import Download

RETRIES = 3


def listing(config: Config, root: Path, names: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows `file`, `state`, `path`, `detail` of the named files (all without names), whether they are here or not."""
    return [_row(name, file, root) for name, file in _chosen(config, names).items()]


def run(config: Config, root: Path, names: Sequence[str] = ()) -> list[dict[str, str]]:
    """Download what is missing, every file even if another fails; the rows of `listing` afterwards."""
    failures = []
    for name, file in _chosen(config, names).items():
        row = _row(name, file, root)
        try:
            if row["state"] == "wrong" or (row["state"] == "missing" and file.url is None and names):
                raise InputError(f"{name} at {file.path}", row["detail"] or "no such file", _by_hand(file))
            if row["state"] == "missing" and file.url is not None:
                _download(name, file, root)
        except InputError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return listing(config, root, names)


def _chosen(config: Config, names: Sequence[str]) -> dict[str, Download]:
    files = config.fetch.files
    if unknown := [name for name in names if name not in files]:
        raise ConfigError("a file of fetch.files", repr(unknown[0]), f"choose from: {', '.join(files) or 'none here'}")
    return {name: file for name, file in files.items() if not names or name in names}


def _row(name: str, file: Download, root: Path) -> dict[str, str]:
    path = root / file.path
    if not path.is_file():
        state, detail = "missing", f"dguide fetch {name}, or {_by_hand(file)}" if file.url else _by_hand(file)
    elif file.hash is None:
        state, detail = (
            "unchecked",
            f"its publisher gives no hash; to check it from now on: hash: sha256:{sha256(path)}",
        )
    elif (found := _hash(path, file.hash)) != file.hash:
        state, detail = "wrong", f"{found} instead of {file.hash}: remove it"
    else:
        state, detail = "checked", ""
    return {"file": name, "state": state, "path": str(file.path), "detail": detail}


def _by_hand(file: Download) -> str:
    return f"put the file at {file.path} by hand ({file.by_hand})"


def _hash(path: Path, known: str) -> str:
    """The hash of a file, of the same kind as a known one: kind:digits."""
    import pooch

    kind = known.partition(":")[0]
    return f"{kind}:{pooch.file_hash(str(path), alg=kind)}"


def _download(name: str, file: Download, root: Path) -> None:
    import pooch

    path = root / file.path
    pooch.get_logger().setLevel(logging.WARNING)
    files = pooch.create(path.parent, base_url="", retry_if_failed=RETRIES)
    files.registry, files.urls = {path.name: file.hash}, {path.name: file.url}
    try:
        files.fetch(path.name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=30))
    except Exception as error:  # requests, urllib3 and pooch raise some dozen types
        raise InputError(f"{name} from {file.url}", reason(error), f"fetch it again, or {_by_hand(file)}") from error
