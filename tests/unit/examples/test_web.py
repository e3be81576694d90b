"""The plan of the fleet ``web``, its scripts run for real on a small monolith."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from deploy.fleet import read_fleet
from examples.monolith import Edition, write_libraries, write_monolith
from shared.fleet import RunStep, SyncStep

WEB = Path(__file__).parents[3] / "examples/web/fleet.yaml"
SMALL = 0.02


@dataclass(frozen=True)
class Server:
    """A directory that stands for a server's root disk, and an address of its own."""

    root: Path
    address: str
    releases: Mapping[str, Path]

    def run(self, only: str | None = None) -> dict[str, subprocess.CompletedProcess[str]]:
        results = {}
        for step in read_fleet(WEB).plan:
            if only not in (None, step.step):
                continue
            if isinstance(step, SyncStep):
                self.sync(self.releases[step.sync], step.to)
            elif isinstance(step, RunStep):
                results[step.step] = self.script(step)
        return results

    def sync(self, release: Path, to: str) -> None:
        shutil.rmtree(self.root / to, ignore_errors=True)
        shutil.copytree(release, self.root / to, copy_function=os.link)

    def script(self, step: RunStep) -> subprocess.CompletedProcess[str]:
        file = self.root / "step"
        file.write_text(step.script)
        file.chmod(0o700)
        return self.command(str(file))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "SERVER_ROOT": str(self.root),
            "ADDRESS": self.address,
            "SERVER": "i-0123456789abcdef0",
        }
        return subprocess.run(
            words, cwd=self.root, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://{self.address}:8080{path}", timeout=10) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, 8080)) == 0

    def health(self) -> dict[str, Any]:
        status, body = self.get("/health")
        assert status == 200, body
        answer = json.loads(body)
        assert isinstance(answer, dict)
        return answer


def end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid))


