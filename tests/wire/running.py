"""A local cloud as a process of its own, and how tests reach it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session as get_async_session
from botocore.config import Config
from botocore.session import get_session

from deploy.messaging import service_environment
from localcloud import processes
from shared.names import ServiceName

REPOSITORY = Path(__file__).parents[2]
ACCOUNT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
S3_STYLE: Any = {"addressing_style": "path"}

T = TypeVar("T")


@dataclass
class Endpoint:
    """Where AWS is for the tests, and how to reach it."""

    url: str
    is_localstack: bool = field(default=False, kw_only=True)
    _clients: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment to use it."""
        return {
            **os.environ,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def cli(self) -> tuple[str, ...]:
        """The real AWS CLI, which ignores AWS_ENDPOINT_URL where it speaks to SQS."""
        return str(Path(sys.executable).with_name("aws")), "--endpoint-url", self.url

    def client(self, service: str) -> Any:
        """Return the botocore client of a service; without retries, so that errors show."""
        if service not in self._clients:
            session: Any = get_session()
            config = Config(s3=S3_STYLE, retries={"total_max_attempts": 1})
            self._clients[service] = session.create_client(service, config=config, **self._account())
        return self._clients[service]

    def async_client(self, service: str) -> AbstractAsyncContextManager[Any]:
        """Return an aiobotocore client of a service, to enter."""
        session: Any = get_async_session()
        found: AbstractAsyncContextManager[Any] = session.create_client(
            service, config=AioConfig(s3=S3_STYLE), **self._account()
        )
        return found

    def aws(self, *arguments: str) -> str:
        """Run the real AWS CLI and return what it prints."""
        done = subprocess.run(
            (*self.cli, *arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def disconnect(self) -> None:
        """Let go of connections."""
        for client in self._clients.values():
            client.close()

    def _account(self) -> dict[str, str]:
        return {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }


@dataclass
class RunningCloud(Endpoint):
    """A local cloud under test."""

    state: Path
    process: subprocess.Popen[str]

    def close(self) -> None:
        """Let go of connections, and end the process if it still runs."""
        self.disconnect()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        if self.process.stdout:
            self.process.stdout.close()


def start(state: Path, *options: str) -> RunningCloud:
    """Start a local cloud on a free port; the caller closes it."""
    command = (sys.executable, "-m", "localcloud", "--port", "0", "--state", str(state), *options)
    process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | ACCOUNT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    ready = process.stdout.readline()
    assert ready.startswith("local cloud ready: "), ready
    return RunningCloud(ready.split()[3], state, process)


@contextmanager
def local_cloud_on(state: Path, *options: str) -> Iterator[RunningCloud]:
    """Run a local cloud on a free port until the block ends."""
    cloud = start(state, *options)
    try:
        yield cloud
    finally:
        cloud.close()
        processes.end(lambda: processes.marked(state))


@contextmanager
def service_running(service: ServiceName, logs: Path) -> Iterator[None]:
    """Run a service, on what this process's environment points at, until the block ends."""
    environment = {**os.environ, **asyncio.run(service_environment(service))}
    command = (sys.executable, "-m", f"services.{service}")
    with (logs / f"{service}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log)
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(30) == 0


def until(look: Callable[[], T], within_s: float = 30.0) -> T:
    """Look again and again until something true is seen, and return it."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not seen within {within_s} s; last: {seen!r}"
        time.sleep(0.05)
    return seen
