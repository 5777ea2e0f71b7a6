"""A web server on 127.0.0.1 that behaves as told: well, badly, or differently from one request to the next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Publisher:
    """What the server does, request by request (the last behaviour repeats), and what it was asked."""

    url: str = ""
    script: list[Behaviour] = field(default_factory=list)
    asked: list[Message] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def whole(
        self,
        content: bytes,
        etag: str | None = None,
        *,
        ranges: bool = True,
        cut: int | None = None,
        stall: bool = False,
    ) -> Behaviour:
        """The file; with `cut` only the first bytes of the answer, then silence (`stall`) or the end."""

        def behave(handler: BaseHTTPRequestHandler) -> None:
            wanted = handler.headers.get("Range")
            unchanged = handler.headers.get("If-Range") in (None, etag)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and ranges and unchanged else 0
            body = content[start:]
            handler.send_response(206 if start else 200)
            handler.send_header("Content-Length", str(len(body)))
            if start:
                handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if etag:
                handler.send_header("ETag", etag)
            handler.end_headers()
            handler.wfile.write(body if cut is None else body[:cut])
            handler.wfile.flush()
            if stall:
                self.release.wait(20)

        return behave

    @staticmethod
    def answer(code: int, body: bytes = b"", **headers: str) -> Behaviour:
        """Any answer."""

        def behave(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(code)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
                handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        return behave


@contextmanager
def publishing() -> Iterator[Publisher]:
    """A running server."""
    publisher = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = len(publisher.asked)
            publisher.asked.append(self.headers)
            publisher.script[min(number, len(publisher.script) - 1)](self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are meant to
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    publisher.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield publisher
    finally:
        publisher.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
