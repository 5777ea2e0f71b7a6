"""Downloads from a server that misbehaves: the file is whole and right, or absent, and it ends in bounded time."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from discriminator_guidance.artifacts.downloads import Patience, fetch
from discriminator_guidance.artifacts.remote_files import PINS, RemoteFile, inspect, read_pins
from discriminator_guidance.errors import InputError, OutputError

from ..publisher import Publisher, publishing

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def no_bar(description: str, total: int, unit: str) -> Iterator[Any]:
    yield lambda amount: None


def entry(publisher: Publisher, **changes: Any) -> RemoteFile:
    given = {
        "name": "file",
        "url": f"{publisher.url}/file.bin",
        "redirect_hosts": (),
        "size": len(CONTENT),
        "md5": None,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "path": Path("data/downloads/file.bin"),
        "by_hand": "from the author's page",
    }
    return RemoteFile(**(given | changes))


def unchecked(publisher: Publisher, **changes: Any) -> RemoteFile:
    return entry(publisher, **({"size": None, "sha256": None} | changes))


def load(file: RemoteFile, root: Path, clock: Clock, **changes: Any) -> str:
    given = {"attempts": 4, "stall_s": 0.3, "clock": clock, "sleep": clock.sleep}
    return fetch(file, root, no_bar, Patience(**(given | changes)), local_http=True).detail


def refused(file: RemoteFile, root: Path, clock: Clock, *words: str, **changes: Any) -> None:
    with pytest.raises(InputError) as caught:
        load(file, root, clock, **changes)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert not (root / file.path).exists()


def folder(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "data" / "downloads").glob("*"))


def ranges(publisher: Publisher) -> list[str | None]:
    return [headers.get("Range") for headers in publisher.asked]


def test_a_file_is_loaded_once(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT)]
    assert load(entry(publisher), tmp_path, clock) == "loaded"
    assert load(entry(publisher), tmp_path, clock) == "was here"
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT
    assert folder(tmp_path) == ["file.bin"]
    assert len(publisher.asked) == 1
    assert clock.slept == []


def test_md5_alone_is_a_check(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(OTHER)]
    file = entry(publisher, sha256=None, md5=hashlib.md5(CONTENT).hexdigest())
    refused(file, tmp_path, clock, "md5", "removed")


@pytest.mark.parametrize("stall", [False, True], ids=["truncates", "stalls"])
def test_a_broken_transfer_goes_on_where_it_broke(publisher, tmp_path, clock, stall):
    publisher.script = [
        publisher.whole(CONTENT, '"v1"', cut=100_000, stall=stall),
        publisher.whole(CONTENT, '"v1"', cut=50_000),
        publisher.whole(CONTENT, '"v1"'),
    ]
    load(entry(publisher), tmp_path, clock)
    assert ranges(publisher) == [None, "bytes=100000-", "bytes=150000-"]
    assert publisher.asked[1]["If-Range"] == '"v1"'
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT
    assert clock.slept == [1.0, 2.0]


def test_a_server_that_ignores_ranges_starts_over(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT, cut=100_000), publisher.whole(CONTENT, ranges=False)]
    load(entry(publisher), tmp_path, clock)
    assert ranges(publisher) == [None, "bytes=100000-"]
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT


def test_a_changed_file_starts_over(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(OTHER, '"v1"', cut=100_000), publisher.whole(CONTENT, '"v2"')]
    load(unchecked(publisher), tmp_path, clock)
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT


def test_a_changed_file_starts_over_even_if_the_server_ignores_if_range(publisher, tmp_path, clock):
    def continues(handler):
        handler.headers.replace_header("If-Range", '"v2"')
        publisher.whole(CONTENT, '"v2"')(handler)

    publisher.script = [publisher.whole(OTHER, '"v1"', cut=100_000), continues, publisher.whole(CONTENT, '"v2"')]
    load(unchecked(publisher), tmp_path, clock)
    assert ranges(publisher) == [None, "bytes=100000-", None]
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT


def test_a_shrunken_file_starts_over(publisher, tmp_path, clock):
    publisher.script = [
        publisher.whole(OTHER, '"v1"', cut=100_000),
        publisher.answer(416, Content_Range="bytes */50000"),
        publisher.whole(OTHER[:50_000], '"v2"'),
    ]
    load(unchecked(publisher), tmp_path, clock)
    assert ranges(publisher) == [None, "bytes=100000-", None]
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == OTHER[:50_000]


def test_pieces_that_nothing_could_check_are_not_pieced_together(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(OTHER, cut=100_000), publisher.whole(CONTENT)]
    load(unchecked(publisher), tmp_path, clock)
    assert ranges(publisher) == [None, None]
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT


def test_a_wrong_mixture_is_thrown_away_and_loaded_afresh(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(OTHER, cut=100_000), publisher.whole(CONTENT)]
    load(entry(publisher), tmp_path, clock)
    assert ranges(publisher) == [None, "bytes=100000-", None]
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT


def test_wrong_bytes_are_removed_and_not_asked_for_again(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(OTHER)]
    refused(entry(publisher), tmp_path, clock, "sha256", "removed", "by hand (from the author's page)")
    assert folder(tmp_path) == []
    assert len(publisher.asked) == 1


def test_a_wrong_length_is_refused_before_anything_is_loaded(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT[:-1])]
    refused(entry(publisher), tmp_path, clock, "300,000 bytes", "299,999 bytes")
    assert folder(tmp_path) == []


def test_a_server_in_trouble_is_asked_again(publisher, tmp_path, clock):
    publisher.script = [
        publisher.answer(500),
        publisher.answer(503, Retry_After="7"),
        publisher.answer(429, Retry_After="900"),
        publisher.whole(CONTENT),
    ]
    load(entry(publisher), tmp_path, clock)
    assert clock.slept == [1.0, 7.0, 60.0]


@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_is_final(publisher, tmp_path, clock, code):
    publisher.script = [publisher.answer(code)]
    refused(entry(publisher), tmp_path, clock, f"HTTP {code}", "data/downloads/file.bin by hand")
    assert len(publisher.asked) == 1


def test_attempts_are_bounded_and_what_was_loaded_is_kept(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT, '"v1"', cut=50_000)]
    refused(entry(publisher), tmp_path, clock, "attempts: 3", "0.1 MB are kept", "fetch it again", attempts=3)
    assert len(publisher.asked) == 3
    assert inspect(entry(publisher), tmp_path, {}).detail == "0.1 MB of it are loaded"
    publisher.script = [publisher.whole(CONTENT, '"v1"')]
    load(entry(publisher), tmp_path, clock)
    assert ranges(publisher)[-1] == "bytes=150000-"


def test_time_is_bounded_whatever_the_number_of_attempts(publisher, tmp_path, clock):
    publisher.script = [publisher.answer(500)]
    refused(entry(publisher), tmp_path, clock, "HTTP 500", attempts=1000, total_s=100.0)
    assert clock.now <= 100.0


def test_a_trickle_is_bounded_too(publisher, tmp_path, clock):
    def trickle(handler):
        publisher.whole(CONTENT, cut=1)(handler)
        for byte in range(1, 100):
            clock.now += 1.0
            handler.wfile.write(CONTENT[byte : byte + 1])
            time.sleep(0.002)

    publisher.script = [trickle]
    refused(entry(publisher), tmp_path, clock, "too slow", total_s=10.0)
    assert len(publisher.asked) == 1


def test_headers_that_trickle_are_bounded_too(publisher, tmp_path, clock):
    begun = time.monotonic()

    def trickle(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        while time.monotonic() < begun + 20 and not publisher.release.wait(0.05):
            handler.wfile.write(b"x")

    publisher.script = [trickle, publisher.whole(CONTENT)]
    load(entry(publisher), tmp_path, clock)
    assert clock.slept == [1.0]  # given up once, and asked again
    publisher.script = [trickle]
    begun = time.monotonic()
    refused(entry(publisher, path=Path("data/downloads/b.bin")), tmp_path, clock, "the server fell silent", attempts=1)


def test_nobody_at_the_address(tmp_path, clock):
    with publishing() as gone:
        pass
    refused(entry(gone), tmp_path, clock, "refused", "attempts: 4")


def test_no_network_is_said_at_once(publisher, tmp_path, clock):
    refused(entry(publisher, url="https://nowhere.invalid/file"), tmp_path, clock, "no network")
    assert clock.slept == []


@pytest.mark.parametrize(
    ("kind", "start"),
    [("text/html; charset=utf-8", b""), ("application/octet-stream", b"\xef\xbb\xbf \n<!DOCTYPE html>")],
    ids=["by its type", "by its text"],
)
def test_a_web_page_is_not_the_file(publisher, tmp_path, clock, kind, start):
    page = start + b"<html><title>Google Drive - Virus scan warning</title></html>"
    publisher.script = [publisher.answer(200, page, Content_Type=kind)]
    for file in (entry(publisher), unchecked(publisher)):
        refused(file, tmp_path, clock, "a web page", "by hand")
    assert folder(tmp_path) == []
    assert not (tmp_path / PINS).exists()


def test_a_web_page_saved_by_hand_is_not_the_file(publisher, tmp_path, clock):
    path = tmp_path / "data/downloads/file.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<!doctype html><html>quota exceeded</html>")
    with pytest.raises(InputError, match="a web page"):
        load(unchecked(publisher), tmp_path, clock)
    assert path.exists()


def test_redirects_stay_with_known_hosts(publisher, tmp_path, clock):
    publisher.script = [publisher.answer(302, Location="/moved.bin"), publisher.whole(CONTENT)]
    assert load(entry(publisher), tmp_path, clock) == "loaded"


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("https://evil.example/file", "evil.example"),
        ("http://evil.example/file", "http://evil.example"),
        ("https://127.0.0.1@evil.example/", "evil.example"),
        ("file:///etc/passwd", "nowhere"),
        ("ftp://127.0.0.1/file", "ftp://"),
    ],
)
def test_redirects_elsewhere_are_refused(publisher, tmp_path, clock, target, word):
    publisher.script = [publisher.answer(302, Location=target)]
    refused(entry(publisher), tmp_path, clock, word)
    assert len(publisher.asked) == 1


def test_a_redirect_to_a_registered_host_is_followed(publisher, tmp_path, clock):
    publisher.script = [publisher.answer(302, Location="https://cdn.invalid/file")]
    refused(entry(publisher, redirect_hosts=("cdn.invalid",)), tmp_path, clock, "no such host")


def test_the_body_of_a_redirect_is_not_waited_for(publisher, tmp_path, clock):
    def endless(handler):
        handler.send_response(302)
        handler.send_header("Location", f"{publisher.url}/there")
        handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        handler.wfile.flush()
        publisher.release.wait(20)

    publisher.script = [endless, publisher.whole(CONTENT)]
    load(entry(publisher), tmp_path, clock, attempts=1)


def test_redirects_in_a_circle_end(publisher, tmp_path, clock):
    publisher.script = [publisher.answer(302, Location="/file.bin")]
    refused(entry(publisher), tmp_path, clock, "redirects that lead nowhere")
    assert len(publisher.asked) <= 6


def test_plain_http_is_refused(publisher, tmp_path):
    with pytest.raises(InputError, match="over https"):
        fetch(entry(publisher), tmp_path, no_bar)
    assert publisher.asked == []


def test_no_room(publisher, tmp_path, clock, monkeypatch):
    publisher.script = [publisher.whole(CONTENT)]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    refused(entry(publisher), tmp_path, clock, "room for file", "1 MB free")
    assert folder(tmp_path) == []


def test_a_full_disk_is_one_line(publisher, tmp_path, clock, monkeypatch):
    publisher.script = [publisher.whole(CONTENT)]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device; give it room"):
        load(entry(publisher), tmp_path, clock)


def test_first_use_pins_and_a_later_change_is_refused(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT)]
    assert "commit it" in load(unchecked(publisher), tmp_path, clock)
    assert json.loads((tmp_path / PINS).read_text()) == {
        "file": {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    }
    assert load(unchecked(publisher), tmp_path, clock) == "was here"

    path = tmp_path / "data/downloads/file.bin"
    path.write_bytes(OTHER)
    assert inspect(unchecked(publisher), tmp_path, read_pins(tmp_path)).state == "wrong"
    with pytest.raises(InputError, match=r"pinned in configs/downloads.lock.json.*remove the file"):
        load(unchecked(publisher), tmp_path, clock)
    assert path.read_bytes() == OTHER

    path.unlink()
    publisher.script = [publisher.whole(OTHER)]
    refused(unchecked(publisher), tmp_path, clock, "sha256", "pinned", "removed")
    publisher.script = [publisher.whole(CONTENT)]
    assert load(unchecked(publisher), tmp_path, clock) == "loaded"


def test_pins_of_other_files_stay(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT)]
    for name in ("b", "a"):
        load(unchecked(publisher, name=name, path=Path(f"data/downloads/{name}")), tmp_path, clock)
    assert list(read_pins(tmp_path)) == ["a", "b"]


def test_a_damaged_lock_file_is_named(publisher, tmp_path, clock):
    (tmp_path / PINS).parent.mkdir()
    for text in ("{", "[]", '{"file": {"size": 1}}'):
        (tmp_path / PINS).write_text(text)
        refused(entry(publisher), tmp_path, clock, str(PINS), "version control")


def test_a_file_put_by_hand_is_pinned(publisher, tmp_path, clock):
    file = unchecked(publisher, url=None)
    refused(file, tmp_path, clock, "no address", "by hand (from the author's page)")
    path = tmp_path / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert inspect(file, tmp_path, {}).state == "unverified"
    assert load(file, tmp_path, clock).startswith("was here, pinned")
    assert inspect(file, tmp_path, read_pins(tmp_path)).state == "verified"


def test_an_answer_without_an_end_is_not_pinned(publisher, tmp_path, clock):
    def endless(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT[:1000])

    publisher.script = [endless]
    refused(unchecked(publisher), tmp_path, clock, "length")
    assert not (tmp_path / PINS).exists()


@pytest.mark.parametrize("told", ["9" * 5000, "\u0663", "1e3", "-1", ""])
def test_a_length_that_is_none_is_one_line(publisher, tmp_path, clock, told):
    publisher.script = [publisher.answer(200, CONTENT[:1000], Content_Length=told.encode().decode("latin-1"))]
    refused(unchecked(publisher), tmp_path, clock, "length", attempts=1)
    assert load(entry(publisher, size=1000, sha256=hashlib.sha256(CONTENT[:1000]).hexdigest()), tmp_path, clock)


@pytest.mark.parametrize("told", ["bytes " + "9" * 5000 + "-9/300000", "bytes 50000-299999/" + "9" * 5000])
def test_a_range_that_is_none_starts_over(publisher, tmp_path, clock, told):
    publisher.script = [
        publisher.whole(CONTENT, '"v1"', cut=50_000),
        publisher.answer(206, CONTENT[50_000:], ETag='"v1"', Content_Range=told),
        publisher.whole(CONTENT, '"v1"'),
    ]
    load(entry(publisher), tmp_path, clock)
    assert ranges(publisher) == [None, "bytes=50000-", None]


def test_progress_ends_at_the_total(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT[:-1], '"v1"', cut=70_001), publisher.whole(CONTENT[:-1], '"v1"')]
    bars: list[tuple[int, str, list[int]]] = []

    @contextmanager
    def bar(description: str, total: int, unit: str) -> Iterator[Any]:
        bars.append((total, unit, []))
        yield bars[-1][2].append

    fetch(unchecked(publisher), tmp_path, bar, Patience(clock=clock, sleep=clock.sleep), local_http=True)
    assert [(total, unit) for total, unit, _ in bars] == [(300, "kB"), (300, "kB")]
    assert sum(bars[0][2]) == 70
    assert bars[1][2][0] == 70
    assert sum(bars[1][2]) == 300


CHILD = """
import sys
from contextlib import nullcontext
from pathlib import Path
from discriminator_guidance.artifacts.downloads import fetch
from discriminator_guidance.artifacts.remote_files import RemoteFile
file = RemoteFile("file", sys.argv[1], (), None, None, None, Path("data/downloads/file.bin"), "by hand")
fetch(file, Path(sys.argv[2]), lambda *_: nullcontext(lambda _: None), local_http=True)
"""


def test_kill_in_the_middle_then_the_same_bytes(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT, '"v1"', cut=200_000, stall=True), publisher.whole(CONTENT, '"v1"')]
    file = unchecked(publisher)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(file.url), str(tmp_path)], env={**os.environ})
    part = tmp_path / "data/downloads/file.bin.part"
    patience = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size > 100_000):
        assert child.poll() is None
        assert time.monotonic() < patience
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = part.stat().st_size
    assert not (tmp_path / file.path).exists()
    assert load(file, tmp_path, clock).startswith("loaded")
    assert ranges(publisher) == [None, f"bytes={kept}-"]
    assert (tmp_path / file.path).read_bytes() == CONTENT
    assert folder(tmp_path) == ["file.bin"]


def test_a_part_that_was_whole_is_not_asked_for_again(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(CONTENT, '"v1"', cut=299_999), publisher.answer(404)]
    refused(entry(publisher), tmp_path, clock)
    with (tmp_path / "data/downloads/file.bin.part").open("ab") as part:
        part.write(CONTENT[299_999:])
    assert load(entry(publisher), tmp_path, clock) == "loaded"
    assert len(publisher.asked) == 2


MARKS = '{"url": "%s/file.bin", "etag": %s, "last_modified": null, "length": %s}'


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"url": 1}', "[" * 100_000, MARKS % ("U", "7", "null"), MARKS % ("U", "null", '"x"'),
     MARKS % ("U", "null", "[]"), MARKS % ("U", "null", "true"), MARKS % ("U", "null", "9" * 5000)],
    ids=lambda text: repr(text[:100]),
)  # fmt: skip
def test_a_part_of_unknown_origin_is_not_continued(publisher, tmp_path, clock, text):
    part = tmp_path / "data/downloads/file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(OTHER[:1000])
    part.with_name("file.bin.part.json").write_text(text.replace("U", publisher.url))
    publisher.script = [publisher.whole(CONTENT)]
    load(entry(publisher), tmp_path, clock)
    assert ranges(publisher) == [None]


def test_a_part_from_another_address_is_not_continued(publisher, tmp_path, clock):
    publisher.script = [publisher.whole(OTHER, '"v1"', cut=1000), publisher.whole(CONTENT, '"v1"')]
    refused(unchecked(publisher), tmp_path, clock, attempts=1)
    load(unchecked(publisher, url=f"{publisher.url}/elsewhere"), tmp_path, clock)
    assert ranges(publisher) == [None, None]
    assert (tmp_path / "data/downloads/file.bin").read_bytes() == CONTENT
