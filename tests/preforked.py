"""`dguide` as a fork of a process that has imported everything: dozens of starts in the time of two.

The server (python -m tests.preforked SOCKET) computes nothing, because threads of a parent do not survive in its forks.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from .commands import FIRST_IN_PATH, PROJECT, environment, unshared

CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 1))
"""
STAGES = ("real", "score", "extractor", "fid_network", "fake", "discriminator", "guided", "evaluation", "report")


@contextmanager
def preforked(folder: Path) -> Iterator[None]:
    """Let every `dguide` run as a fork of a server, which is without network where this machine can do that."""
    address, client = folder / "socket", folder / "dguide"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    command = [*unshared("--net"), sys.executable, "-m", "tests.preforked", str(address)]
    with subprocess.Popen(command, cwd=PROJECT, env=environment()) as server:
        try:
            while not address.exists():
                assert server.poll() is None, "the server did not begin"
                time.sleep(0.05)
            FIRST_IN_PATH.append(str(folder))
            yield
        finally:
            FIRST_IN_PATH.clear()
            server.terminate()


def main() -> None:
    """Serve until terminated."""
    from dguide.__main__ import main as dguide

    for name in (*(f"dguide.stages.{word}" for word in STAGES), "matplotlib.pyplot", "torchmetrics"):
        import_module(name)
    gc.freeze()  # a fork that collects garbage would copy all that was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(f"{sys.argv[1]}.new")
        server.listen()
        Path(f"{sys.argv[1]}.new").rename(sys.argv[1])
        while (connection := server.accept()[0]) and os.fork():
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, *_ = socket.recv_fds(connection, 2**20, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.argv, folder, variables = json.loads(message)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    code = 0
    try:
        dguide()
    except SystemExit as ended:
        code = int(ended.code or 0)
    sys.stdout.flush()
    connection.send(str(code).encode())


if __name__ == "__main__":
    main()
