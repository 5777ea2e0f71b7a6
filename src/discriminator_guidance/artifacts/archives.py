"""A folder or a zip archive as a set of named files, read into memory, never unpacked to disk."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from discriminator_guidance.artifacts.files import ARCHIVE_ERRORS, sha256
from discriminator_guidance.errors import InputError

MAX_FILE_BYTES = 2**26
MAX_NAME, MAX_PARTS = 1024, 32  # of a file in an archive: letters, and folders it is in
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
NOT_OURS = "__MACOSX"


@dataclass(frozen=True)
class Files:
    """Files by relative name, with forward slashes.

    Args:
        path: the folder or archive.
        names: of its files, sorted, hidden ones left out.
        folders: names of the folders inside, empty ones too.
        read: the bytes of a file by name; may be called from several threads.
    """

    path: Path
    names: tuple[str, ...]
    folders: frozenset[str]
    read: Callable[[str], bytes]


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """Look into a folder or a zip archive.

    Args:
        path: a folder, or a file that is a zip archive.

    Yields:
        Its files, readable until the end of the block.

    Raises:
        InputError: missing, damaged, or with a name that points elsewhere (absolute, "..", a link) or occurs twice.
    """
    if path.is_dir():
        yield _folder(path)
        return
    if not path.is_file():
        raise InputError(f"{path}", "no such file or folder", "set real.path (or real.holdout_path) to where it is")
    try:
        archive = zipfile.ZipFile(path)
    except ARCHIVE_ERRORS as error:
        raise InputError(f"a whole zip archive {path}", str(error), "copy or download it again") from error
    with archive:
        yield _zip(path, archive)


def source_digest(path: Path) -> str:
    """The SHA-256 of a data source: of the file's bytes, or of all names and contents of a folder.

    Args:
        path: a file or a folder.

    Returns:
        64 hexadecimal digits.
    """
    if not path.is_dir():
        return sha256(path)
    digest = hashlib.sha256()
    for name in _folder(path).names:
        digest.update(f"{name}\0{sha256(path / name)}\0".encode())
    return digest.hexdigest()


def _folder(path: Path) -> Files:
    names: list[str] = []
    folders: set[str] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(path / prefix) as scan:
                entries = [entry for entry in scan if not _hidden(entry.name)]
        except OSError as error:
            raise InputError(f"a readable folder {path / prefix}", str(error), "mend its permissions") from error
        for entry in entries:
            name = f"{prefix}/{entry.name}".lstrip("/")
            if entry.is_dir(follow_symlinks=False):
                folders.add(name)
                waiting.append(name)
            elif entry.is_file(follow_symlinks=False):
                names.append(name)
            else:
                raise InputError(f"plain files and folders in {path}", f"{name}, a link or device", "remove it")

    def read(name: str) -> bytes:
        try:
            with (path / name).open("rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"a readable file {path / name}", str(error), "mend or remove it") from error
        if len(content) > MAX_FILE_BYTES:
            raise _too_large(path, name)
        return content

    return Files(path, tuple(sorted(names)), frozenset(folders), read)


def _zip(path: Path, archive: zipfile.ZipFile) -> Files:
    entries = archive.infolist()
    twice = [name for name, count in Counter(entry.filename for entry in entries).items() if count > 1]
    if twice:
        raise InputError(
            f"each name once in {path}", f"{twice[0][:MAX_NAME]!r} more than once", "make the archive again"
        )
    for entry in entries:
        _check_entry(path, entry)
    shown = {entry.filename: entry for entry in entries if not any(map(_hidden, entry.filename.split("/")))}
    names = tuple(sorted(name for name in shown if not name.endswith("/")))
    parents = {name.rpartition("/")[0] for name in shown}  # of "a/b/", the entry of a folder, that is "a/b"
    folders = {parent[:end] for parent in parents for end in _ends(parent)}

    def read(name: str) -> bytes:
        try:
            return archive.read(shown[name])
        except ARCHIVE_ERRORS as error:
            raise InputError(f"an undamaged {name} in {path}", str(error), "copy or download it again") from error

    return Files(path, names, frozenset(folders), read)


def _ends(folder: str) -> list[int]:
    return [i for i, letter in enumerate(folder) if letter == "/"] + ([len(folder)] if folder else [])


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    # Short archives can hold names whose folders take memory by the square of their length.
    if len(entry.orig_filename) > MAX_NAME or entry.orig_filename.count("/") > MAX_PARTS:
        raise InputError(
            f"names of at most {MAX_NAME} letters and {MAX_PARTS} folders in {path}",
            f"{entry.orig_filename[:40]!r} and so on",
            "make the archive again",
        )
    parts = entry.orig_filename.removesuffix("/").split("/")
    drive = len(parts[0]) == 2 and parts[0][1] == ":"
    if drive or any(part in ("", ".", "..") for part in parts) or any(c in entry.orig_filename for c in "\\\0"):
        raise InputError(f"relative names in {path}", repr(entry.orig_filename), "make the archive again")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"plain files in {path}", f"{entry.filename}, a link or device", "make the archive again")
    if entry.flag_bits & 1 or entry.compress_type not in COMPRESSIONS:
        raise InputError(
            f"deflated or stored files in {path}",
            f"{entry.filename}, encrypted or compressed otherwise",
            "zip it again",
        )
    if entry.file_size > MAX_FILE_BYTES:  # reading stops at this size, whatever the compressed data hold
        raise _too_large(path, entry.filename)


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == NOT_OURS


def _too_large(path: Path, name: str) -> InputError:
    return InputError(f"files of at most {MAX_FILE_BYTES:,} bytes in {path}", f"{name}, which is larger", "remove it")
