"""Moving code: what the real agent takes for a full fetch and for a catch-up, beside what rivals take on the same tree.

``python -m bench catchup``; BENCH_SCALE=0.1 takes a tenth of the tree (``bench.codetree``). All of it is in a folder
under /dev/shm, or BENCH_FOLDER, over loopback: so it shows what the programs cost, not a disk or a network. Catch-ups
and publishing a second or third version are medians of three, by turns with rsync and restic; all else is one run.
``python -m bench movers`` runs the slow rivals, ``python -m bench growth`` measures smaller trees and draws
``bench/catchup.svg``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from agent import agent
from bench import movers
from bench.codetree import write_versions
from bench.measurement import Measurement, ratio
from bench.publishing import Folder
from bench.running import TIMEOUT_S, Ran, median, run, say, undone
from bench.serving import send_file
from shared import releases
from shared.plan import Plan, PlannedStep

SCALE = float(os.environ.get("BENCH_SCALE", "1"))
PREFIX = "" if SCALE == 1 else f"BENCH_SCALE={SCALE:g} "
COMMAND = f"{PREFIX}python -m bench catchup"
MEMORY = os.environ.get("BENCH_FOLDER", "/dev/shm")
NEEDED_BYTES = 9_000_000_000
"""At full size: the versions, a store, and a server's two trees or a rival's two archives."""
ROUNDS = 3

_COMMAND = "import sys; sys.path.insert(0, sys.argv[1]); import agent; agent.command(sys.argv[2:])"
START = (sys.executable, "-I", "-S", "-c", _COMMAND, str(Path(agent.__file__).parent))
"""How the document in ``deploy/messaging.yaml`` starts the agent."""


class Published(NamedTuple):
    """What publishing a version took."""

    seen_s: float
    """Until it could be seen."""
    all_s: float
    """With its deltas."""
    stored_mb: float
    """What is stored more, manifest and deltas included."""


@dataclass
class Results:
    """All runs by name: those of the agent, and those of the rivals that are installed."""

    tree: str
    files: int
    ours: dict[str, Ran] = field(default_factory=dict)
    rivals: dict[str, Ran] = field(default_factory=dict)
    published: dict[str, Published] = field(default_factory=dict)


def measure() -> list[Measurement]:
    """Publish three versions, bring a server from one to the other, and have the rivals do the same."""
    with versions_of(SCALE) as (folder, versions):
        found = compared(folder, versions)
        found.rivals |= movers.copying(folder, versions)
        if shutil.which("zstd"):
            found.rivals |= movers.zstd(folder, versions)
        return _measurements(found)


def measure_others() -> list[Measurement]:
    """Have the rivals that are slow beside the goals move the same tree."""
    with versions_of(SCALE) as (folder, versions):
        found: dict[str, Ran] = {}
        for program, rival in movers.MOVERS.items():
            found |= rival(folder, versions) if shutil.which(program) else {}
    command = f"{PREFIX}python -m bench movers"
    return [
        Measurement(f"movers, {name}: wall", round(ran.wall_s, 2), "s", "", command, note=str(ran))
        for name, ran in found.items()
    ]


@contextmanager
def versions_of(scale: float, unchanged: float = 1.0) -> Iterator[tuple[Path, list[Path]]]:
    """Make a folder with the versions in it; yield both."""
    free = shutil.disk_usage(MEMORY).free
    if free < NEEDED_BYTES * scale * unchanged:
        raise SystemExit(f"{MEMORY} has {free / 1e9:.1f} GB free; make room, or set BENCH_SCALE to less than {SCALE:g}")
    with tempfile.TemporaryDirectory(prefix="catchup-", dir=MEMORY) as name:
        say(f"writing the tree, scale {scale:g}")
        yield Path(name), write_versions(Path(name) / "tree", scale, unchanged=unchanged)


def compared(folder: Path, versions: Sequence[Path]) -> Results:
    """Measure publishing and restic, and then the agent and rsync, by turns."""
    paths = [path for path in versions[0].rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in paths)
    found = Results(f"{len(paths)} files, {size / 1e9:.2f} GB", len(paths))
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_Ours.standing(folder, versions))
        theirs = None
        if shutil.which("rsync"):
            url = stack.enter_context(movers.rsync_daemon(folder, versions[0].parent))
            theirs = _Theirs(url, folder / "synced", versions)
            found.rivals["rsync -a, full"] = theirs.to(versions[0])
        _publish(ours, movers.Restic(folder / "restic") if shutil.which("restic") else None, versions, found)
        rounds = [(ours.round(checked=not number), theirs.round() if theirs else {}) for number in range(ROUNDS)]
        found.ours |= _medians([ours for ours, _ in rounds])
        found.rivals |= _medians([theirs for _, theirs in rounds])
    for name in ("server", "store", "synced"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return found


def _publish(ours: _Ours, backups: movers.Restic | None, versions: Sequence[Path], found: Results) -> None:
    """Publish all versions; fetch the first before the others are, as a server does whose image is older than they."""
    for version in versions:
        again = ROUNDS - 1 if version is not versions[0] else 0
        tries = [*(_undone(ours, backups, version) for _ in range(again)), _once(ours, backups, version)]
        found.published[version.name] = sorted(published for published, _ in tries)[len(tries) // 2]
        found.rivals |= _medians([backup for _, backup in tries])
        if version is versions[0]:
            found.ours["full"] = ours.to(version, checked=True)
    if backups is not None:
        shutil.rmtree(backups.folder)


def _once(ours: _Ours, backups: movers.Restic | None, version: Path) -> tuple[Published, dict[str, Ran]]:
    published = ours.publish(version)
    return published, {f"restic backup, {version.name}": backups.backup(version)} if backups is not None else {}


def _undone(ours: _Ours, backups: movers.Restic | None, version: Path) -> tuple[Published, dict[str, Ran]]:
    with undone(ours.store.root), undone(backups.folder) if backups is not None else contextlib.nullcontext():
        return _once(ours, backups, version)


def _medians(rounds: Sequence[dict[str, Ran]]) -> dict[str, Ran]:
    return {name: median([each[name] for each in rounds]) for name in rounds[0]}


class _Theirs:
    """A folder that rsync keeps up to date."""

    def __init__(self, url: str, out: Path, versions: Sequence[Path]) -> None:
        self._url = url
        self._out = out
        self._versions = versions

    def to(self, version: Path) -> Ran:
        say(f"rsync, to {version.name}")
        return movers.rsync_to(f"{self._url}/{version.name}/", self._out)

    def round(self) -> dict[str, Ran]:
        first, _, third = self._versions
        goals = {"catch-up": third, "nothing": third, "back": first}
        return {f"rsync -a, {what}": self.to(goal) for what, goal in goals.items()}


# ---- the agent ----


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
        send_file(self, self.server.root / self.path.lstrip("/"), self.server.count)

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


class _Ours:
    """A server that the agent keeps up to date, and where its releases are."""

    def __init__(self, folder: Path, versions: Sequence[Path], server: _Server) -> None:
        self._server = server
        self._root = folder / "server"
        self._versions = versions
        self.store = Folder(folder / "store", server.url)
        self._root.mkdir()

    @classmethod
    @contextmanager
    def standing(cls, folder: Path, versions: Sequence[Path]) -> Iterator[_Ours]:
        """Serve an empty store, for an empty server."""
        with _serving(folder / "store") as server:
            yield cls(folder, versions, server)

    def round(self, *, checked: bool) -> dict[str, Ran]:
        """Measure every way to move once, and come back to v1; the tree itself is looked at where ``checked``."""
        first, _, third = self._versions
        found = {}
        self._spare(True)
        found["catch-up"] = self.to(third, checked=checked)
        found["nothing"] = self.to(third)
        found["back"] = self.to(first, checked=checked)
        self._spare(False)
        found["catch-up, no spare tree"] = self.to(third, checked=checked)
        self.to(first)
        self._spare(True)
        found["catch-up, no delta"] = self.to(third, checked=checked, deltas=False)
        self.to(first)
        return found

    def _spare(self, wanted: bool) -> None:
        """Have a spare tree of the same release as the present one, or none."""
        home, present = self._root / "srv/.app.trees", (self._root / "srv/app").resolve()
        for tree in home.glob("tree-*"):
            if tree.name.removesuffix(".json") != present.name:
                agent.remove(os.fsencode(tree))
        if wanted:
            (self._root / agent.HOME / "ledger.json").unlink()
            self.to(self._versions[0])

    def publish(self, version: Path) -> Published:
        """Publish as a process of its own, as its rival is one."""
        say(f"publishing {version.name}")
        before, began = self.store.stored(), time.perf_counter()
        command = [sys.executable, "-m", "bench.publishing", str(self.store.root), self.store.url, str(version)]
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        done = time.perf_counter()
        return Published(float(told.stdout) - began, done - began, (self.store.stored() - before) / 1e6)

    def to(self, version: Path, *, checked: bool = False, deltas: bool = True) -> Ran:
        """Have the agent bring its tree to a version; raise CalledProcessError when it is not that then."""
        say(f"the agent, to {version.name}")
        plan = self._root.parent / "plan.json"
        plan.write_text(asyncio.run(_plan(self.store, version.name, deltas)).model_dump_json())
        requests, sent = self._server.requests, self._server.sent
        ran, _ = run([*START, "run", str(plan), "--root", str(self._root)])
        moved = replace(ran, wire_mb=(self._server.sent - sent) / 1e6, requests=self._server.requests - requests)
        with (self._root / agent.HOME / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # What it does in the background must not be in another's figures.
        if checked:
            subprocess.run(["diff", "-rq", "--no-dereference", f"{self._root}/srv/app/", f"{version}/"], check=True)
        return moved


async def _plan(store: Folder, version: str, deltas: bool) -> Plan:
    """Return a plan of one step, with plain URLs for presigned ones."""
    release = await releases.outline(store, "app", version)
    content = await releases.content(store, release, expires_s=TIMEOUT_S)
    step = PlannedStep(
        step="code",
        kind="sync",
        fingerprint=release.digest,
        timeout_s=TIMEOUT_S,
        component="app",
        version=version,
        to="srv/app",
        content=content if deltas else content.model_copy(update={"deltas": {}}),
    )
    return Plan(
        fleet="web",
        server="i-0123456789abcdef0",
        attempt="attempt-1",
        address="127.0.0.1",
        report_url=f"{store.url}/report",
        steps=(step,),
    )


# ---- the figures ----

_TITLES = {
    "full": "full fetch of v1",
    "catch-up": "v1 to v3",
    "catch-up, no spare tree": "v1 to v3 without a spare tree",
    "catch-up, no delta": "v1 to v3 without a delta",
    "nothing": "nothing to do",
    "back": "back to v1",
}
_WHATS = {"wall_s": "wall", "cpu_s": "CPU", "wire_mb": "wire", "requests": "requests"}

_GOALS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    ("full", "wall_s", "s", "at most 1.3 times zstd -d | tar x", ("zstd -d | tar x", "cp -a", "rsync -a, full")),
    ("full", "cpu_s", "s", "", ("zstd -d | tar x", "cp -a", "rsync -a, full")),
    ("catch-up", "wall_s", "s", "at most 0.5 times rsync -a", ("rsync -a, catch-up",)),
    ("catch-up, no spare tree", "wall_s", "s", "at most 0.7 times rsync -a", ("rsync -a, catch-up",)),
    ("catch-up, no delta", "wall_s", "s", "at most 2 times rsync -a", ("rsync -a, catch-up",)),
    ("catch-up, no delta", "wire_mb", "MB", "", ("zstd --patch-from", "rsync -a, catch-up")),
    ("catch-up", "cpu_s", "s", "at most 1.0 times rsync -a", ("rsync -a, catch-up",)),
    ("catch-up", "wire_mb", "MB", "at most 1.2 times zstd --patch-from", ("zstd --patch-from", "rsync -a, catch-up")),
    ("catch-up", "requests", "requests", "at most 4", ()),
    ("nothing", "wall_s", "s", "below 0.5", ("rsync -a, nothing",)),
    ("back", "wall_s", "s", "at most 2 times rsync -a", ("rsync -a, back",)),
)
"""Which run, which figure of it, its unit, its goal, and the rivals: first the one that the goal names."""


def _measurements(found: Results) -> list[Measurement]:
    figures = [_figure(found, *goal) for goal in _GOALS]
    return [*figures, _peak(found), *(publishing(found, version) for version in found.published)]


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


def publishing(found: Results, version: str, name: str = "catchup", command: str = COMMAND) -> Measurement:
    """Return what publishing a version took, beside restic."""
    ours = found.published[version]
    rival = f"restic backup, {version}"
    theirs = found.rivals.get(rival)
    return Measurement(
        name=f"{name}: publishing {version}, until it can be seen",
        measured=round(ours.seen_s, 2),
        unit="s",
        goal="" if version == "v1" else "no longer than restic backup; deltas may come after the release can be seen",
        command=command,
        rivals={rival: round(theirs.wall_s, 2) if theirs else None},
        ratio=ratio(ours.seen_s, theirs.wall_s if theirs else None),
        note=f"{found.tree}; with deltas {ours.all_s:.2f} s; {ours.stored_mb:.1f} MB more stored, manifest and deltas"
        f" included; restic: {theirs or 'not installed'} (wire: stored); both are processes of their own",
    )
