"""The reconciler and chaos as processes, against the local cloud."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploy.group import apply_group
from deploy.messaging import apply_messaging, service_environment
from localcloud.images import STOCK_PARAMETER
from shared.fleet import Fleet
from shared.ids import QUARANTINE_TAG
from shared.names import LAUNCH_HOOK, TERMINATE_HOOK, ServiceName
from tests.wire.running import RunningCloud, service_running, until

WEB = Fleet.model_validate(
    {
        "fleet": "web",
        "stock": STOCK_PARAMETER,
        "capacity": {"min": 0, "desired": 3, "max": 5},
        "plan": [{"step": "alive", "check": "http://{address}/"}],
        "health": {"url": "http://{address}:18081/", "failures": 2, "interval": 0.1},
        "policies": {"chaos": {"enabled": True}},
    }
)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Web:
    """The fleet, and the health page of each of its servers."""

    def __init__(self, cloud: RunningCloud) -> None:
        self.cloud = cloud
        self.pages: dict[str, ThreadingHTTPServer] = {}

    def members(self, state: str = "InService") -> list[str]:
        described = self.cloud.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["web"])
        (group,) = described["AutoScalingGroups"]
        return [each["InstanceId"] for each in group["Instances"] if each["LifecycleState"] == state]

    def let_in(self) -> bool:
        """Stand in for provisioner and registry: complete every hook. Whether three are in service then."""
        for state, hook in (("Pending:Wait", LAUNCH_HOOK), ("Terminating:Wait", TERMINATE_HOOK)):
            for server in self.members(state):
                if hook == LAUNCH_HOOK:
                    self.serve(server)
                self.cloud.client("autoscaling").complete_lifecycle_action(
                    AutoScalingGroupName="web",
                    InstanceId=server,
                    LifecycleHookName=hook,
                    LifecycleActionResult="CONTINUE",
                )
        return len(self.members()) == 3

    def serve(self, server: str) -> None:
        if server not in self.pages:
            (page,) = self.described(server)
            listening = ThreadingHTTPServer((page["PrivateIpAddress"], 18081), _Page)
            threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
            self.pages[server] = listening

    def fall_sick(self, server: str) -> None:
        page = self.pages.pop(server)
        page.shutdown()
        page.server_close()

    def described(self, server: str) -> list[dict[str, Any]]:
        found = self.cloud.client("ec2").describe_instances(InstanceIds=[server])
        return [each for reservation in found["Reservations"] for each in reservation["Instances"]]

    def ask(self, **message: str) -> None:
        arn = "arn:aws:sns:us-east-1:000000000000:autoprovisioner-commands"
        self.cloud.client("sns").publish(TopicArn=arn, Message=json.dumps(message))

    def send(self, service: ServiceName, **message: str) -> None:
        url = asyncio.run(service_environment(service))["AUTOPROVISIONER_QUEUE_URL"]
        self.cloud.client("sqs").send_message(QueueUrl=url, MessageBody=json.dumps(message))

    def status(self) -> dict[str, Any]:
        s3 = self.cloud.client("s3")
        listed = s3.list_objects_v2(Bucket="autoprovisioner", Prefix="fleets/web/status.json")
        if not listed.get("Contents"):
            return {}
        found: dict[str, Any] = json.load(s3.get_object(Bucket="autoprovisioner", Key="fleets/web/status.json")["Body"])
        return found

    def recovered(self, lost: str) -> bool:
        self.let_in()
        serving = self.members()  # one look: between two of them a server may leave
        return len(serving) == 3 and lost not in serving

    def settle(self) -> None:
        """Have the reconciler look, and wait for its word."""
        self.send("reconciler", type="tick", fleet="web")
        until(lambda: self.status().get("state") == "converged", 30)


@pytest.fixture(scope="module")
def web(local_cloud: RunningCloud) -> Iterator[Web]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in local_cloud.environment.items():
            patch.setenv(name, value)
        asyncio.run(apply_messaging(say=lambda _: None))
        asyncio.run(apply_group(WEB))
        fleet = Web(local_cloud)
        with service_running("reconciler", local_cloud.state), service_running("chaos", local_cloud.state):
            until(fleet.let_in, 30)
            fleet.settle()
            yield fleet
        for server in list(fleet.pages):
            fleet.fall_sick(server)


def test_a_killed_server_is_replaced(web: Web) -> None:
    victim = web.members()[0]
    web.ask(type="server.kill.requested", fleet="web", server=victim)
    until(lambda: web.recovered(victim), 30)
    assert [each["server"] for each in web.status()["disruptions"]] == [victim]


def test_a_disabled_server_is_replaced_and_kept_running_aside(web: Web) -> None:
    web.settle()
    victim = web.members()[0]
    web.ask(type="server.disable.requested", fleet="web", server=victim, reason="odd noises")
    until(lambda: web.recovered(victim), 30)
    (instance,) = web.described(victim)
    assert instance["State"]["Name"] == "running"
    assert QUARANTINE_TAG in {tag["Key"] for tag in instance["Tags"]}


def test_a_sick_server_is_replaced(web: Web) -> None:
    web.settle()
    victim = web.members()[0]
    web.fall_sick(victim)
    web.send("reconciler", type="tick")
    until(lambda: web.recovered(victim), 30)


def test_chaos_asked_by_an_operator_has_one_server_replaced(web: Web) -> None:
    web.settle()
    before = set(web.members())
    web.send("chaos", type="tick", fleet="web")
    until(lambda: web.let_in() and not before <= set(web.members()), 30)
    until(web.let_in, 30)
    assert [each["by"] for each in web.status()["disruptions"]].count("chaos") == 1


def test_a_request_for_an_unknown_fleet_is_a_dead_letter_with_a_sentence(web: Web) -> None:
    web.ask(type="server.kill.requested", fleet="nobody", server="i-00000000000000001")
    url = asyncio.run(service_environment("reconciler"))["AUTOPROVISIONER_DEAD_LETTER_URL"]
    found = until(
        lambda: web.cloud.client("sqs").receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get("Messages", [])
    )
    assert "there is no fleet 'nobody'" in found[0]["MessageAttributes"]["reason"]["StringValue"]
