"""What docker-compose.yml starts, started as processes: the very commands and environment that the file gives.

Replaced is only what containers would keep apart: hosts and ports (one machine has them all), the folders that a
container has to itself, and the path of Python. Each process runs in a folder that has what the image copies.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from localcloud import lifecycle
from ops.processes import Processes
from ops.scratch import make_folder
from shared.names import SERVICES, ServiceName, queue_name
from tests import localstack
from tests.composefile import ComposeFile, Service, seconds
from tests.dockerfile import assemble, read_dockerfile

TOPICS = "arn:aws:sns:us-east-1:000000000000:"
LOGS = "processes"


class Composed:
    """The file's services on this machine."""

    def __init__(self, file: ComposeFile, folder: Path) -> None:
        self.file = file
        self._asked_for = folder
        self.folder = make_folder(folder)
        self.processes = Processes(self.folder / LOGS)
        self._cloud_port = _free_port()
        self._localstack: localstack.RunningLocalStack | None = None
        stages = read_dockerfile()
        for target in {service.build.target for service in file.services.values() if service.build}:
            image = self.folder / "images" / target
            image.mkdir(parents=True)
            assemble(stages[target], image)

    # What a story is played on.

    @property
    def url(self) -> str:
        """Where LocalStack answers."""
        assert self._localstack
        return self._localstack.url

    def environment(self) -> dict[str, str]:
        """Return an operator's environment: what the file tells the bootstrap, from this machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AUTOPROVISIONER_"))}
        return kept | self._variables("bootstrap") | {"AWS_PAGER": ""}

    def topic_arn(self, name: str) -> str:
        """Return the ARN of one of our topics."""
        return TOPICS + name

    def queue_url(self, service: ServiceName) -> str:
        """Return the URL of a service's queue."""
        return f"{self.url}/000000000000/{queue_name(service)}"

    async def start_service(self, service: ServiceName) -> None:
        """Start a service."""
        self.start(service)

    def kill_service(self, service: ServiceName) -> None:
        """End a service with SIGKILL."""
        self.processes.kill(service)

    # What Compose does.

    def start_localstack(self) -> None:
        """Start LocalStack from PyPI in place of its image."""
        self._localstack = localstack.start(self.folder / "localstack")

    def start(self, name: str) -> None:
        """Start a service's command, in the background."""
        self.processes.start(name, self._command(name, self.file.services[name].command), self._environment(name))

    def run(self, name: str, timeout_s: float) -> str:
        """Run a service's command to its end; return what it printed."""
        return self._run(name, self.file.services[name].command, timeout_s)

    def wait_until_healthy(self, name: str) -> None:
        """Run a service's health check as often as the file says, until it is healthy.

        Raises:
            AssertionError: it is not, after all the retries.
        """
        check = self.file.services[name].healthcheck
        assert check
        for _ in range(check.retries):
            if self.healthy(name):
                return
            time.sleep(seconds(check.interval))
        raise AssertionError((self.processes.folder / f"{name}.log").read_text(errors="replace")[-2000:])

    def healthy(self, name: str) -> bool:
        """Whether a service's health check succeeds."""
        check = self.file.services[name].healthcheck
        assert check
        try:
            self._run(name, check.test[1:], seconds(check.timeout) * 4)  # Python starts slowly on two busy cores
        except AssertionError:
            return False
        return True

    def stop_services(self) -> float:
        """Tell all six to stop, and return how many seconds they took."""
        began = time.monotonic()
        assert sorted(self.processes.stop(SERVICES)) == sorted(SERVICES)
        return time.monotonic() - began

    def close(self) -> None:
        """End everything that still runs; only the logs stay, beside the folder that was asked for."""
        self.processes.stop()
        lifecycle.stop(self.folder / "localcloud" / "var/lib/localcloud")
        if self._localstack:
            self._localstack.close()
        shutil.move(self.folder / LOGS, self._asked_for.with_name("logs"))
        shutil.rmtree(self.folder)

    def _run(self, name: str, command: tuple[str, ...] | None, timeout_s: float) -> str:
        done = subprocess.run(
            self._command(name, command),
            env=self._environment(name),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _command(self, name: str, command: tuple[str, ...] | None) -> list[str]:
        service = self.file.services[name]
        assert command
        assert command[0] == "python"
        assert service.build
        image = self.folder / "images" / service.build.target
        arguments = [self._here(name, service, argument) for argument in command[1:]]
        return ["/usr/bin/env", "-C", str(image), sys.executable, *arguments]

    def _environment(self, name: str) -> dict[str, str]:
        """Return the file's environment, and what the image and the container's own /tmp stand for."""
        temporary = self._folder(name, "/tmp")
        image = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONUNBUFFERED": "1"}
        return self._variables(name) | image | {"PYTHONDONTWRITEBYTECODE": "1", "HOME": temporary, "TMPDIR": temporary}

    def _variables(self, name: str) -> dict[str, str]:
        service = self.file.services[name]
        return {variable: self._here(name, service, value) for variable, value in service.variables({}).items()}

    def _here(self, name: str, service: Service, text: str) -> str:
        """Return a text with the hosts, ports and folders of containers replaced by those of this machine."""
        replaced: Mapping[str, str] = {
            "localstack:4566": self.url.removeprefix("http://"),
            "localcloud:4567": f"127.0.0.1:{self._cloud_port}",
        }
        for theirs, ours in replaced.items():
            text = text.replace(theirs, ours)
        for folder in service.own_folders:
            text = re.sub(rf"^{folder}(?=/|$)", self._folder(name, folder), text)
        return {"0.0.0.0": "127.0.0.1", "4567": str(self._cloud_port)}.get(text, text)

    def _folder(self, name: str, folder: str) -> str:
        path = self.folder / name / folder.removeprefix("/")
        path.mkdir(parents=True, exist_ok=True)
        return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
