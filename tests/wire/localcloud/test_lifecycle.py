"""A local cloud starts, stops, and leaves nothing behind, however it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

from localcloud import processes
from tests.wire.localcloud import helpers
from tests.wire.running import REPOSITORY, RunningCloud, local_cloud_on, start, until


def localcloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "localcloud", *arguments)
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)


def busy(cloud: RunningCloud) -> str:
    """Launch an instance with a daemon in it, and one that took off its marks while its parent lives."""
    instance = helpers.launch(cloud)
    helpers.run(cloud, instance, "(setsid sleep 300 &) >/dev/null 2>&1")
    helpers.run(cloud, instance, "(setsid sh -c 'env -i sleep 301; true' &) >/dev/null 2>&1")
    until(lambda: len(processes.marked(cloud.state)) == 4)
    return instance


def descendants_of(cloud: RunningCloud) -> set[int]:
    return processes.children_of(cloud.process.pid) | {cloud.process.pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def test_stop_ends_everything(tmp_path: Path) -> None:
    with local_cloud_on(tmp_path / "state") as cloud:
        busy(cloud)
        there = descendants_of(cloud)
        assert len(there) == 5

        done = localcloud("stop", "--state", str(cloud.state))

        assert (done.returncode, done.stderr) == (0, "")
        assert cloud.process.wait(5) == 0
        assert alive(there) == set()
        assert processes.marked(cloud.state) == set()


def test_a_process_without_marks_and_parent_is_ended_by_sigterm(tmp_path: Path) -> None:
    with local_cloud_on(tmp_path / "state") as cloud:
        helpers.run(cloud, helpers.launch(cloud), "(setsid env -i sleep 302 &) >/dev/null 2>&1")
        there = descendants_of(cloud)
        assert len(there) == 3

        cloud.process.send_signal(signal.SIGTERM)

        assert cloud.process.wait(20) == 0
        assert alive(there) == set()


def test_stop_after_a_kill_ends_what_was_left(tmp_path: Path) -> None:
    left = leave_behind(tmp_path)

    assert localcloud("stop", "--state", str(tmp_path)).returncode == 0

    assert not processes.marked(tmp_path)
    assert not processes.alive(left)


def test_a_start_after_a_kill_ends_what_was_left_and_forgets_it(tmp_path: Path) -> None:
    left = leave_behind(tmp_path)

    with local_cloud_on(tmp_path) as cloud:
        assert not processes.alive(left)
        assert not list((tmp_path / "instances").iterdir())
        assert cloud.client("ec2").describe_instances()["Reservations"] == []


def leave_behind(state: Path) -> set[int]:
    """Run a local cloud with a busy instance, kill it, and return the processes that it left."""
    cloud = start(state)
    busy(cloud)
    cloud.process.kill()
    cloud.close()
    left = processes.marked(state)
    assert len(left) == 4
    return left


def test_a_dead_daemon_is_reaped(tmp_path: Path) -> None:
    with local_cloud_on(tmp_path) as cloud:
        instance = helpers.launch(cloud)
        pid = int(helpers.run(cloud, instance, "(setsid sleep 0.3 & echo $!)"))

        until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = localcloud("--port", str(port), "--state", str(tmp_path))

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"The local cloud cannot listen on 127.0.0.1:{port}:")
    assert done.stderr.count("\n") == 1


def test_a_second_local_cloud_on_the_same_folder_is_one_sentence(tmp_path: Path) -> None:
    with local_cloud_on(tmp_path) as cloud:
        done = localcloud("--port", "0", "--state", str(tmp_path))

        assert done.returncode == 2
        assert done.stderr.startswith(f"A local cloud already runs on {tmp_path} (process {cloud.process.pid})")
        assert done.stderr.count("\n") == 1
        assert cloud.process.poll() is None


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = localcloud("--port", "0", "--state", str(tmp_path / "file" / "state"))

    assert done.returncode == 2
    assert done.stderr == f"The state folder {tmp_path}/file/state cannot be written: Not a directory.\n"


def test_stopping_where_nothing_runs_is_no_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert localcloud("stop", "--state", str(folder)).returncode == 0
