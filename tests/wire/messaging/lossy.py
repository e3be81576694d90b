"""A proxy that loses replies, or resets connections before a call: the client cannot know whether the server did it."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs


@dataclass
class Proxy:
    """Stands before an endpoint."""

    target: str
    url: str = ""
    lose: list[str] = field(default_factory=list)
    """The calls whose replies are still to be lost, in turn: ``PUT``, ``DeleteMessageBatch``, ``Publish``, ..."""

    lost: list[str] = field(default_factory=list)
    """How the target had answered those that were lost, such as ``PUT 200``."""

    reset: list[str] = field(default_factory=list)
    """The calls that are still to be cut off before the target hears of them, in turn."""


@contextmanager
def losing_before(target: str) -> Iterator[Proxy]:
    """Run a proxy before ``target`` until the block ends."""
    proxy = Proxy(target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = _call(self, content)
            if proxy.reset and proxy.reset[0] == call:
                proxy.reset.pop(0)
                _cut(self)
                return
            status, headers, body = _forward(proxy.target, self, content)
            if proxy.lose and proxy.lose[0] == call:
                proxy.lost.append(f"{proxy.lose.pop(0)} {status}")
                _cut(self)
                return
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


def _call(request: BaseHTTPRequestHandler, content: bytes) -> str:
    """Name the action of SQS's JSON and SNS's query protocol; S3's calls go by their method."""
    target = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
    form = request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
    action = parse_qs(content.decode())["Action"][0] if form else ""
    return target or action or str(request.command)


def _cut(request: BaseHTTPRequestHandler) -> None:
    """End the connection as a peer does that is gone."""
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def _forward(target: str, asked: BaseHTTPRequestHandler, content: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    request = urllib.request.Request(target + asked.path, content or None, method=asked.command)
    for name, value in asked.headers.items():
        if name.lower() != "connection":
            request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers.items(), answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, list(refusal.headers.items()), refusal.read()
