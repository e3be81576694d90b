"""LocalStack itself, as a process of the tests' own: installed on first use, on loopback only, gone without a trace."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "deploy" / "localstack"
INTERPRETER = REPOSITORY / ".venv-localstack" / "bin" / "python"
ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}

READY_WITHIN_S = 60
END_WITHIN_S = 20

FLAGS = {
    "CFN_IGNORE_UNSUPPORTED_RESOURCE_TYPES": "1",  # its own default; with 0, 4.13 refuses even topics and queues
    "DISABLE_EVENTS": "1",  # no usage statistics
    "DNS_ADDRESS": "0",  # no name server
    "LOCALSTACK_SKIP_INFRA_DOWNLOADS": "1",
    "OVERRIDE_IN_DOCKER": "0",  # the tests may run in a container, which LocalStack would take for its own
    "SKIP_SSL_CERT_DOWNLOAD": "1",
    "SQS_DISABLE_CLOUDWATCH_METRICS": "1",  # they cost three quarters of its speed
}


class StartFailed(Exception):
    """LocalStack ended, or never became ready; the message ends with what it logged."""


@dataclass(frozen=True)
class RunningLocalStack:
    """LocalStack under test. It dies with the process that started it, even if that is killed."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def environment(self) -> Mapping[str, str]:
        """Return what a process needs in its environment to use it."""
        return {**os.environ, **ACCOUNT, "AWS_ENDPOINT_URL": self.url}

    def close(self) -> None:
        """End it at once: what it holds is nobody's. Left alone, it takes up to ten seconds to stop."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(END_WITHIN_S)
        assert self.process.stdin
        self.process.stdin.close()


def start(folder: Path) -> RunningLocalStack:
    """Start LocalStack on a free port of 127.0.0.1, with all that it writes in ``folder``; the caller closes it.

    Raises:
        StartFailed: it cannot be installed, or does not come up.
    """
    _install()
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    running = _launch(folder, port)
    try:
        _wait(running)
    except StartFailed:
        running.close()
        raise
    return running


def _install() -> None:
    """Make LocalStack's environment, unless it is there; one process at a time."""
    with (REPOSITORY / ".venv-localstack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(("sh", str(FOLDER / "environment.sh")), check=False)
    if done.returncode != 0:
        raise StartFailed("LocalStack could not be installed")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _launch(folder: Path, port: int) -> RunningLocalStack:
    environment = {
        **FLAGS,
        "PATH": os.environ["PATH"],
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "HOME": str(folder),  # it reads settings from there, and caches
        "FILESYSTEM_ROOT": str(folder),
        "TMPDIR": str(folder),  # instances that share one delete each other's state
    }
    log = folder / "localstack.log"
    command = (str(INTERPRETER), str(FOLDER / "loopback.py"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return RunningLocalStack(f"http://127.0.0.1:{port}", process, log)


def _wait(running: RunningLocalStack) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not _healthy(running.url):
        ended = running.process.poll() is not None
        if ended or time.monotonic() > deadline:
            why = "ended" if ended else f"was not ready within {READY_WITHIN_S} s"
            raise StartFailed(f"LocalStack {why}:\n{running.log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_localstack/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False
