"""LocalStack as the tests start it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import localstack
from tests.localstack import RunningLocalStack
from tests.wire.running import REPOSITORY, until

STARTER = """
import sys, time
from pathlib import Path
from tests import localstack
print(localstack.start(Path(sys.argv[1])).process.pid, flush=True)
time.sleep(100)
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningLocalStack]:
    started = localstack.start(tmp_path / "localstack")
    yield started
    started.close()


def addresses(pid: int) -> set[str]:
    """Return the addresses that a process listens on, as the kernel says."""
    listening = psutil.Process(pid).net_connections("inet")
    return {found.laddr.ip for found in listening if found.status == psutil.CONN_LISTEN or not found.raddr}


def test_nobody_on_another_machine_can_reach_it(running: RunningLocalStack) -> None:
    assert addresses(running.process.pid) == {"127.0.0.1"}


def test_it_dies_with_whoever_started_it(tmp_path: Path) -> None:
    command = (sys.executable, "-c", STARTER, str(tmp_path / "localstack"))
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readlines(1)[-1])
        assert psutil.pid_exists(pid)
        starter.kill()
    until(lambda: not psutil.pid_exists(pid), within_s=10)
