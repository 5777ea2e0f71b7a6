"""Files that others publish: which of them are here, and whether they are what they should be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from discriminator_guidance.artifacts.claims import alone
from discriminator_guidance.artifacts.files import write_json
from discriminator_guidance.errors import InputError

PINS = Path("configs") / "downloads.lock.json"
State = Literal["verified", "unverified", "wrong", "missing"]
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<!--")


@dataclass(frozen=True)
class RemoteFile:
    """A file of the registry.

    Args:
        name: its key in registry and pins.
        url: https address; None if it can only be got by hand.
        redirect_hosts: other hosts that a redirect may lead to.
        size: published number of bytes, or None.
        md5: published checksum, or None.
        sha256: published checksum, or None.
        path: where it belongs, relative to the project.
        by_hand: where a person finds it.
    """

    name: str
    url: str | None
    redirect_hosts: tuple[str, ...]
    size: int | None
    md5: str | None
    sha256: str | None
    path: Path
    by_hand: str

    @property
    def published(self) -> bool:
        """Whether its publisher gives a checksum."""
        return self.md5 is not None or self.sha256 is not None

    @property
    def remedy(self) -> str:
        """What a person can do instead."""
        return f"put the file at {self.path} by hand ({self.by_hand})"


@dataclass(frozen=True)
class Pin:
    """What a file without a published checksum was when it was first used."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Finding:
    """What is at a file's place.

    Args:
        state: "verified" (published or pinned checksum agrees), "unverified" (nothing to compare with yet), "wrong",
            "missing".
        detail: what else there is to say.
        pin: size and sha256 of what is there.
    """

    state: State
    detail: str = ""
    pin: Pin | None = None


def read_pins(root: Path) -> dict[str, Pin]:
    """The pins of files that were used before.

    Args:
        root: project folder.

    Returns:
        By name of the file; empty before the first use.

    Raises:
        InputError: the lock file is damaged.
    """
    path = root / PINS
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: Pin(int(entry["size"]), str(entry["sha256"])) for name, entry in data.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"size and sha256 by name in {PINS}", str(error), "restore it from version control") from error


def inspect(file: RemoteFile, root: Path, pins: Mapping[str, Pin]) -> Finding:
    """Compare what is at a file's place with what should be there.

    Args:
        file: which.
        root: project folder.
        pins: of `read_pins`.

    Returns:
        State, detail, size and sha256.
    """
    path, part = root / file.path, part_of(root / file.path)
    if not path.exists():
        loaded = part.stat().st_size if part.is_file() else 0
        return Finding("missing", f"{loaded / 1e6:,.1f} MB of it are loaded" if loaded else "")
    if not path.is_file():
        return Finding("wrong", "not a file")
    return judge(file, path, pins)


def judge(file: RemoteFile, path: Path, pins: Mapping[str, Pin]) -> Finding:
    """Compare bytes with the published size and checksum, or where there is none, with the pin.

    Args:
        file: what they should be.
        path: where they are.
        pins: of `read_pins`.

    Returns:
        State, detail, size and sha256.
    """
    with path.open("rb") as stream:
        if looks_like_html(stream.read(512)):
            return Finding("wrong", "a web page")
    size, md5, sha256 = _measure(path)
    here = Pin(size, sha256)
    pin = pins.get(file.name)
    if file.published or pin is None:
        wanted = {"bytes": file.size, "md5": file.md5, "sha256": file.sha256}
    else:
        wanted = {"bytes": pin.size, "sha256": pin.sha256}
    measured = {"bytes": size, "md5": md5, "sha256": sha256}
    for kind, value in wanted.items():
        if value is not None and value != measured[kind]:
            origin = "published" if file.published or pin is None else f"pinned in {PINS}"
            return Finding("wrong", f"{kind} {measured[kind]} instead of {value} ({origin})", here)
    return Finding("verified" if file.published or pin else "unverified", "", here)


def write_pin(root: Path, name: str, pin: Pin) -> None:
    """Remember what a file was, for every later use.

    Args:
        root: project folder.
        name: the file's key in the registry.
        pin: its size and checksum.
    """
    # Several stages may meet here, each with a file that it uses first; those of all profiles share the pins.
    with alone(root / ".partial" / "pins.lock"):
        pins = read_pins(root) | {name: pin}
        write_json(root / PINS, {key: {"size": p.size, "sha256": p.sha256} for key, p in sorted(pins.items())})


def part_of(path: Path) -> Path:
    """Where the bytes of an unfinished file are kept.

    Args:
        path: the file's final name.

    Returns:
        The same with `.part` appended.
    """
    return path.with_name(f"{path.name}.part")


def looks_like_html(start: bytes) -> bool:
    """Whether a file starts like a web page.

    Args:
        start: its first bytes.

    Returns:
        True for HTML, after an optional byte-order mark and white space.
    """
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(HTML_STARTS)


def _measure(path: Path) -> tuple[int, str, str]:
    digests = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    size = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            size += len(block)
            for digest in digests:
                digest.update(block)
    return size, digests[0].hexdigest(), digests[1].hexdigest()
