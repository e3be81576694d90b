"""The whole system on this machine: the local cloud, what the template describes, and the six services."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.messaging import apply_messaging, service_environment
from localcloud.lifecycle import stop as end_cloud
from ops.processes import Processes, wait_for_line
from ops.scratch import empty_folder, make_folder
from shared.names import SERVICES, ServiceName, queue_name

READY_TIMEOUT_S = 60.0
"""moto takes three to five seconds to start, more on a busy machine."""

PROCESSES = "processes"
"""The folder of process records and logs."""

CLOUD = "cloud"
BUCKET = "autoprovisioner"
ACCOUNT = "000000000000"
TOPIC_PREFIX = f"arn:aws:sns:us-east-1:{ACCOUNT}:autoprovisioner-"


class AlreadyRunning(Exception):
    """Processes of a stack run in the folder; the message is a sentence for a person."""


class Stack:
    """One stack in one folder on one port."""

    def __init__(self, folder: Path, port: int) -> None:
        self._asked_for = folder
        self.folder = folder.resolve()
        self.port = port
        self.processes = Processes(self.folder / PROCESSES)

    @property
    def url(self) -> str:
        """Where the local cloud answers."""
        return f"http://127.0.0.1:{self.port}"

    def topic_arn(self, name: str) -> str:
        """Return the ARN of one of our topics."""
        return TOPIC_PREFIX.removesuffix("autoprovisioner-") + name

    def queue_url(self, service: ServiceName) -> str:
        """Return the URL of a service's queue."""
        return f"{self.url}/{ACCOUNT}/{queue_name(service)}"

    def environment(self) -> dict[str, str]:
        """Return the environment in which the AWS clients, ours and the AWS CLI, talk to the local cloud."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AUTOPROVISIONER_"))}
        return kept | {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
            "AUTOPROVISIONER_BUCKET": BUCKET,
            "AUTOPROVISIONER_TOPIC_PREFIX": TOPIC_PREFIX,
        }

    def enter(self) -> None:
        """Give this process that environment, so that every client it opens talks to this stack."""
        environment = self.environment()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)

    def start_cloud(self) -> None:
        """Start the local cloud in an empty folder and wait until it answers.

        Raises:
            AlreadyRunning: a stack runs in this folder, or an interrupted one left processes behind.
            StartFailed: with the local cloud's own sentence (the port is in use).
            UnusableFolder: the folder cannot be written, or has other things in it.
        """
        running = [each.name for each in self.processes.running()]
        if running:
            raise AlreadyRunning(
                f"{', '.join(running)} run in {self._asked_for} already; end them first with: make down"
            )
        end_cloud(self.folder / CLOUD)
        self.folder = make_folder(self._asked_for)
        self.processes = Processes(self.folder / PROCESSES)
        command = [sys.executable, "-m", "localcloud", "--port", str(self.port), "--state", str(self.folder / CLOUD)]
        cloud = self.processes.start("localcloud", command, self.environment())
        wait_for_line(cloud, "local cloud ready", READY_TIMEOUT_S)

    async def start_services(self, say: Callable[[str], None]) -> None:
        """Create what the template describes, then start the six services."""
        await apply_messaging(say=say)
        for service in SERVICES:
            await self.start_service(service)

    async def start_service(self, service: ServiceName) -> None:
        """Start one service, as a container would: one command, configured by environment only."""
        environment = self.environment() | dict(await service_environment(service))
        self.processes.start(service, [sys.executable, "-m", f"services.{service}"], environment)

    def kill_service(self, service: ServiceName) -> None:
        """End a service with SIGKILL."""
        self.processes.kill(service)

    def stop(self) -> list[str]:
        """End everything, services first, and delete the disks; the logs stay. Return the names of what ran."""
        ended = self.processes.stop(SERVICES)
        ended += self.processes.stop()
        end_cloud(self.folder / CLOUD)  # what a local cloud that was killed left running
        empty_folder(self.folder, keep=PROCESSES)
        return ended

    def log(self, name: str) -> Path:
        """Return where a process's output is."""
        return self.processes.folder / f"{name}.log"
