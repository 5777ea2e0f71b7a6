"""A `dguide` or `dvc` that begins as a fork of what has imported everything: hundreds of starts in the time of ten.

    python -m tests.preforked SOCKET

serves what scripts written by `write_client` ask for. The server computes nothing itself, because threads of a parent
do not survive in its forks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
STAGES = (
    "real",
    "score",
    "extractor",
    "fid_network",
    "fake",
    "discriminator",
    "guided",
    "evaluation",
    "report",
    "verify",
)
# What stages, and DVC, import when they need it.
LATER = (
    "dvc.cli.parser",
    "dvc.repo.reproduce",
    "matplotlib.pyplot",
    "pandas",
    "scipy.special",
)
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect({address!r})
    told = json.dumps([{program!r}, sys.argv[1:], os.getcwd(), dict(os.environ)])
    socket.send_fds(connection, [told.encode()], [0, 1, 2])
    sys.exit(int(connection.recv(16)))
"""


def write_client(path: Path, address: Path) -> None:
    """Write the script that stands in for the program it is named after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CLIENT.format(python=sys.executable, address=str(address), program=path.name))
    path.chmod(0o755)


@contextmanager
def served(address: Path, prefix: list[str], variables: Mapping[str, str]) -> Iterator[None]:
    """Keep a server, started with a prefix to its command and more variables, as long as the context lasts."""
    command = [*prefix, sys.executable, "-m", "tests.preforked", str(address)]
    server = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, "OMP_NUM_THREADS": "1", **variables})
    try:
        while not address.exists():
            assert server.poll() is None, "the server did not begin"
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """See the module."""
    from dvc.cli import main as dvc

    from discriminator_guidance.cli import main as dguide

    programs = {"dguide": dguide, "dvc": lambda: sys.exit(dvc(sys.argv[1:]))}
    for name in [*(f"discriminator_guidance.stages.{word}" for word in STAGES), *LATER]:
        import_module(name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(f"{sys.argv[1]}.begun")
        server.listen()
        Path(f"{sys.argv[1]}.begun").rename(sys.argv[1])
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks leave without being waited for
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _attend(connection, programs)
            connection.close()


def _attend(connection: socket.socket, programs: dict[str, Callable[[], object]]) -> None:
    """Run what a client asks for in a fork, and tell it the end: the server goes on, since `dvc` asks for `dguide`."""
    told, streams, *_ = socket.recv_fds(connection, 2**20, 3)
    program, arguments, folder, environment = json.loads(told)
    pid = os.fork()
    if pid == 0:
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [program, *arguments]
        _leave(programs[program])
    for stream in streams:
        os.close(stream)
    connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _leave(work: Callable[[], object]) -> None:
    code: object = 1
    try:
        work()
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
