"""Moving code: what the real agent takes for a full fetch and for a catch-up, beside what rivals take on the same tree.

``python -m bench catchup``; BENCH_SCALE=0.1 takes a tenth of the tree (``bench.codetree``). All of it is in a folder
under /dev/shm, over loopback: so it shows what the programs cost, not a disk or a network. Each figure is one run.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent import agent
from bench.codetree import write_versions
from bench.measurement import Measurement, ratio
from shared import releases
from shared.cloud import Conflict, StoredObject
from shared.plan import Plan, PlannedStep

SCALE = float(os.environ.get("BENCH_SCALE", "1"))
COMMAND = "python -m bench catchup" if SCALE == 1 else f"BENCH_SCALE={SCALE:g} python -m bench catchup"
MEMORY = "/dev/shm"
NEEDED_BYTES = 9_000_000_000
"""At full size: the versions, a store, and a server's two trees or a rival's two archives."""
TIMEOUT_S = 600

# A program's peak memory begins with that of whoever starts it: so that is a small process, which measures it too.
_STARTER = """
import json, os, sys, time
began = time.perf_counter()
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
wall = time.perf_counter() - began
print()
print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000]))
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
"""


@dataclass(frozen=True)
class Ran:
    """What a program took, its children included; ``peak_mb`` is of the largest of its processes, at least 10."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    wire_mb: float | None = None
    requests: int | None = None

    def __str__(self) -> str:
        said = f"{self.wall_s:.2f} s, CPU {self.cpu_s:.2f} s, peak {self.peak_mb:.0f} MB"
        said += "" if self.wire_mb is None else f", wire {self.wire_mb:.2f} MB"
        return said if self.requests is None else f"{said}, {self.requests} requests"


@dataclass(frozen=True)
class Results:
    """All runs by name: those of the agent, and those of the rivals that are installed."""

    ours: dict[str, Ran]
    rivals: dict[str, Ran]
    published: dict[str, tuple[float, float]]
    """Per version: seconds, and MB stored, the manifest included."""
    tree: str


def measure() -> list[Measurement]:
    """Publish three versions, bring a server from one to the other, and have the rivals do the same."""
    free = shutil.disk_usage(MEMORY).free
    if free < NEEDED_BYTES * SCALE:
        raise SystemExit(f"{MEMORY} has {free / 1e9:.1f} GB free; make room, or set BENCH_SCALE to less than {SCALE:g}")
    with tempfile.TemporaryDirectory(prefix="catchup-", dir=MEMORY) as name:
        folder = Path(name)
        _say("writing the tree")
        versions = write_versions(folder / "tree", SCALE)
        ours, published = _ours(folder, versions)
        return _measurements(Results(ours, _rivals(folder, versions), published, _described(versions[0])))


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def _described(tree: Path) -> str:
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e9:.2f} GB"


def _run(command: Sequence[str]) -> tuple[Ran, str]:
    """Run a program to its end; return what it took and what it printed."""
    starter = [sys.executable, "-S", "-c", _STARTER, *command]
    done = subprocess.run(starter, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=True)
    said, _, figures = done.stdout.rstrip().rpartition("\n")
    return Ran(*json.loads(figures)), said


# ---- the agent ----


