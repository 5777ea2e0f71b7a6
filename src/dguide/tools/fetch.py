"""Command `fetch`: the files that a profile needs, downloaded with pooch, checked, or described."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pooch

from dguide.settings import Config
from dguide.settings.config import Download
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import damage_refused


def listing(config: Config, root: Path, names: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows `file`, `state`, `path`, `detail` of the named files (all without names), whether they are here or not."""
    files = config.fetch
    if unknown := [name for name in names if name not in files]:
        raise ConfigError(f"fetch has no {unknown[0]!r}", f"choose from: {', '.join(files) or 'none; give --params'}")
    return [_row(name, files[name], root) for name in names or files]


def run(config: Config, root: Path, names: Sequence[str] = ()) -> list[dict[str, str]]:
    """Download what is missing, every file even if another fails; the rows of `listing` afterwards."""
    pooch.get_logger().setLevel(logging.WARNING)
    failures = []
    for row in listing(config, root, names):
        name, missing, file = row["file"], row["state"] == "missing", config.fetch[row["file"]]
        try:
            if missing and file.url is not None:
                path, remedy = root / file.path, f"fetch it again, or {_by_hand(file)}"
                where = {"registry": {path.name: file.hash}, "urls": {path.name: file.url}}
                files = pooch.create(path.parent, base_url="", retry_if_failed=3, **where)
                with damage_refused(f"{name} cannot be fetched from {file.url}", remedy):
                    files.fetch(path.name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=30))
            elif row["state"] == "wrong" or (missing and names):
                raise InputError(f"{name} at {file.path} is {'missing' if missing else row['detail']}", _by_hand(file))
        except InputError as error:
            failures.append(error)
    if failures:
        raise InputError(failures[0].problem, "; ".join([failures[0].remedy, *map(str, failures[1:])]))
    return listing(config, root, names)


def _row(name: str, file: Download, root: Path) -> dict[str, str]:
    path, kind = root / file.path, (file.hash or "sha256:").partition(":")[0]
    digest = f"{kind}:{pooch.file_hash(str(path), alg=kind)}" if path.is_file() else None
    state, detail = "checked", ""
    if digest is None:
        state, detail = "missing", f"dguide fetch {name}, or {_by_hand(file)}" if file.url else _by_hand(file)
    elif file.hash is None:
        state, detail = "unchecked", f"its publisher gives no hash; to check it from now on: hash: {digest}"
    elif digest != file.hash:
        state, detail = "wrong", f"{digest} instead of {file.hash}: remove it"
    return {"file": name, "state": state, "path": str(file.path), "detail": detail}


def _by_hand(file: Download) -> str:
    return f"put the file at {file.path} by hand ({file.by_hand})"


def missing_files(config: Config, root: Path) -> list[tuple[str, str]]:
    """The input files of a profile that are not there, with the keys that name them, and how to get each."""
    named = {config.real.holdout_path: "real.holdout_path", config.evaluation.reference: "evaluation.reference"}
    named |= {getattr(config, word).path: f"{word}.path" for word in ("real", "score", "extractor", "fid_network")}
    named |= {row.start: f"members.{name}.start" for name, row in config.members.items()}
    listed = {str(place) for file in config.fetch.values() for place in (file.path, Path(file.path).parent)}
    ways = "see docs/faq.md, ", "`dguide fetch --list`, with the same --params, says how to get it; or "
    return [
        (f"{path} ({key})", f"{ways[path in listed]}put it there by hand, or correct {key}")
        for path, key in named.items()
        if not path.startswith((f"data/{config.profile}/", "models/"))
        and not ((root / path).is_file() or any((root / path).glob("*")))  # a failed download leaves an empty folder
    ]
