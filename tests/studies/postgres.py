"""A PostgreSQL server of its own for a test, on loopback, with a password, gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USERS = ("postgres", "nobody")  # PostgreSQL refuses to run as root; then it runs as the first of these that there is


def server_programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`: on the path, or where distributions put them; the newest."""
    if program := shutil.which("initdb"):
        return Path(program).resolve().parent
    folders = (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return max(folders, key=lambda folder: float(folder.parent.name), default=None)


@dataclass(frozen=True)
class Server:
    """A running server that can be stopped and started again."""

    programs: Path
    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        """Of its database, for Optuna, with the user."""
        return f"postgresql+psycopg://study@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Begin to serve."""
        self.run("pg_ctl", "start", "--wait", "--log", "log")

    def stop(self) -> None:
        """End every connection and the server."""
        self.run("pg_ctl", "stop", "--mode=fast")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs on the server's data, as a user that it accepts."""
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = next(entry for name in USERS for entry in pwd.getpwall() if entry.pw_name == name)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            for path in (self.folder, self.folder / "password"):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        command = [self.programs / program, *arguments, "--pgdata", "data"]
        subprocess.run(command, cwd=self.folder, stdout=subprocess.DEVNULL, check=True, **identity)


@contextmanager
def postgres_server(programs: Path) -> Iterator[Server]:
    """Run a server while the enclosed work lasts."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to other users
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(programs, folder, probe.getsockname()[1], secrets.token_hex(8))
    try:
        (folder / "password").write_text(server.password)
        options = ["--auth=scram-sha-256", "--username=study", "--pwfile=password", "--encoding=UTF8", "--locale=C"]
        server.run("initdb", "--no-sync", *options)
        with (folder / "data/postgresql.conf").open("a") as settings:
            settings.write(f"port = {server.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