class _Folder:
    """S3 as a folder: what publishing needs, for one writer."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = ""
        """Where it is served, once it is."""

    async def get(self, key: str) -> StoredObject | None:
        path = self._root / key
        return StoredObject(path.read_bytes(), "") if path.exists() else None

    async def put(self, key: str, body: bytes, *, match: str | None = None, absent: bool = False) -> str:
        path = self._root / key
        if match is not None or (absent and path.exists()):
            raise Conflict(f"{key} is there already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return ""

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    async def keys(self, prefix: str) -> Sequence[str]:
        found = (path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file())
        return sorted(key for key in found if key.startswith(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        raise NotImplementedError

    async def presign_get(self, key: str, expires_s: int) -> str:
        return f"{self.url}/{key}"

    async def presign_put(self, key: str, expires_s: int) -> str:
        raise NotImplementedError

    def stored(self) -> int:
        return sum(path.stat().st_size for path in self._root.rglob("*") if path.is_file())


class _Server(http.server.ThreadingHTTPServer):
    """Serves a folder's files, and counts the requests for them and the bytes of the answers' bodies."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests = self.sent = 0
        self._counting = threading.Lock()

    def count(self, sent: int) -> None:
        with self._counting:
            self.requests += 1
            self.sent += sent


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with (self.server.root / self.path.lstrip("/")).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(span[1]), min(int(span[2]), size - 1)) if span else (0, size - 1)
            self.server.count(last + 1 - first)
            self.send_response(206 if span else 200)
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            self.connection.sendfile(stream, first, last + 1 - first)

    def do_PUT(self) -> None:
        """Take a report, which is not code and is not counted."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _serving(root: Path) -> Iterator[_Server]:
    with _Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _ours(folder: Path, versions: Sequence[Path]) -> tuple[dict[str, Ran], dict[str, tuple[float, float]]]:
    """Fetch v1 before the others are published, as a server does whose image is older than they are."""
    store, root = _Folder(folder / "store"), folder / "server"
    root.mkdir()
    first, second, third = versions
    with _serving(folder / "store") as server:
        store.url = server.url
        published = {first.name: _publish(store, first)}
        ours = {"full": _sync(server, store, root, first)}
        published |= {each.name: _publish(store, each) for each in (second, third)}
        ours["catch-up"] = _sync(server, store, root, third)
        ours["nothing"] = _sync(server, store, root, third)
        ours["back"] = _sync(server, store, root, first)
    shutil.rmtree(root)
    return ours, published


def _publish(store: _Folder, version: Path) -> tuple[float, float]:
    _say(f"publishing {version.name}")
    before, began = store.stored(), time.perf_counter()
    asyncio.run(releases.publish(store, "app", version.name, version))
    return time.perf_counter() - began, (store.stored() - before) / 1e6


def _sync(server: _Server, store: _Folder, root: Path, version: Path) -> Ran:
    """Have the agent bring its tree to a version; raise CalledProcessError when it is not that then."""
    _say(f"the agent, to {version.name}")
    plan = root.parent / "plan.json"
    plan.write_text(asyncio.run(_plan(store, version.name)).model_dump_json())
    requests, sent = server.requests, server.sent
    ran, _ = _run([sys.executable, agent.__file__, "run", str(plan), "--root", str(root)])
    moved = replace(ran, wire_mb=(server.sent - sent) / 1e6, requests=server.requests - requests)
    subprocess.run(["diff", "-rq", "--no-dereference", f"{root}/srv/app/", f"{version}/"], check=True)
    return moved


async def _plan(store: _Folder, version: str) -> Plan:
    """Return a plan of one step, with plain URLs for presigned ones."""
    release = await releases.outline(store, "app", version)
    step = PlannedStep(
        step="code",
        kind="sync",
        fingerprint=release.digest,
        timeout_s=TIMEOUT_S,
        component="app",
        version=version,
        to="srv/app",
        content=await releases.content(store, release, expires_s=TIMEOUT_S),
    )
    return Plan(
        fleet="web",
        server="i-0123456789abcdef0",
        attempt="attempt-1",
        address="127.0.0.1",
        report_url=f"{store.url}/report",
        steps=(step,),
    )


# ---- the rivals ----


def _rivals(folder: Path, versions: Sequence[Path]) -> dict[str, Ran]:
    first, third = versions[0], versions[-1]
    _say("cp -a")
    rivals = {"cp -a": _run(["cp", "-a", str(first), str(folder / "copy")])[0]}
    shutil.rmtree(folder / "copy")
    if shutil.which("zstd"):
        rivals |= _zstd(folder, first, third)
    if shutil.which("rsync"):
        rivals |= _rsync(folder, first, third)
    return rivals


def _zstd(folder: Path, first: Path, third: Path) -> dict[str, Ran]:
    _say("zstd")
    work = folder / "zstd"
    (work / "out").mkdir(parents=True)
    for each in (first, third):
        _run(["tar", "--sort=name", "-C", str(each), "-cf", f"{work}/{each.name}.tar", "."])
    _run(["zstd", "-q", "-3", "-T0", f"{work}/v1.tar", "-o", f"{work}/v1.tar.zst"])
    unpacked, _ = _run(["sh", "-c", f"zstd -q -dc {work}/v1.tar.zst | tar -x -C {work}/out"])
    patch = ["zstd", "-q", "-T0", "--long=31", f"--patch-from={work}/v1.tar", f"{work}/v3.tar", "-o", f"{work}/patch"]
    patched, _ = _run(patch)
    found = {
        "zstd -d | tar x": replace(unpacked, wire_mb=(work / "v1.tar.zst").stat().st_size / 1e6),
        "zstd --patch-from": replace(patched, wire_mb=(work / "patch").stat().st_size / 1e6),
    }
    shutil.rmtree(work)
    return found


def _rsync(folder: Path, first: Path, third: Path) -> dict[str, Ran]:
    _say("rsync")
    goals = {"full": first, "catch-up": third, "nothing": third, "back": first}
    with _rsync_daemon(folder, first.parent) as url:
        return {
            f"rsync -a, {what}": _rsync_to(f"{url}/{goal.name}/", folder / "synced") for what, goal in goals.items()
        }


def _rsync_to(source: str, out: Path) -> Ran:
    ran, said = _run(["rsync", "-a", "--delete", "--stats", source, f"{out}/"])
    received = re.search(r"Total bytes received: ([\d,]+)", said)
    return replace(ran, wire_mb=int(received[1].replace(",", "")) / 1e6 if received else None)


@contextmanager
def _rsync_daemon(folder: Path, served: Path) -> Iterator[str]:
    """Serve a folder from a daemon of our own; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "rsyncd.conf"
    told = ("use chroot = no", f"log file = {folder}/rsyncd.log", "[tree]", f"path = {served}", f"uid = {os.getuid()}")
    config.write_text("\n".join(told) + "\n")
    command = ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}", f"--config={config}"]
    with subprocess.Popen(command) as daemon:
        try:
            _until_open(port)
            yield f"rsync://127.0.0.1:{port}/tree"
        finally:
            daemon.terminate()


