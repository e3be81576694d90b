"""Provisioner, baker and registry as processes, against the local cloud: a life from launch to image and back."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from deploy.group import apply_group
from deploy.messaging import apply_messaging
from localcloud.images import STOCK_PARAMETER
from shared.fleet import Fleet
from shared.names import ServiceName
from tests.wire.running import RunningCloud, service_running, until

SCRIPT = """#!/bin/sh
set -e
mkdir -p etc srv
echo hello > srv/index.html
cat > etc/rc.local <<'END'
#!/bin/sh
cd "$SERVER_ROOT/srv" && exec python3 -m http.server --bind "$ADDRESS" 18090 >/dev/null 2>&1 </dev/null &
END
chmod 755 etc/rc.local
etc/rc.local
"""

FLAKY = """#!/bin/sh
if [ ! -e tried ]; then touch tried; echo "not yet" >&2; exit 1; fi
id -un > whoami
"""

APP = Fleet.model_validate(
    {
        "fleet": "app",
        "stock": STOCK_PARAMETER,
        "capacity": {"min": 0, "desired": 1, "max": 3},
        "parallel": 2,
        "plan": [
            {"step": "serve", "run": "serve.sh", "script": SCRIPT},
            {
                "step": "flaky",
                "run": "flaky.sh",
                "script": FLAKY,
                "retry": {"tries": 2, "pause": 1},
                "user": getpass.getuser(),
            },
            {"step": "alive", "check": "http://{address}:18090/", "needs": ["serve"]},
        ],
        "health": {"url": "http://{address}:18090/"},
        "policies": {"drain": {"seconds": 1}},
    }
)


class App:
    """The fleet, as AWS and its documents show it."""

    def __init__(self, cloud: RunningCloud) -> None:
        self.cloud = cloud

    def serving(self) -> set[str]:
        described = self.cloud.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=["app"])
        (group,) = described["AutoScalingGroups"]
        return {each["InstanceId"] for each in group["Instances"] if each["LifecycleState"] == "InService"}

    def document(self, name: str) -> dict[str, Any]:
        s3 = self.cloud.client("s3")
        key = f"fleets/app/{name}.json"
        if not s3.list_objects_v2(Bucket="autoprovisioner", Prefix=key).get("Contents"):
            return {}
        found: dict[str, Any] = json.load(s3.get_object(Bucket="autoprovisioner", Key=key)["Body"])
        return found

    def members(self) -> set[str]:
        return {each["server"] for each in self.document("membership").get("members", [])}

    def at_work(self, number: int) -> bool:
        return len(self.members()) == number and self.members() == self.serving()

    def template_image(self) -> str:
        versions = self.cloud.client("ec2").describe_launch_template_versions(
            LaunchTemplateName="app", Versions=["$Default"]
        )
        return str(versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["ImageId"])

    def want(self, number: int) -> None:
        self.cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName="app", DesiredCapacity=number)

    def steps(self, server: str) -> dict[str, str]:
        attempts = self.document(f"servers/{server}")["attempts"]
        return {step["step"]: step["result"] for step in attempts[-1]["steps"]}

    def step(self, server: str, name: str) -> dict[str, Any]:
        steps = self.document(f"servers/{server}")["attempts"][-1]["steps"]
        found: dict[str, Any] = next(step for step in steps if step["step"] == name)
        return found

    def ask(self, **message: str) -> None:
        arn = "arn:aws:sns:us-east-1:000000000000:autoprovisioner-commands"
        self.cloud.client("sns").publish(TopicArn=arn, Message=json.dumps(message))


@pytest.fixture(scope="module")
def app(local_cloud: RunningCloud) -> Iterator[App]:
    names: tuple[ServiceName, ...] = ("provisioner", "baker", "registry")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in local_cloud.environment.items():
            patch.setenv(name, value)
        asyncio.run(apply_messaging(say=lambda _: None))
        for service in names:
            stack.enter_context(service_running(service, local_cloud.state))
        asyncio.run(apply_group(APP))
        yield App(local_cloud)


def test_a_server_is_provisioned_an_image_baked_and_the_next_server_starts_from_it(app: App) -> None:
    until(lambda: app.at_work(1), 40)
    (first,) = app.serving()
    assert app.steps(first) == {"serve": "done", "flaky": "done", "alive": "done"}
    flaky = app.step(first, "flaky")
    assert [each["reason"] for each in flaky["tries"]] == ["the script ended with status 1", ""]
    assert app.step(first, "alive")["began"] < flaky["tries"][1]["began"], "the plan waited for what nothing needs"

    app.ask(type="image.bake.requested", fleet="app", by="ada")
    until(lambda: bool(app.document("image")), 60)
    image = app.document("image")["image"]
    assert image != app.document(f"servers/{first}")["image"]

    until(lambda: app.template_image() == image, 30)  # it follows the pointer
    app.want(2)
    until(lambda: app.at_work(2), 40)
    (second,) = app.serving() - {first}
    assert app.document(f"servers/{second}")["image"] == image
    assert app.steps(second) == {"serve": "skipped", "flaky": "skipped", "alive": "done"}

    app.want(1)
    until(lambda: app.at_work(1), 40)
