"""Downloads: patient, bounded in time, whole or absent, and checked before they get their final name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from discriminator_guidance.artifacts.connections import Interrupted, Source
from discriminator_guidance.artifacts.remote_files import (
    PINS,
    Finding,
    RemoteFile,
    inspect,
    judge,
    part_of,
    read_pins,
    write_pin,
)
from discriminator_guidance.artifacts.transfers import Bar, continue_transfer, discard
from discriminator_guidance.errors import InputError


@dataclass(frozen=True)
class Patience:
    """How long to try. Every wait and every attempt counts towards the total.

    Args:
        attempts: how many times a transfer is begun or continued.
        first_wait_s: pause after the first failure, doubled after each further one, seconds.
        longest_wait_s: bound of a pause, seconds.
        stall_s: longest silence of a server, seconds.
        total_s: bound of the whole, seconds.
        clock: seconds, from any origin.
        sleep: waits that many seconds.
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    stall_s: float = 30.0
    total_s: float = 4 * 3600.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def fetch(
    file: RemoteFile, root: Path, bar: Bar, patience: Patience | None = None, *, local_http: bool = False
) -> Finding:
    """See to it that a file is here and is what it should be.

    Args:
        file: which.
        root: project folder.
        bar: opens a progress bar.
        patience: how long to try.
        local_http: also accept plain http on 127.0.0.1 (for tests).

    Returns:
        A finding in state "verified"; its detail says whether the file was loaded or pinned.

    Raises:
        InputError: it is wrong, can only be got by hand, or could not be loaded.
    """
    found = inspect(file, root, read_pins(root))
    if found.state == "wrong":
        raise InputError(
            f"{file.name} at {file.path}", found.detail, "remove the file, then fetch it or put the right one there"
        )
    if found.state == "missing":
        if file.url is None:
            raise InputError(f"{file.name} at {file.path}", "no such file, and no address to load it from", file.remedy)
        found = _load(file, root, bar, patience or Patience(), local_http)
        done = "loaded"
    else:
        done = "was here"
    if found.state == "unverified" and found.pin is not None:
        write_pin(root, file.name, found.pin)
        done += f", pinned in {PINS}: commit it"
    return Finding("verified", done, found.pin)


def _load(file: RemoteFile, root: Path, bar: Bar, patience: Patience, local_http: bool) -> Finding:
    path, part = root / file.path, part_of(root / file.path)
    pins = read_pins(root)
    pin = pins.get(file.name)
    size = pin.size if pin and not file.published else file.size
    source = Source(
        name=file.name,
        url=str(file.url),
        redirect_hosts=file.redirect_hosts,
        size=size,
        checked=file.published or pin is not None,
        remedy=file.remedy,
        local_http=local_http,
    )
    deadline = patience.clock() + patience.total_s
    wait = patience.first_wait_s
    for attempt in range(1, patience.attempts + 1):
        try:
            resumed = continue_transfer(
                source, part, bar, stall_s=patience.stall_s, deadline=deadline, clock=patience.clock
            )
            found = judge(file, part, pins)
            if found.state != "wrong":
                part.replace(path)
                discard(part)
                return found
            discard(part)
            if not resumed:
                raise InputError(f"{file.name} from {file.url}", f"{found.detail}; it was removed", file.remedy)
            raise Interrupted(f"{found.detail} after going on from an earlier attempt")
        except Interrupted as error:
            pause = min(max(wait, error.wait_s), patience.longest_wait_s)
            if attempt == patience.attempts or patience.clock() + pause > deadline:
                raise _gave_up(file, part, error, attempt) from error
            patience.sleep(pause)
            wait *= 2
    raise ValueError("at least one attempt is needed")


def _gave_up(file: RemoteFile, part: Path, error: Interrupted, attempts: int) -> InputError:
    kept = part.stat().st_size if part.is_file() else 0
    loaded = f", {kept / 1e6:,.1f} MB are kept" if kept else ""
    return InputError(
        f"{file.name} from {urlsplit(str(file.url)).hostname}",
        f"{error} (attempts: {attempts}{loaded})",
        f"fetch it again to go on from there, or {file.remedy}",
    )
