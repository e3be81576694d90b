"""The queue server of the benchmarks as a process, and the processes that are measured against it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import psutil

from shared.clock import SystemClock

PATIENCE_S = 120.0


class QueueServer:
    """A running ``bench.sqs_stub``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def queue_url(self, queue: str) -> str:
        """Return the URL of a queue; every name is one."""
        return f"{self.url}/000000000000/{queue}"

    def environment(self, queue: str) -> dict[str, str]:
        """Return what a service needs to consume this queue."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AUTOPROVISIONER_"))}
        return kept | {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AUTOPROVISIONER_QUEUE_URL": self.queue_url(queue),
            "AUTOPROVISIONER_DEAD_LETTER_URL": self.queue_url(f"{queue}-dead"),
            "AUTOPROVISIONER_TOPIC_PREFIX": "arn:aws:sns:us-east-1:000000000000:autoprovisioner-",
        }

    def fill(self, queue: str, bodies: Sequence[str], times: int) -> str:
        """Add the bodies so many times each (none: the one that waits); return the first."""
        content = orjson.dumps({"bodies": list(bodies), "times": times})
        request = urllib.request.Request(f"{self.url}/bench/fill/{queue}", content, method="POST")
        with urllib.request.urlopen(request) as answer:
            return str(orjson.loads(answer.read()))

    def look(self, queue: str) -> dict[str, Any]:
        """Return how many messages are ``left``, the ``requests`` by name, and when the ``first_receive`` was."""
        with urllib.request.urlopen(f"{self.url}/bench/look/{queue}") as answer:
            seen: dict[str, Any] = orjson.loads(answer.read())
            return seen

    def until(self, queue: str, name: str, wanted: object) -> dict[str, Any]:
        """Wait until what is seen under this name is ``wanted`` (True: anything but nothing); return what is seen.

        Raises:
            TimeoutError: that did not happen.
        """
        clock = SystemClock()
        deadline = clock.monotonic() + PATIENCE_S
        while clock.monotonic() < deadline:
            seen = self.look(queue)
            if seen[name] == wanted or (wanted is True and seen[name]):
                return seen
            time.sleep(0.05)
        raise TimeoutError(f"{queue}: {name} was not {wanted} within {PATIENCE_S:.0f} s; last seen: {seen}")


@contextmanager
def queue_server() -> Iterator[QueueServer]:
    """Run a queue server until the block ends."""
    command = [sys.executable, "-m", "bench.sqs_stub"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = process.stdout.readline().rpartition(" ")[2].strip()
            yield QueueServer(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Run a process, its output going nowhere, until the block ends."""
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, env=dict(environment), stdout=nowhere, stderr=nowhere) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def cpu_s(process: psutil.Process) -> float:
    """Return the processor time, user and system, of a process and its children, to the nanosecond.

    By each one's own CPU clock, whose number follows from the pid as in Linux's ``clock_getcpuclockid``: what psutil
    tells is in hundredths of a second.
    """
    return sum(time.clock_gettime(~each.pid << 3 | 2) for each in (process, *process.children(recursive=True)))
