"""The monolith's web server: runs from what the provisioning steps built, and says on /health what that is."""

from __future__ import annotations

import fcntl
import gzip
import html
import importlib
import json
import os
import signal
import socket
import socketserver
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TextIO
from urllib.parse import parse_qs, urlsplit

ROOT = Path(os.environ.get("SERVER_ROOT") or "/")
PORT = 8080
LIBRARIES = ROOT / "opt/build/libraries"
INDEX = ROOT / "srv/build/search.db"
DATABASE = ROOT / "var/lib/web/web.db"
RELEASE = ROOT / "srv/build/release.json"
LIBRARY_LIST = LIBRARIES / "libraries.json"
ASSETS = ROOT / "srv/build/assets/manifest.json"
PID_FILE = ROOT / "run/web.pid"
INSTANCE_ID = ROOT / "var/lib/cloud/data/instance-id"
"""cloud-init writes it at every boot."""
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".html": "text/html"}


class NotReady(Exception):
    """Something that the server needs is not there; the text says what."""


def versions() -> Mapping[str, Any]:
    """Return what this server runs on. NotReady when a part of it is missing."""
    for needed in (RELEASE, LIBRARY_LIST, ASSETS, INDEX, DATABASE):
        if not needed.exists():
            raise NotReady(f"{needed.relative_to(ROOT)} is missing")
    found = _versions()
    for package in _json(LIBRARY_LIST)["packages"]:
        if not (LIBRARIES / f"{package}.zip").exists():
            raise NotReady(f"the library {package} is missing")
    return found


@cache
def _versions() -> Mapping[str, Any]:
    """Read it once: the answer belongs to the code that was loaded then, not to what is put in place later."""
    try:
        return {
            "monolith": _json(RELEASE)["version"],
            "libraries": _json(LIBRARY_LIST)["version"],
            "assets": len(_json(ASSETS)),
            "documents": _number(INDEX, "SELECT documents FROM about"),
            "schema": _number(DATABASE, "SELECT max(number) FROM migrations"),
            "areas": len(importlib.import_module("product").AREAS),
        }
    except (OSError, ValueError, KeyError, ImportError, sqlite3.Error) as mistake:
        raise NotReady(str(mistake)) from mistake


@cache
def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _number(database: Path, query: str) -> int:
    with _opened(database) as connection:
        return int(connection.execute(query).fetchone()[0])


def server_id() -> str:
    """Return who this server is: as provisioning says, or else as cloud-init found out, or its host name."""
    if named := os.environ.get("SERVER"):
        return named
    return INSTANCE_ID.read_text().strip() if INSTANCE_ID.exists() else socket.gethostname()


def _opened(database: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True))


def search(text: str) -> list[Mapping[str, str]]:
    """Return the ten best pages that have all the words; the last word may be the beginning of one."""
    words = [word.replace('"', "") for word in text.split()]
    query = " ".join(f'"{word}"' for word in words if word)
    if not query:
        return []
    with _opened(INDEX) as index:
        found = index.execute(
            "SELECT pages.path, pages.title FROM words JOIN pages ON pages.id = words.rowid WHERE words MATCH ? "
            "ORDER BY words.rank LIMIT 10",
            (f"{query} *",),
        )
        return [{"path": path, "title": title} for path, title in found]


def home() -> str:
    """Return the product's own page."""
    templates = sorted(name for name in _json(ASSETS) if name.startswith("templates/"))
    template = gzip.decompress((ROOT / _json(ASSETS)[templates[0]]).read_bytes()).decode()
    body = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in versions().items()
    )
    return template.replace("{{title}}", "The product").replace("{{body}}", f"<dl>{body}</dl>")


class Page(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = 10
    server_version = "Monolith"

    def do_GET(self) -> None:
        """Answer by path."""
        url = urlsplit(self.path)
        try:
            if url.path == "/health":
                about = {"server": server_id(), "pid": os.getpid()}
                self._send_json(200, {"status": "ok", **about, **versions()})
            elif url.path == "/search":
                text = parse_qs(url.query).get("q", [""])[0]
                self._send_json(200, {"query": text, "pages": search(text)})
            elif url.path == "/":
                self._send(200, home().encode(), "text/html; charset=utf-8")
            else:
                self._send_asset(url.path.removeprefix("/"))
        except (NotReady, OSError, sqlite3.Error) as mistake:
            self._send_json(503, {"status": "not ready", "reason": str(mistake)})

    def _send_asset(self, name: str) -> None:
        where = _json(ASSETS).get(name)
        if where is None:
            self._send_json(404, {"status": "not found"})
            return
        file = ROOT / where.partition("?")[0]
        packed = {"Content-Encoding": "gzip"} if file.suffix == ".gz" else {}
        self._send(200, file.read_bytes(), TYPES.get(Path(name).suffix, "application/octet-stream"), packed)

    def _send_json(self, status: int, value: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(value).encode() + b"\n", "application/json")

    def _send(self, status: int, body: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log what people ask for, not the health checks of every second."""
        if self.path != "/health" or code != 200:
            super().log_request(code, size)


class Server(ThreadingHTTPServer):
    """One thread a request; closing waits for those that are under way."""

    daemon_threads = False
    request_queue_size = 128

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which may take seconds where there is no name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


def claim_pid_file() -> TextIO:
    """Return the pid file, locked for as long as it stays open. Exits when another server holds it."""
    PID_FILE.parent.mkdir(parents=True, exist_ok=True)
    file = PID_FILE.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("web: another server is running")
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def announce() -> None:
    """Load the product, and log what it is or what is missing of it."""
    try:
        print(f"web: {json.dumps(versions())}", flush=True)
    except NotReady as mistake:
        print(f"web: not ready: {mistake}", flush=True)


def main() -> None:
    """Serve until SIGTERM, then finish the requests under way."""
    with claim_pid_file():
        sys.path += [str(ROOT / "srv/build/src"), *map(str, sorted(LIBRARIES.glob("*.zip")))]
        announce()
        with Server((os.environ.get("ADDRESS", ""), PORT), Page) as server:
            # shutdown() waits for the loop that the signal interrupts, hence the thread.
            signal.signal(signal.SIGTERM, lambda *_: Thread(target=server.shutdown).start())
            print(f"web: serving on {server.server_name}:{PORT}", flush=True)
            server.serve_forever(poll_interval=0.1)
    print("web: ended", flush=True)


if __name__ == "__main__":
    main()
