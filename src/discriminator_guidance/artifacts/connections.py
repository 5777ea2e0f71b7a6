"""Connections to those who publish files: https only, no foreign hosts, and what may be tried again."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any
from urllib.parse import urlsplit

from discriminator_guidance.errors import InputError

CHUNK = 1 << 16
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Interrupted(Exception):
    """A transfer broke off in a way that may mend itself.

    Args:
        reason: what happened.
        wait_s: the least time the server asks to be left alone, seconds.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__(" ".join(reason.split()))


class RangeRefused(Interrupted):
    """The server does not have the bytes asked for."""


@dataclass(frozen=True)
class Source:
    """Where a file comes from and whom to trust with it.

    Args:
        name: what the file is called in messages.
        url: https address.
        redirect_hosts: other hosts that a redirect may lead to.
        size: published number of bytes, or None.
        checked: a checksum will judge the bytes, so that they may be pieced together without an ETag.
        remedy: how to get the file otherwise.
        local_http: also accept plain http on 127.0.0.1 (for tests).
    """

    name: str
    url: str
    redirect_hosts: tuple[str, ...]
    size: int | None
    checked: bool
    remedy: str
    local_http: bool = False


@contextmanager
def open_source(source: Source, headers: Mapping[str, str], stall_s: float) -> Iterator[http.client.HTTPResponse]:
    """Ask a server for a file.

    Args:
        source: which.
        headers: of the request.
        stall_s: longest silence of the server, seconds.

    Yields:
        Its answer.

    Raises:
        RangeRefused: the bytes asked for do not exist.
        Interrupted: it may answer next time.
        InputError: it will not, or it sends us to a foreign host.
    """
    _refuse_foreign(source.url, source)
    request = urllib.request.Request(source.url, headers=dict(headers))
    try:
        handlers = (_Redirects(source), _Http(), _Https())
        response = urllib.request.build_opener(*handlers).open(request, timeout=stall_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise _answer(source, error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _no_answer(source, error) from error
    with response:
        yield response


def _answer(source: Source, error: urllib.error.HTTPError) -> Exception:
    if error.code == 416:
        return RangeRefused("the file on the server has changed")
    if error.code in TRY_AGAIN:
        asked = str(error.headers.get("Retry-After", ""))
        return Interrupted(f"HTTP {error.code} {error.reason}", float(asked) if asked.isdecimal() else 0.0)
    got = "redirects that lead nowhere" if 300 <= error.code < 400 else f"HTTP {error.code} {error.reason}"
    return InputError(f"{source.name} from {source.url}", got, source.remedy)


def _no_answer(source: Source, error: Exception) -> Exception:
    reason = getattr(error, "reason", error)
    host = urlsplit(source.url).hostname
    if isinstance(reason, socket.gaierror):
        # Not tried again: a machine without network should say so at once.
        return InputError(f"{source.name} from {host}", "no such host, or no network", source.remedy)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return InputError(f"a valid certificate of {host}", reason.verify_message, source.remedy)
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return InputError(f"{source.name} from {source.url}", str(error), source.remedy)
    return Interrupted(_reason(reason))


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "the server fell silent"
    if isinstance(error, http.client.IncompleteRead):
        return "the server hung up"
    return str(error) or type(error).__name__


def read_some(response: http.client.HTTPResponse) -> bytes:
    """Wait for the next bytes of an answer.

    Args:
        response: the answer, open.

    Returns:
        At most `CHUNK` bytes; b"" at the end.

    Raises:
        Interrupted: the connection broke, or the server fell silent.
    """
    try:
        # One receive at a time, so that a trickle cannot hold up the look at the clock.
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Interrupted(_reason(error)) from error


class _Answer(http.client.HTTPResponse):
    """An answer whose status and headers come within twice the longest silence, however steadily they trickle."""

    def __init__(self, sock: socket.socket, *arguments: Any, stall_s: float, **others: Any) -> None:
        super().__init__(sock, *arguments, **others)
        self._socket, self._stall_s, self._late = sock, stall_s, False

    def begin(self) -> None:
        watch = threading.Timer(2 * self._stall_s, self._give_up)
        watch.daemon = True
        watch.start()
        try:
            super().begin()
        finally:
            watch.cancel()
            if self._late:
                raise TimeoutError

    def _give_up(self) -> None:
        self._late = True
        with suppress(OSError):  # the other side has hung up
            self._socket.shutdown(socket.SHUT_RDWR)


class _Watched(urllib.request.AbstractHTTPHandler):
    """Opens connections whose answers are `_Answer`."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **others: Any) -> http.client.HTTPResponse:
        def connection(*arguments: Any, timeout: float, **more: Any) -> Any:
            made = http_class(*arguments, timeout=timeout, **more)
            made.response_class = partial(_Answer, stall_s=timeout)
            return made

        watched: Any = connection
        return super().do_open(watched, req, **others)


class _Http(_Watched, urllib.request.HTTPHandler):
    pass


class _Https(_Watched, urllib.request.HTTPSHandler):
    pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to hosts of the registry only."""

    max_redirections = 5

    def __init__(self, source: Source) -> None:
        self._source = source

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _refuse_foreign(newurl, self._source)
        fp.close()  # or urllib reads its body to the end, however long that takes
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_foreign(url: str, source: Source) -> None:
    parts = urlsplit(url)
    local = source.local_http and parts.scheme == "http" and parts.hostname == "127.0.0.1"
    if not local and (parts.scheme != "https" or not parts.hostname):
        raise InputError(f"{source.name} over https", f"{parts.scheme}://{parts.hostname}", source.remedy)
    known = {urlsplit(source.url).hostname, *source.redirect_hosts}
    if parts.hostname not in known:
        raise InputError(
            f"{source.name} from {', '.join(sorted(map(str, known)))}",
            f"a redirect to {parts.hostname}",
            f"if that is right, add it to the file's redirect_hosts; otherwise {source.remedy}",
        )
