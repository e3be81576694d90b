"""A server for the agent under test: its root directory, an origin for releases and reports, and the agent itself."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import agent
from shared import releases
from shared.plan import Content, Delta
from shared.records import Report
from shared.sources import encode_name
from tests.fakes import FakeObjects

AGENT = Path(agent.__file__)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        origin = self.server.origin
        body = origin.bodies.get(self.path.lstrip("/"))
        span = self.headers.get("Range")
        origin.requests.append((self.path, span))
        origin.hold.wait(20)
        if body is None:
            self._answer(origin.statuses.get(self.path, 404), b"")
        elif span is None or origin.ignores_ranges:
            self._answer(200, body, origin.breaks.pop(self.path, None))
        else:
            first, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
            self._answer(206, body[first : last + 1], origin.breaks.pop(self.path, None))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        origin = self.server.origin
        origin.puts += 1
        if origin.refused_puts >= origin.puts:
            self._answer(503, b"")
            return
        origin.reports.append(Report.model_validate_json(body))
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes, only: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if only is None else body[:only])
        if only is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, origin: Origin) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.origin = origin

    def handle_error(self, request: object, client_address: object) -> None:
        """An agent that was killed leaves broken connections behind."""


def set_event() -> threading.Event:
    """An event that has happened."""
    event = threading.Event()
    event.set()
    return event


@dataclass
class Origin:
    """What S3 is to the agent. ``breaks``: an answer is cut off once after so many bytes."""

    bodies: dict[str, bytes]
    url: str = ""
    reports: list[Report] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    breaks: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    ignores_ranges: bool = False
    puts: int = 0
    refused_puts: int = 0
    hold: threading.Event = field(default_factory=set_event)
    """Nothing is answered while it is cleared."""

    @contextmanager
    def serving(self) -> Iterator[Origin]:
        with _Server(self) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


@dataclass(frozen=True)
class Ran:
    """How a run of the agent went."""

    status: int
    events: list[dict[str, Any]]
    errors: str

    @property
    def result(self) -> dict[str, Any]:
        return self.events[-1]

    @property
    def ends(self) -> dict[str, str]:
        return {event["step"]: event["result"] for event in self.events if event["event"] == "end"}

    def end(self, step: str) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == "end" and event["step"] == step)


class Bench:
    """One server, one bucket."""

    def __init__(self, folder: Path, objects: FakeObjects, origin: Origin) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir()
        self.objects = objects
        self.origin = origin
        self._plans = 0

    def plan(self, *steps: Mapping[str, Any], **changed: object) -> Path:
        """Write a plan and return its path."""
        self._plans += 1
        plan = {
            "form": 1,
            "fleet": "web",
            "server": "i-0123456789abcdef0",
            "attempt": "attempt-1",
            "address": "127.0.0.9",
            "report_url": self.origin.url + "/report",
            "steps": steps,
            **changed,
        }
        path = self.folder / f"plan-{self._plans}.json"
        path.write_text(json.dumps(plan))
        return path

    def command(self, plan: Path) -> list[str]:
        return [sys.executable, "-I", "-S", str(AGENT), "run", str(plan), "--root", str(self.root)]

    def run(self, *steps: Mapping[str, Any], **changed: object) -> Ran:
        """Run a plan with these steps."""
        return self.run_plan(self.plan(*steps, **changed))

    def run_plan(self, plan: Path) -> Ran:
        done = subprocess.run(self.command(plan), capture_output=True, text=True, timeout=60, check=False)
        return ran(done.returncode, done.stdout, done.stderr)

    def start(self, *steps: Mapping[str, Any], **changed: object) -> subprocess.Popen[str]:
        """Start the agent and do not wait for it."""
        return subprocess.Popen(
            self.command(self.plan(*steps, **changed)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def settle(self) -> None:
        """Wait until what runs on in the background has ended: it looks at all files, and puts them right."""
        with (self.root / agent.HOME / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    async def publish(self, version: str, directory: Path) -> dict[str, Any]:
        """Publish a release; return the step that syncs it to ``srv/app``."""
        info = await releases.publish(self.objects, "app", version, directory)
        published = await releases.manifest(self.objects, "app", version)
        content = Content(
            manifest_url=f"{self.origin.url}/releases/app/{version}/manifest.json",
            manifest_sha256=info.digest,
            packs={
                pack.sha256: f"{self.origin.url}/releases/app/packs/{pack.sha256}" for pack in published.manifest.packs
            },
            deltas={
                base: Delta(url=f"{self.origin.url}/{key}", sha256=delta)
                for key in self.objects.bodies
                if key.startswith(f"releases/app/deltas/{info.digest}/")
                for base, delta in [key.split("/")[-2:]]
            },
        )
        return {
            "step": "code",
            "kind": "sync",
            "fingerprint": info.digest,
            "timeout_s": 60,
            "component": "app",
            "version": version,
            "to": "srv/app",
            "content": content.model_dump(),
        }

    @property
    def ledger(self) -> dict[str, Any]:
        path = self.root / agent.HOME / "ledger.json"
        steps: dict[str, Any] = json.loads(path.read_text())["steps"] if path.exists() else {}
        return steps

    @property
    def tree(self) -> Path:
        return self.root / "srv/app"


def ran(status: int, output: str, errors: str) -> Ran:
    return Ran(status, [json.loads(line) for line in output.splitlines()], errors)


def trees(bench: Bench) -> list[str]:
    """What lies beside the link: trees and their records, and whatever else is there."""
    return sorted(path.name for path in (bench.root / "srv/.app.trees").iterdir())


def spare(bench: Bench) -> Path:
    """The tree that the next release is made of."""
    [other] = {name for name in trees(bench) if "." not in name} - {bench.tree.resolve().name}
    return bench.root / "srv/.app.trees" / other


def script(step: str, text: str, fingerprint: str = "1", **more: object) -> dict[str, Any]:
    """A run step."""
    return {"step": step, "kind": "run", "fingerprint": fingerprint, "timeout_s": 30, "script": text, **more}


def described(tree: Path) -> dict[str, tuple[str, int, str]]:
    """Everything in a tree by path: its kind, its mode, and a digest of its content or its target."""
    root = os.fsencode(tree.resolve())
    found = {".": ("dir", os.stat(root).st_mode, "")}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[encode_name(os.path.relpath(path, root))] = _facts(path)
    return found


def _facts(path: bytes) -> tuple[str, int, str]:
    mode = os.lstat(path).st_mode
    if os.path.islink(path):
        return ("link", 0, encode_name(os.readlink(path)))
    if os.path.isdir(path):
        return ("dir", mode, "")
    return ("file", mode, hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest())
