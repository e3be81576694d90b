"""A proxy that hands a request on, and loses the reply: the server did it, and the client cannot know."""

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


@dataclass
class Proxy:
    """Stands before an endpoint."""

    target: str
    url: str = ""
    lose: list[str] = field(default_factory=list)
    """The methods of requests whose replies are still to be lost, in turn."""

    lost: list[str] = field(default_factory=list)
    """How the target had answered those that were lost, such as ``PUT 200``."""


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
            status, headers, body = self._forward()
            if proxy.lose and proxy.lose[0] == self.command:
                proxy.lost.append(f"{proxy.lose.pop(0)} {status}")
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do  # noqa: N815

        def _forward(self) -> tuple[int, list[tuple[str, str]], bytes]:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = urllib.request.Request(proxy.target + self.path, content or None, method=self.command)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    request.add_header(name, value)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.headers.items(), answer.read()
            except urllib.error.HTTPError as refusal:
                with refusal:
                    return refusal.code, list(refusal.headers.items()), refusal.read()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
