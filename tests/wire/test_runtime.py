"""A service as a process of its own: it starts, handles, refuses, says what it does, and stops when told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.wire.running import REPOSITORY, RunningCloud, until

SERVICE = """
from shared.outcome import Done, LookAgain
from shared.runtime import run_service

class Scribe:
    def __init__(self, services):
        self.looked = False

    async def handle(self, incoming):
        if incoming.reason == "look again" and not self.looked:
            self.looked = True
            return LookAgain(1, "the first time")
        return Done("written down")

run_service("janitor", Scribe)
"""


def kill(server: str, reason: str = "") -> str:
    return json.dumps({"type": "server.kill.requested", "fleet": "web", "server": server, "reason": reason})


@dataclass
class Service:
    cloud: RunningCloud
    process: subprocess.Popen[bytes]
    queue: str
    dead: str
    heartbeat: Path
    out: Path

    def send(self, body: str) -> None:
        self.cloud.client("sqs").send_message(QueueUrl=self.queue, MessageBody=body)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["event"] == event]

    def stored(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        sqs = self.cloud.client("sqs")
        return sum(map(int, sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=names)["Attributes"].values()))

    def dead_letters(self) -> list[Any]:
        sqs = self.cloud.client("sqs")
        answer = sqs.receive_message(QueueUrl=self.dead, MessageAttributeNames=["All"], VisibilityTimeout=0)
        return list(answer.get("Messages", []))


@pytest.fixture
def service(local_cloud: RunningCloud, tmp_path: Path) -> Iterator[Service]:
    sqs = local_cloud.client("sqs")
    queue, dead = (sqs.create_queue(QueueName=f"{tmp_path.name}{end}"[-80:])["QueueUrl"] for end in ("", "-dead"))
    heartbeat, out = tmp_path / "alive", tmp_path / "out"
    environment = {
        **local_cloud.environment,
        "AUTOPROVISIONER_QUEUE_URL": queue,
        "AUTOPROVISIONER_DEAD_LETTER_URL": dead,
        "AUTOPROVISIONER_TOPIC_PREFIX": "arn:aws:sns:us-east-1:000000000000:autoprovisioner-",
        "AUTOPROVISIONER_HEARTBEAT_FILE": str(heartbeat),
    }
    with out.open("wb") as stream:
        command = (sys.executable, "-c", SERVICE)
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=stream)
        try:
            yield Service(local_cloud, process, queue, dead, heartbeat, out)
        finally:
            process.kill()
            process.wait(10)


def test_a_service_handles_refuses_and_stops(service: Service) -> None:
    service.send(kill("i-00000001"))
    service.send("poison")
    service.send(kill("i-00000002", "look again"))
    until(lambda: len(service.logged("done")) == 2, within_s=60)
    until(lambda: service.stored() == 0)

    assert {line["server"] for line in service.logged("done")} == {"i-00000001", "i-00000002"}
    [dead] = until(service.dead_letters)
    assert dead["Body"] == "poison"
    assert dead["MessageAttributes"]["reason"]["StringValue"].startswith("the body is not JSON")
    [line] = service.logged("dead letter")
    assert line["reason"].startswith("the body is not JSON")
    assert line["trace_id"] == dead["MessageAttributes"]["traceparent"]["StringValue"].split("-")[1]
    assert service.heartbeat.exists()

    service.process.terminate()
    assert service.process.wait(30) == 0
    assert len(service.logged("stopped")) == 1


def test_the_healthcheck_of_a_container_asks_the_heartbeat_file(service: Service) -> None:
    until(service.heartbeat.exists, within_s=60)
    assert healthcheck(str(service.heartbeat)) == 0
    assert healthcheck(str(service.heartbeat) + "-none") == 1
    assert healthcheck("") == 1


def healthcheck(file: str) -> int:
    command = (sys.executable, "-m", "shared.healthcheck")
    return subprocess.run(command, cwd=REPOSITORY, env={"AUTOPROVISIONER_HEARTBEAT_FILE": file}, check=False).returncode
