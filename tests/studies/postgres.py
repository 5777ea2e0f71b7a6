"""A PostgreSQL server of its own for a test, on loopback, with a password, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# PostgreSQL refuses to run as root; then it runs as the first of these that there is.
USERS = ("postgres", "nobody")


def server_programs() -> Path | None:
    """The folder with `initdb` and `postgres`: on the path, or where distributions put them; the newest."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return max(folders, key=lambda folder: float(folder.parent.name), default=None)


@dataclass
class Server:
    """A running server that can be stopped and started again."""

    command: list[Any]
    folder: Path
    port: int
    password: str
    identity: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its database, for Optuna, with the user."""
        return f"postgresql+psycopg://study@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Begin to serve."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log, **self.identity)
        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End every connection and the server."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # "fast": does not wait for clients to leave
        self.process.wait(timeout=60)


@contextmanager
def postgres_server(programs: Path) -> Iterator[Server]:
    """Run a server while the enclosed work lasts."""
    identity = _identity()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to other users
    try:
        password, secret, data = secrets.token_hex(8), folder / "password", folder / "data"
        secret.write_text(password)
        if identity:
            for path in (folder, secret):
                shutil.chown(path, identity["user"], identity["group"])
        options = ["--auth=scram-sha-256", "--username=study", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
        command = [programs / "initdb", "--no-sync", *options, "--pgdata", data]
        subprocess.run(command, cwd=folder, capture_output=True, check=True, **identity)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=50")
        arguments = [item for setting in settings for item in ("-c", setting)]
        command = [programs / "postgres", "-D", data, "-p", str(port), *arguments]
        server = Server(command, folder, port, password, identity)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _identity() -> dict[str, Any]:
    """Arguments of `Popen` under which PostgreSQL agrees to run."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(names[name] for name in USERS if name in names)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
