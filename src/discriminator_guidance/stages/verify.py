"""Command `verify`: which files of a profile are not what they were when they were written, and what rebuilds them."""

from __future__ import annotations

import hashlib
import json
import shlex
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from discriminator_guidance.artifacts.checksums import ENDING, read_checksums
from discriminator_guidance.artifacts.feature_cache import is_whole
from discriminator_guidance.artifacts.files import TEMPORARY, read_json, sha256
from discriminator_guidance.artifacts.partial import sealed_files, unsealed
from discriminator_guidance.artifacts.sealed_json import is_damaged
from discriminator_guidance.artifacts.weights import load_weights
from discriminator_guidance.config import LockedFile, LockedStage
from discriminator_guidance.errors import InputError
from discriminator_guidance.report.gather import STUDIES
from discriminator_guidance.stages.fetch import listing

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.context import Context
    from discriminator_guidance.stages.layout import Layout

CACHE = Path(".dvc") / "cache" / "files" / "md5"


@dataclass(frozen=True)
class Damage:
    """A file that is not what it should be.

    Args:
        path: relative to the project folder.
        found: what is wrong with it.
        command: what makes it right again.
    """

    path: str
    found: str
    command: str


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what was found.

    Args:
        checked: number of files by kind.
        damages: of those that are damaged.
    """

    checked: dict[str, int]
    damages: list[Damage]


def run(config: Config, context: Context, locked: Sequence[LockedStage]) -> Verified:
    """Compare every file of a profile with what is recorded of it; nothing is changed.

    Args:
        config: reads `fetch`.
        context: surroundings.
        locked: what dvc.lock records of the profile.

    Returns:
        Counts, and each damaged file with the command that rebuilds it.
    """
    layout = context.layout
    recorded = [(stage, file) for stage in locked for file in stage.outputs]
    checked: Counter[str] = Counter()
    damages: list[Damage] = []
    with context.bar("comparing with dvc.lock", len(recorded), "files") as advance:
        for stage, file in recorded:
            checked["results"] += 1
            damages += _result(layout.root, stage, file)
            advance(1)
    damages += _other_inputs(locked)
    known = {layout.root / file.path for _, file in recorded}
    for kind, found in (
        ("downloads", _downloads(config, layout)),
        ("weights of studies", _weights(layout, known)),
        ("results of the factorial", _factorial(layout)),
        ("records of studies", _records(layout)),
        ("tables of studies", _tables(layout)),
        ("unfinished work", _unfinished(layout)),
        ("cached features", _features(layout)),
        ("journals", _journals(layout)),
        ("tracking", _tracking(layout)),
        ("unfinished writes", _temporary(layout)),
    ):
        for damage in found:
            checked[kind] += 1
            damages += [damage] if damage else []
    return Verified(dict(checked), damages)


def _result(root: Path, stage: LockedStage, file: LockedFile) -> Iterator[Damage]:
    path = root / file.path
    if not path.is_file():
        found = "missing"
    elif (size := path.stat().st_size) != file.size:
        found = f"{size:,} bytes instead of {file.size:,}"
    elif wrong := _wrong(path, file.md5):
        found = wrong
    else:
        return
    kept = root / CACHE / file.md5[:2] / file.md5[2:]
    whole = kept.is_file() and not _wrong(kept, file.md5)
    command = f"dvc checkout --force {shlex.quote(file.path)}" if whole else f"dvc repro {shlex.quote(stage.name)}"
    yield Damage(file.path, found, command)


def _other_inputs(locked: Sequence[LockedStage]) -> Iterator[Damage]:
    """Stages that were made from other files than their makers' last ones: a dvc.lock put together from several."""
    made = {file.path: file for stage in locked for file in stage.outputs}
    for stage in locked:
        for file in stage.inputs:
            if file.path in made and made[file.path].md5 != file.md5:
                yield Damage(
                    f"dvc.lock, {stage.name}", f"made from another {file.path}", f"dvc repro {shlex.quote(stage.name)}"
                )


def _downloads(config: Config, layout: Layout) -> Iterator[Damage | None]:
    for row in listing(config, layout.root)[0]:
        path = row["path"]
        again = f"rm {shlex.quote(path)} && dguide fetch --profile {layout.profile} {shlex.quote(row['file'])}"
        if row["state"] != "missing":
            yield Damage(path, row["detail"], again) if row["state"] == "wrong" else None


