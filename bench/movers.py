"""What others take to move code: those that are installed here, on the tree that the agent is measured on."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.ports import free_port
from bench.running import Ran, run, say

AWS = str(Path(sys.executable).with_name("aws"))


def copying(folder: Path, versions: Sequence[Path]) -> dict[str, Ran]:
    """``cp -a``: what the disk can do."""
    say("cp -a")
    found = {"cp -a": run(["cp", "-a", str(versions[0]), str(folder / "copy")])[0]}
    shutil.rmtree(folder / "copy")
    return found


def zstd(folder: Path, versions: Sequence[Path]) -> dict[str, Ran]:
    """A ready archive unpacked, and the smallest difference between two archives."""
    say("zstd")
    work = folder / "zstd"
    (work / "out").mkdir(parents=True)
    for each in (versions[0], versions[-1]):
        run(["tar", "--sort=name", "-C", str(each), "-cf", f"{work}/{each.name}.tar", "."])
    run(["zstd", "-q", "-3", "-T0", f"{work}/v1.tar", "-o", f"{work}/v1.tar.zst"])
    unpacked, _ = run(["sh", "-c", f"zstd -q -dc {work}/v1.tar.zst | tar -x -C {work}/out"])
    patch = ["zstd", "-q", "-T0", "--long=31", f"--patch-from={work}/v1.tar", f"{work}/v3.tar", "-o", f"{work}/patch"]
    patched, _ = run(patch)
    found = {
        "zstd -d | tar x": replace(unpacked, wire_mb=size_of(work / "v1.tar.zst")),
        "zstd --patch-from": replace(patched, wire_mb=size_of(work / "patch")),
    }
    shutil.rmtree(work)
    return found


def rsync_to(source: str, out: Path) -> Ran:
    """Bring a folder up to date from a daemon; the bytes are those that it received."""
    ran, said = run(["rsync", "-a", "--delete", "--stats", source, f"{out}/"])
    received = re.search(r"Total bytes received: ([\d,]+)", said)
    return replace(ran, wire_mb=int(received[1].replace(",", "")) / 1e6 if received else None)


@contextmanager
def rsync_daemon(folder: Path, served: Path) -> Iterator[str]:
    """Serve a folder from a daemon of our own; yield its URL."""
    port = free_port()
    config = folder / "rsyncd.conf"
    told = ("use chroot = no", f"log file = {folder}/rsyncd.log", "[tree]", f"path = {served}", f"uid = {os.getuid()}")
    config.write_text("\n".join(told) + "\n")
    command = ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}", f"--config={config}"]
    with _standing(command, port):
        yield f"rsync://127.0.0.1:{port}/tree"


class Restic:
    """A repository of restic's in an empty folder: each version is a backup into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._command = ["restic", "-q", "-r", str(folder / "repository")]
        self._told = {"RESTIC_PASSWORD": "none", "RESTIC_CACHE_DIR": str(folder / "cache")}
        run([*self._command, "init"], **self._told)

    def backup(self, version: Path) -> Ran:
        """Back a version up; what went over the wire is what is stored more."""
        say(f"restic backup, {version.name}")
        before = stored_mb(self.folder / "repository")
        ran, _ = run([*self._command, "backup", f"{version}/"], **self._told)
        return replace(ran, wire_mb=stored_mb(self.folder / "repository") - before)


def git(folder: Path, versions: Sequence[Path]) -> dict[str, Ran]:
    """Commit the first and the last version; clone, then fetch and check out. Empty folders and most modes are lost."""
    say("git")
    work = folder / "git"
    work.mkdir()
    origin, clone = str(work / "origin"), str(work / "clone")
    run(["git", "init", "-q", "--bare", origin])
    person = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "core.autocrlf=false"]
    found: dict[str, Ran] = {}
    for version, what in ((versions[0], "git clone --depth 1"), (versions[-1], "git fetch --depth 1, checkout")):
        at = ["git", f"--git-dir={origin}", f"--work-tree={version}", *person]
        commit = " ".join((*at, "add", "-A", ".", "&&", *at, "commit", "-q", "--allow-empty", "-m", version.name))
        found[f"git commit, {version.name}"] = run(["sh", "-c", f"cd {version} && {commit}"])[0]
        fetch = f"git -C {clone} fetch -q --depth 1 origin HEAD && git -C {clone} checkout -q FETCH_HEAD"
        copy = f"git clone -q --depth 1 file://{origin} {clone}"
        found[what] = run(["sh", "-c", fetch if Path(clone).exists() else copy])[0]
    shutil.rmtree(work)
    return found