def _until_open(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("the rsync daemon did not listen within 5 s; run rsync --daemon by hand to see why")


# ---- the figures ----

_TITLES = {"full": "full fetch of v1", "catch-up": "v1 to v3", "nothing": "nothing to do", "back": "back to v1"}
_WHATS = {"wall_s": "wall", "cpu_s": "CPU", "wire_mb": "wire", "requests": "requests"}

_GOALS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    ("full", "wall_s", "s", "at most 1.3 times zstd -d | tar x", ("zstd -d | tar x", "cp -a", "rsync -a, full")),
    ("catch-up", "wall_s", "s", "at most 0.7 times rsync -a without a spare tree, 0.5 with", ("rsync -a, catch-up",)),
    ("catch-up", "cpu_s", "s", "at most 1.0 times rsync -a", ("rsync -a, catch-up",)),
    ("catch-up", "wire_mb", "MB", "at most 1.2 times zstd --patch-from", ("zstd --patch-from", "rsync -a, catch-up")),
    ("catch-up", "requests", "requests", "at most 4", ()),
    ("nothing", "wall_s", "s", "below 0.5", ("rsync -a, nothing",)),
    ("back", "wall_s", "s", "at most 2 times rsync -a", ("rsync -a, back",)),
)
"""Which run, which figure of it, its unit, its goal, and the rivals: first the one that the goal names."""


def _measurements(found: Results) -> list[Measurement]:
    figures = [_figure(found, *goal) for goal in _GOALS]
    return [*figures, _peak(found), *(_publishing(found, version) for version in found.published)]


def _figure(found: Results, which: str, what: str, unit: str, goal: str, rivals: Sequence[str]) -> Measurement:
    measured = round(getattr(found.ours[which], what), 2)
    theirs = {name: round(getattr(found.rivals[name], what), 2) for name in rivals if name in found.rivals}
    said = [f"{name}: {found.rivals.get(name, 'not installed')}" for name in rivals]
    return Measurement(
        name=f"catchup, {_TITLES[which]}: {_WHATS[what]}",
        measured=measured,
        unit=unit,
        goal=goal,
        command=COMMAND,
        rivals={name: theirs.get(name) for name in rivals},
        ratio=ratio(measured, theirs.get(rivals[0])) if rivals else None,
        note="; ".join([found.tree, f"the agent: {found.ours[which]}", *said]),
    )


def _peak(found: Results) -> Measurement:
    peaks = {_TITLES[which]: round(ran.peak_mb) for which, ran in found.ours.items()}
    return Measurement(
        name="catchup: the agent's peak memory",
        measured=max(peaks.values()),
        unit="MB",
        goal="below 128",
        command=COMMAND,
        note=f"{found.tree}; {', '.join(f'{name} {peak}' for name, peak in peaks.items())}",
    )


def _publishing(found: Results, version: str) -> Measurement:
    seconds, stored_mb = found.published[version]
    return Measurement(
        name=f"catchup: publishing {version}",
        measured=round(seconds, 2),
        unit="s",
        goal="" if version == "v1" else "no longer than restic backup: 8 s where the goal was set, not run here",
        command=COMMAND,
        note=f"{found.tree}; {stored_mb:.1f} MB more stored, the manifest included",
    )
