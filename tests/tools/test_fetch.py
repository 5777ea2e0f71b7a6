"""Command `fetch`, against a local server."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pooch
import pytest

from dguide.settings import Config, load_config
from dguide.settings.config import Download
from dguide.tools import fetch
from discriminator_guidance.core.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]
CONTENT = b"\x80\x04" + bytes(range(256)) * 2000
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class Publisher(BaseHTTPRequestHandler):
    """Answers by name; a list of what was asked is kept on the server."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    made = ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    made.asked = []  # type: ignore[attr-defined]
    Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def config_with(server: Any, **files: str | None) -> Config:
    """Files by name with their known hashes; those named private have no address."""
    made = {}
    for name, known in files.items():
        url = None if name.startswith("private") else f"http://127.0.0.1:{server.server_port}/{name}"
        made[name] = Download(url=url, hash=known, path=f"data/raw/{name}", by_hand="from its page")
    return replace(load_config(PROJECT / "configs" / "mini.yaml"), fetch=made)


def states(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["file"]: row["state"] for row in rows}


def files_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_files_are_listed_downloaded_checked_and_kept(server, tmp_path):
    config = config_with(server, checked=SHA256, old=MD5, plain=None, private=None)
    rows = fetch.listing(config, tmp_path)
    assert states(rows) == dict.fromkeys(["checked", "old", "plain", "private"], "missing")
    assert rows[0]["detail"] == "dguide fetch checked, or put the file at data/raw/checked by hand (from its page)"
    assert rows[3]["detail"] == "put the file at data/raw/private by hand (from its page)"
    assert server.asked == []

    for _ in range(2):
        rows = fetch.run(config, tmp_path)
        assert states(rows) == {"checked": "checked", "old": "checked", "plain": "unchecked", "private": "missing"}
        assert server.asked == ["/checked", "/old", "/plain"]
    assert f"hash: {SHA256}" in rows[2]["detail"]
    assert files_in(tmp_path) == ["checked", "old", "plain"]
    assert (tmp_path / "data/raw/plain").read_bytes() == CONTENT
    assert fetch.listing(config, tmp_path) == rows


def test_one_failure_does_not_stop_the_others_and_other_bytes_never_get_the_name(server, tmp_path):
    config = config_with(server, absent=SHA256, other=f"sha256:{'0' * 64}", old=MD5)
    absent = "absent cannot be fetched .*404.*put the file at data/raw/absent by hand"
    with pytest.raises(InputError, match=f"{absent}.*other cannot be fetched from http"):
        fetch.run(config, tmp_path)
    assert server.asked.count("/absent") == 4
    assert files_in(tmp_path) == ["old"]


def test_a_wrong_file_is_neither_used_nor_overwritten(server, tmp_path):
    config = config_with(server, a=SHA256, private=SHA256)
    (tmp_path / "data/raw").mkdir(parents=True)
    for name in ("a", "private"):
        path = tmp_path / "data/raw" / name
        path.write_bytes(b"mine")
        assert states(fetch.listing(config, tmp_path, [name])) == {name: "wrong"}
        with pytest.raises(InputError, match=f"{name} at data/raw/{name} is sha256:.*remove it"):
            fetch.run(config, tmp_path, [name])
        assert path.read_bytes() == b"mine"
    assert server.asked == []
