"""What the lock files of DVC record of the files that stages read and made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discriminator_guidance.config.loading import NO_VALUES
from discriminator_guidance.errors import InputError

# Not results of stages: code, as links in a folder for each stage; file by file before 2026-11-25.
CODE = ("closures/", "src/")
LOCKS = ("dvc.lock", "families/dvc.lock")  # of each pipeline: the project's, and that of families


@dataclass(frozen=True)
class LockedFile:
    """A file as a stage read or made it.

    Args:
        path: relative to the project folder.
        md5: of its bytes.
        size: number of bytes.
    """

    path: str
    md5: str
    size: int


@dataclass(frozen=True)
class LockedStage:
    """A stage as it last ran.

    Args:
        name: as `dvc repro` takes it.
        inputs: files it read, those of the code left out.
        outputs: files it made.
    """

    name: str
    inputs: tuple[LockedFile, ...]
    outputs: tuple[LockedFile, ...]


def locked_stages(root: Path, profile: str) -> list[LockedStage]:
    """The stages of a profile that have run.

    Args:
        root: the project folder.
        profile: its name.

    Returns:
        Stages in the order of their lock file; those of the run whose results are committed where it has run nowhere
        here; none before the first run.

    Raises:
        InputError: a lock file is damaged.
    """
    found = [stage for lock in LOCKS if (root / lock).is_file() for stage in _stages(root, lock, profile)]
    committed = f"reports/{profile}/dvc.lock"
    return found or (_stages(root, committed, profile) if (root / committed).is_file() else [])


def _stages(root: Path, lock: str, profile: str) -> list[LockedStage]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    address = f"{lock.removesuffix('dvc.lock')}dvc.yaml:" if lock in LOCKS[1:] else ""
    try:
        # Without `pure`, ruamel parses with libyaml: the file is long. Only words and whole numbers stand in it.
        stages = YAML(typ="safe").load((root / lock).read_text(encoding="utf-8"))["stages"]
        return [_stage(f"{address}{name}", entry) for name, entry in stages.items() if _profile(entry) == profile]
    except (YAMLError, OSError, *NO_VALUES) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        again = f"dvc repro {address}".rstrip(": ")
        raise InputError(
            f"stages in {lock}", reason, f"restore it with `git checkout -- {lock}`, or run `{again}` to make it anew"
        ) from error


def _profile(entry: Mapping[str, Any]) -> str:
    words: list[str] = entry["cmd"].split()
    return words[words.index("--profile") + 1]


def _stage(name: str, entry: Mapping[str, Any]) -> LockedStage:
    inputs = tuple(file for file in map(_file, entry.get("deps", ())) if not file.path.startswith(CODE))
    return LockedStage(name, inputs, tuple(map(_file, entry["outs"])))


def _file(entry: Mapping[str, Any]) -> LockedFile:
    return LockedFile(str(entry["path"]), str(entry["md5"]), int(entry["size"]))