def _weights(layout: Layout, known: set[Path]) -> Iterator[Damage | None]:
    commands = {"factorial": "dguide factorial", "study": "dguide study"}
    models = layout.root / "models" / layout.profile
    for path in sorted(models.rglob("model.safetensors")):
        if path in known:
            continue
        maker = path.relative_to(models).parts[0]
        command = f"{commands.get(maker, f'dguide {maker}')} --profile {layout.profile}"
        try:
            load_weights(path.parent, maker)
        except InputError as error:
            folder = path.parent.relative_to(layout.root)
            yield Damage(str(folder), error.got, f"rm -r {shlex.quote(str(folder))} && {command}")
        else:
            yield None


def _factorial(layout: Layout) -> Iterator[Damage | None]:
    for pattern in ("cells/*/cell.json", "members/*/losses.json", "members/*/*/losses.json"):
        for path in sorted(layout.factorial.glob(pattern)):
            found = "changed since it was written, or a file beside it was"
            yield _removable(layout, path, found, "dguide factorial makes it anew") if is_damaged(path) else None


def _records(layout: Layout) -> Iterator[Damage | None]:
    """Records of searches, by the digests that the report is told."""
    stamps = layout.evaluation(STUDIES)
    if not stamps.is_file():
        return
    try:
        told = read_json(stamps, "report")
    except InputError as error:
        yield _removable(layout, stamps, error.got, "then run the studies again: each that has ended only writes")
        return
    for word, digest in told.items():
        path = layout.study_reports / f"{word}.json"
        name, again = str(path.relative_to(layout.root)), f"dguide study {word} --profile {layout.profile} --trials 1"
        if not path.is_file():
            yield Damage(name, "missing", again)
        else:
            yield Damage(name, "other bytes than the report was told of", again) if sha256(path) != digest else None


def _tables(layout: Layout) -> Iterator[Damage | None]:
    """What searches and the factorial left in `reports`, by the checksums beside it."""
    for sums in sorted(layout.report.glob(f"*/*{ENDING}")):
        command = "factorial" if sums.stem == "factorial" else f"study {sums.stem} --trials 1"
        again = f"dguide {command} --profile {layout.profile}"
        try:
            told = read_checksums(sums)
        except InputError as error:
            yield Damage(str(sums.relative_to(layout.root)), error.got, again)
            continue
        for name, digest in told.items():
            path = sums.with_name(name)
            found = (
                "missing" if not path.is_file() else "" if sha256(path) == digest else "other bytes than were written"
            )
            yield Damage(str(path.relative_to(layout.root)), found, again) if found else None


def _unfinished(layout: Layout) -> Iterator[Damage | None]:
    for path in sealed_files(layout.partial):
        yield _removable(layout, path, "damaged", "its stage makes it anew") if unsealed(path) is None else None


def _features(layout: Layout) -> Iterator[Damage | None]:
    for path in sorted(layout.feature_cache.glob("*.npz")):
        yield None if is_whole(path) else _removable(layout, path, "damaged", "evaluation makes it anew")


def _journals(layout: Layout) -> Iterator[Damage | None]:
    for path in sorted(layout.study.glob("*.log")):
        *lines, last = path.read_bytes().split(b"\n")
        wrong = next((number for number, line in enumerate(lines, 1) if not _is_json(line)), None)
        name = str(path.relative_to(layout.root))
        if wrong is not None:
            remedy = f"restore {shlex.quote(name)} from a copy, or remove it and search anew"
            yield Damage(name, f"line {wrong} is no JSON", remedy)
        elif last:
            yield Damage(
                name, "its last line is torn", f"dguide study, which leaves it out, --profile {layout.profile}"
            )
        else:
            yield None


def _tracking(layout: Layout) -> Iterator[Damage | None]:
    path = layout.root / "mlflow.db"
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            told = "; ".join(str(row[0]) for row in database.execute("PRAGMA quick_check(3)"))
    except sqlite3.Error as error:
        told = str(error)
    again = "mv mlflow.db mlflow.db.damaged && dguide prepare"
    yield None if told == "ok" else Damage("mlflow.db", " ".join(told.split())[:120], again)


def _temporary(layout: Layout) -> Iterator[Damage | None]:
    for folder in ("data", "models", "reports", ".partial"):
        for path in sorted((layout.root / folder / layout.profile).rglob(f".*{TEMPORARY}")):
            yield _removable(layout, path, "a write that was killed", "when nothing runs")


def _removable(layout: Layout, path: Path, found: str, why: str) -> Damage:
    name = str(path.relative_to(layout.root))
    return Damage(name, found, f"rm {shlex.quote(name)}  # {why}")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _wrong(path: Path, md5: str) -> str:
    """What is wrong with the bytes of a file, or nothing."""
    try:
        with path.open("rb") as stream:
            met = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return "" if met == md5 else "other bytes than dvc.lock records"