def gone(pid: int) -> bool:
    """Whether the process has ended, reaped by its parent or not."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 seconds in vain"
        time.sleep(0.02)


def free_address() -> str:
    """Return an address whose port 8080 nobody has."""
    for last in range(1, 255):
        address = f"127.91.{os.getpid() % 250}.{last}"
        with socket.socket() as probe:
            if probe.connect_ex((address, 8080)):
                return address
    raise AssertionError("no address is free")


def outputs(root: Path) -> dict[str, int]:
    """Return every built file and when it was written."""
    built = [path for folder in ("opt/build", "srv/build") for path in (root / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in built}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("releases")
    write_libraries(out / "1", scale=SMALL)
    write_monolith(out / "1", Edition(scale=SMALL))
    write_monolith(out / "2", Edition(scale=SMALL, version=2, change=0.05))
    write_monolith(out / "broken", Edition(scale=SMALL, version=3, broken=True))
    return out


def at_version(server: Server, releases: Path, version: str) -> Server:
    return Server(server.root, server.address, {**server.releases, "monolith": releases / version / "monolith"})


@pytest.fixture
def server(tmp_path: Path, releases: Path) -> Iterator[Server]:
    root = tmp_path / "a server's root"
    root.mkdir()
    server = first_version(root, free_address(), releases)
    yield server
    process = root / "run/web.pid"
    if process.exists() and (pid := process.read_text().strip()) and not gone(int(pid)):
        end(int(pid))


def first_version(root: Path, address: str, releases: Path) -> Server:
    return Server(root, address, {name: releases / "1" / name for name in ("libraries", "monolith")})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, releases: Path) -> Path:
    """Return the root of a server on which every step but the last was run: what an image would hold."""
    builder = first_version(tmp_path_factory.mktemp("builder"), "", releases)
    for step in ("libraries", "compile-libraries", "monolith", "compile", "assets", "search-index"):
        for result in builder.run(only=step).values():
            assert result.returncode == 0, result.stderr
    return builder.root


@pytest.fixture
def provisioned(server: Server, built: Path) -> Server:
    shutil.copytree(built, server.root, dirs_exist_ok=True)
    result = server.run(only="service")["service"]
    assert result.returncode == 0, result.stderr
    return server


def test_the_whole_plan_ends_with_a_server_that_names_what_it_runs(provisioned: Server) -> None:
    health = provisioned.health()
    assert health.pop("pid") > 0
    assert health == {
        "status": "ok",
        "server": "i-0123456789abcdef0",
        "monolith": "1",
        "libraries": "2026.1",
        "assets": 59,
        "documents": 75,
        "schema": 5,
        "areas": 1,
    }


def test_pages_search_and_assets_are_served(provisioned: Server) -> None:
    status, home = provisioned.get("/")
    assert (status, b"<dt>monolith</dt><dd>1</dd>" in home) == (200, True)
    title = (provisioned.root / "srv/monolith/docs/orders/000.md").read_text().partition("\n")[0].lstrip("# ")
    status, found = provisioned.get(f"/search?q={title.replace(' ', '+')}")
    assert (status, "orders/000.md" in {page["path"] for page in json.loads(found)["pages"]}) == (200, True)
    assert provisioned.get("/search?q=%22%28+*")[0] == 200
    assert provisioned.get("/assets/orders/order-000.css")[0] == 200
    assert (
        provisioned.get("/assets/orders/order.bin")[1]
        == (provisioned.root / "srv/monolith/assets/orders/order.bin").read_bytes()
    )
    assert provisioned.get("/etc/rc.local")[0] == 404


def test_a_second_run_builds_nothing_anew(provisioned: Server) -> None:
    before = outputs(provisioned.root)
    results = provisioned.run()
    kept = {path for path, written in outputs(provisioned.root).items() if written == before.get(path)}
    small = {"opt/build/libraries/libraries.json", "srv/build/release.json", "srv/build/assets/manifest.json"}
    assert before.keys() - kept == small | {"srv/build/start"}
    assert results["compile"].stdout.startswith("0 of ")
    assert results["compile-libraries"].stdout.startswith("0 of ")
    assert results["search-index"].stdout == "the index is up to date\n"


def test_the_synced_trees_are_never_written_to(provisioned: Server, releases: Path) -> None:
    for component, folder in (("libraries", "opt/libraries"), ("monolith", "srv/monolith")):
        release = {
            str(path.relative_to(releases / "1" / component)) for path in (releases / "1" / component).rglob("*")
        }
        there = {str(path.relative_to(provisioned.root / folder)) for path in (provisioned.root / folder).rglob("*")}
        assert there == release
    compile((provisioned.root / "srv/monolith/src/product/__init__.py").read_text(), "product", "exec")


def test_a_release_with_changed_sources_compiles_those_and_restarts(provisioned: Server, releases: Path) -> None:
    before = provisioned.health()["pid"]
    newer = at_version(provisioned, releases, "2")
    newer.run(only="monolith")
    compiled = newer.run(only="compile")["compile"]
    assert provisioned.health()["monolith"] == "1", "it goes on until the service step"
    assert newer.run(only="service")["service"].returncode == 0
    after = newer.health()
    changed = round(0.05 * sum(path.is_file() for path in newer.releases["monolith"].rglob("*"))) - 1
    assert compiled.stdout.startswith(f"{changed} of ")
    assert (after["monolith"], after["pid"] != before) == ("2", True)


def test_a_broken_release_is_refused_with_file_line_and_reason(provisioned: Server, releases: Path) -> None:
    broken = at_version(provisioned, releases, "broken")
    before = outputs(provisioned.root)
    broken.run(only="monolith")
    result = broken.run(only="compile")["compile"]
    assert result.returncode == 1
    assert ": '(' was never closed: def settle_claim(claim, rate:" in result.stderr
    assert result.stderr.endswith("compile: 1 mistake in the release's modules; nothing was put in place\n")
    assert outputs(provisioned.root) == before
    assert provisioned.health()["monolith"] == "1"


def test_an_import_that_nothing_meets_is_refused(server: Server) -> None:
    server.sync(server.releases["libraries"], "opt/libraries")
    server.run(only="compile-libraries")
    module = server.root / "srv/monolith/src/product/__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("import json\n\ndef late():\n    import no_such_library\n")
    result = server.run(only="compile")["compile"]
    assert result.returncode == 1
    assert "src/product/__init__.py:4: there is no module no_such_library" in result.stderr


def test_a_library_that_is_not_as_recorded_is_refused(server: Server) -> None:
    shutil.copytree(server.releases["libraries"], server.root / "opt/libraries")
    table = next((server.root / "opt/libraries").glob("*/data/table_00.txt"))
    table.write_text("something else")
    result = server.run(only="compile-libraries")["compile-libraries"]
    assert result.returncode == 1
    assert f"{table.parent.parent.name}/data/table_00.txt is not the file that" in result.stderr


def test_what_a_cut_off_run_left_behind_does_no_harm(provisioned: Server) -> None:
    build = provisioned.root / "srv/build"
    left_overs = [
        build / "src/product/.x.pyc.new",
        build / "assets/assets/orders/.x.css.gz.new",
        build / ".search.db.new",
    ]
    for left_over in left_overs:
        left_over.write_text("half of it")
    (build / "search.db").write_text("not a database")
    next((provisioned.root / "opt/build/libraries").glob("*.zip")).write_text("not an archive")
    (build / "src/product/__init__.pyc").unlink()
    assert [result.returncode for result in provisioned.run().values()] == [0] * 5
    assert provisioned.health()["documents"] == 75
    assert not any(left_over.exists() for left_over in left_overs)


def test_the_server_is_not_healthy_when_something_it_needs_is_missing(provisioned: Server) -> None:
    (provisioned.root / "srv/build/search.db").unlink()
    status, body = provisioned.get("/health")
    assert (status, json.loads(body)["reason"]) == (503, "srv/build/search.db is missing")


def test_boot_starts_the_server_and_the_service_step_replaces_that_one(provisioned: Server) -> None:
    end(provisioned.health()["pid"])
    assert provisioned.command("etc/rc.local").returncode == 0
    wait_until(provisioned.answers)
    booted = provisioned.health()["pid"]
    assert provisioned.run(only="service")["service"].returncode == 0
    assert provisioned.health()["pid"] != booted
    wait_until(lambda: gone(booted))


def test_a_process_number_that_came_with_an_image_hurts_nobody(provisioned: Server) -> None:
    end(provisioned.health()["pid"])
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (provisioned.root / "run/web.pid").write_text(f"{bystander.pid}\n")
        assert provisioned.run(only="service")["service"].returncode == 0
        assert bystander.poll() is None
        bystander.kill()


def test_a_request_under_way_is_finished_after_sigterm(provisioned: Server) -> None:
    pid = provisioned.health()["pid"]
    wait_until(lambda: threads(pid) == 1)
    with socket.create_connection((provisioned.address, 8080), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n")
        wait_until(lambda: threads(pid) == 2)  # the second one has taken the connection
        os.kill(pid, signal.SIGTERM)
        connection.sendall(b"\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.0 200")
    wait_until(lambda: gone(pid))