def casync(folder: Path, versions: Sequence[Path]) -> dict[str, Ran]:
    """Make archives in one store here; extract the first, and the last with the first as seed."""
    say("casync")
    work = folder / "casync"
    work.mkdir()
    store, first, last = f"--store={work}/store", versions[0], versions[-1]
    found = {
        f"casync make, {each.name}": run(["casync", "make", store, f"{work}/{each.name}.caidx", str(each)])[0]
        for each in (first, last)
    }
    found["casync extract"] = run(["casync", "extract", store, f"{work}/v1.caidx", f"{work}/one"])[0]
    seeded = ["casync", "extract", store, f"--seed={work}/one", f"{work}/{last.name}.caidx", f"{work}/two"]
    found["casync extract, seeded"] = run(seeded)[0]
    shutil.rmtree(work)
    return found


def rclone(folder: Path, versions: Sequence[Path]) -> dict[str, Ran]:
    """Sync from a WebDAV server of its own, a request a file; links are left out."""
    say("rclone")
    work, port = folder / "rclone", free_port()
    work.mkdir()
    served = versions[0].parent
    told = {"RCLONE_CONFIG": str(work / "none.conf"), "RCLONE_WEBDAV_URL": f"http://127.0.0.1:{port}"}
    serve = ["rclone", "serve", "webdav", "--addr", f"127.0.0.1:{port}", "--read-only", str(served), "-q"]
    command = ["rclone", "sync", "-q", "--transfers", "16"]
    with _standing(serve, port, RCLONE_CONFIG=told["RCLONE_CONFIG"]):
        found = {
            f"rclone sync, {what}": run([*command, f":webdav:{version.name}", f"{work}/out"], **told)[0]
            for what, version in (("full", versions[0]), ("catch-up", versions[-1]))
        }
    shutil.rmtree(work)
    return found


def aws(folder: Path, versions: Sequence[Path]) -> dict[str, Ran]:
    """Sync from a stub of S3, a request a file and more for a large one; links and empty folders are left out.

    The stub's own time is not counted, but waited for.
    """
    say("aws s3 sync")
    work, port = folder / "aws", free_port()
    work.mkdir()
    told = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_CONFIG_FILE": os.devnull,
    }
    command = [AWS, "s3", "sync", "--delete", "--only-show-errors"]
    with _standing([sys.executable, "-m", "bench.s3_stub", str(versions[0].parent), str(port)], port):
        found = {
            f"aws s3 sync, {what}": run([*command, f"s3://{version.name}", f"{work}/out"], **told)[0]
            for what, version in (("full", versions[0]), ("catch-up", versions[-1]))
        }
    shutil.rmtree(work)
    return found


MOVERS: dict[str, Callable[[Path, Sequence[Path]], dict[str, Ran]]] = {
    AWS: aws,
    "git": git,
    "casync": casync,
    "rclone": rclone,
}
"""Those that are slow beside the goals, by the program that they need."""


def size_of(path: Path) -> float:
    """Return a file's size in MB."""
    return path.stat().st_size / 1e6


def stored_mb(folder: Path) -> float:
    """Return the size of all files in a folder in MB."""
    return sum(size_of(path) for path in folder.rglob("*") if path.is_file())


@contextmanager
def _standing(command: Sequence[str], port: int, **environment: str) -> Iterator[None]:
    with subprocess.Popen(command, env={**os.environ, **environment}) as server:
        try:
            _until_open(port, command[0])
            yield
        finally:
            server.terminate()


def _until_open(port: int, what: str) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{what} did not listen within 5 s; run it by hand to see why")
