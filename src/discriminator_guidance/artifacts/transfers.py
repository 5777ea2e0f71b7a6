"""One attempt to load a file over HTTPS into a `.part` file, going on from where an earlier attempt broke off."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from discriminator_guidance.artifacts.connections import Interrupted, RangeRefused, Source, open_source, read_some
from discriminator_guidance.artifacts.files import write_json
from discriminator_guidance.artifacts.remote_files import looks_like_html
from discriminator_guidance.errors import InputError

Bar = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]  # (description, total, unit)

LENGTH = re.compile("[0-9]{1,18}")  # of a file, in bytes; nobody has one of more digits
SPARE_ROOM = 64 << 20  # bytes left free on the disk, so that a download never fills it


@dataclass(frozen=True)
class Marks:
    """What identifies the version of a file that a `.part` file is a part of."""

    url: str
    etag: str | None
    last_modified: str | None
    length: int | None


def continue_transfer(
    source: Source, part: Path, bar: Bar, *, stall_s: float, deadline: float, clock: Callable[[], float]
) -> bool:
    """Load what a `.part` file still lacks.

    A server that ignores the wish for a range, or whose file has changed, makes the file start over.

    Args:
        source: where from.
        part: the unfinished file; `<part>.json` beside it says what it is a part of.
        bar: opens a progress bar in kB.
        stall_s: longest silence of the server, seconds.
        deadline: clock time at which to give up.
        clock: seconds, from any origin.

    Returns:
        Whether bytes of an earlier attempt were kept.

    Raises:
        Interrupted: it may go better next time.
        InputError: it will not: refused, not the file, no room.
    """
    kept = _kept_marks(source, part)
    offset = part.stat().st_size if kept else 0
    if kept and kept.length == offset > 0:
        return True
    with _asked(source, part, kept, offset, stall_s) as response:
        headers: Message = response.headers
        if response.status not in (200, 206):
            raise InputError(f"{source.name} from {source.url}", f"HTTP {response.status}", source.remedy)
        start = offset if response.status == 206 else 0
        marks = _marks(source, response)
        if response.status == 206 and not _continues(headers, offset, kept, marks):
            discard(part)
            raise Interrupted("the file on the server has changed")
        chunk = read_some(response)
        _refuse_web_page(source, headers, b"" if start else chunk)
        _refuse_wrong_length(source, headers, marks.length)
        with _writing(part):
            part.parent.mkdir(parents=True, exist_ok=True)
        total = marks.length or source.size
        _require_room(source, part.parent, (total or 0) - start)
        with _writing(part), part.open("ab" if start else "wb") as stream, _progress(bar, source, total) as advance:
            if not start:
                # After the old bytes are gone: marks of the new version never stand beside bytes of the old one.
                write_json(_marks_file(part), asdict(marks))
            done = start
            advance(done)
            while chunk:
                stream.write(chunk)
                done += len(chunk)
                advance(done)
                if clock() > deadline:
                    raise Interrupted("the transfer is too slow")
                chunk = read_some(response)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and done < total:
        raise Interrupted(f"the server hung up after {done:,} of {total:,} bytes")
    return start > 0


def discard(part: Path) -> None:
    """Remove an unfinished file and what is known about it.

    Args:
        part: the unfinished file; it may be missing.
    """
    part.unlink(missing_ok=True)
    _marks_file(part).unlink(missing_ok=True)


@contextmanager
def _asked(
    source: Source, part: Path, kept: Marks | None, offset: int, stall_s: float
) -> Iterator[http.client.HTTPResponse]:
    # Compressed bytes would be neither those counted nor those hashed.
    headers = {"User-Agent": "discriminator-guidance", "Accept-Encoding": "identity"}
    if kept and offset:
        headers["Range"] = f"bytes={offset}-"
        if kept.etag and not kept.etag.startswith("W/"):
            headers["If-Range"] = kept.etag
    try:
        with open_source(source, headers, stall_s) as response:
            yield response
    except RangeRefused:
        discard(part)
        raise


def _marks(source: Source, response: http.client.HTTPResponse) -> Marks:
    headers = response.headers
    told = str(headers.get("Content-Length", ""))
    if response.status == 206:
        told = str(headers.get("Content-Range", "")).rpartition("/")[2]
    length = int(told) if LENGTH.fullmatch(told) else None
    return Marks(source.url, headers.get("ETag"), headers.get("Last-Modified"), length)


def _continues(headers: Message, offset: int, kept: Marks | None, marks: Marks) -> bool:
    first = re.match(rf"bytes ({LENGTH.pattern})-", str(headers.get("Content-Range", "")))
    same = kept is None or (kept.etag, kept.last_modified, kept.length) == (
        marks.etag,
        marks.last_modified,
        marks.length,
    )
    return first is not None and int(first[1]) == offset and same


def _kept_marks(source: Source, part: Path) -> Marks | None:
    try:
        data: Mapping[str, Any] = json.loads(_marks_file(part).read_text(encoding="utf-8"))
        marks = Marks(**data)
        size = part.stat().st_size
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    words = (marks.url, marks.etag, marks.last_modified)
    if not all(word is None or isinstance(word, str) for word in words) or type(marks.length) not in (int, type(None)):
        return None
    recognisable = source.checked or marks.etag is not None or marks.last_modified is not None
    fits = size > 0 and (marks.length is None or size <= marks.length)
    return marks if marks.url == source.url and recognisable and fits else None


def _marks_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _refuse_web_page(source: Source, headers: Message, start: bytes) -> None:
    if headers.get_content_type() == "text/html" or looks_like_html(start):
        drive = str(urlsplit(source.url).hostname).endswith("google.com")
        page = "a page of Google Drive (confirmation or exceeded quota)" if drive else "a web page"
        raise InputError(f"the file {source.name} from {source.url}", page, source.remedy)


def _refuse_wrong_length(source: Source, headers: Message, length: int | None) -> None:
    if str(headers.get("Content-Encoding", "identity")).lower() != "identity":
        raise InputError(f"{source.name} as it is", "a compressed transfer nobody asked for", source.remedy)
    if source.size is not None and length not in (None, source.size):
        raise InputError(f"{source.name} of {source.size:,} bytes", f"{length:,} bytes on offer", source.remedy)
    chunked = str(headers.get("Transfer-Encoding", "")).lower() == "chunked"
    if length is None and not chunked and not source.checked:
        # Its end could not be told from a broken connection, and the wrong bytes would be pinned.
        raise InputError(f"the length of {source.name}", "an answer without one", source.remedy)


def _require_room(source: Source, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_ROOM:
        raise InputError(
            f"room for {source.name} in {folder} ({(needed + SPARE_ROOM) / 1e6:,.0f} MB)",
            f"{free / 1e6:,.0f} MB free",
            "make room and run the command again",
        )


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"to write {part}", str(error.strerror), "give it room and permission") from error


@contextmanager
def _progress(bar: Bar, source: Source, total: int | None) -> Iterator[Callable[[int], None]]:
    """Counts in whole kB what is known in bytes."""
    shown = 0
    kilobytes = -(-total // 1000) if total else 0
    with bar(source.name, kilobytes, "kB") if total else nullcontext(lambda _: None) as advance:

        def reached(done: int) -> None:
            nonlocal shown
            now = kilobytes if done == total else done // 1000
            advance(now - shown)
            shown = now

        yield reached
