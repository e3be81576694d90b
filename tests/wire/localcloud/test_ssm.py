"""Run Command really runs commands."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from localcloud import processes
from tests.wire.localcloud import helpers
from tests.wire.running import RunningCloud, until

SLEEPER = "sleep 4242"


@pytest.fixture(scope="module")
def instance(local_cloud: RunningCloud) -> str:
    return helpers.launch(local_cloud)


def test_a_command_writes_to_the_servers_own_disk(local_cloud: RunningCloud, instance: str) -> None:
    printed = helpers.run(local_cloud, instance, "echo written > srv/file", "echo $SERVER_ROOT; pwd")

    root = helpers.root(local_cloud, instance)
    assert (root / "srv" / "file").read_text() == "written\n"
    assert printed == f"{root}\n{root}\n"


def test_a_command_that_fails_says_how(local_cloud: RunningCloud, instance: str) -> None:
    done = helpers.outcome(local_cloud, instance, helpers.send(local_cloud, instance, "echo out; echo err >&2; exit 7"))

    assert (done["Status"], done["ResponseCode"]) == ("Failed", 7)
    assert (done["StandardOutputContent"], done["StandardErrorContent"]) == ("out\n", "err\n")


def test_output_is_kept_up_to_the_limits_of_systems_manager(local_cloud: RunningCloud, instance: str) -> None:
    script = "head -c 30000 /dev/zero | tr '\\0' a; head -c 30000 /dev/zero | tr '\\0' b >&2"

    done = helpers.outcome(local_cloud, instance, helpers.send(local_cloud, instance, script))

    assert done["StandardOutputContent"] == "a" * 24_000
    assert done["StandardErrorContent"] == "b" * 8_000


def test_a_command_that_takes_too_long_is_ended(local_cloud: RunningCloud, instance: str) -> None:
    command = helpers.send(local_cloud, instance, f"{SLEEPER} & {SLEEPER}", executionTimeout=["1"])

    done = helpers.outcome(local_cloud, instance, command)

    assert (done["Status"], done["StatusDetails"]) == ("TimedOut", "Execution Timed Out")
    assert sleepers(local_cloud, instance) == []


def test_a_cancelled_command_is_ended(local_cloud: RunningCloud, instance: str) -> None:
    command = helpers.send(local_cloud, instance, f"{SLEEPER} & {SLEEPER}")
    until(lambda: len(sleepers(local_cloud, instance)) == 2)

    local_cloud.client("ssm").cancel_command(CommandId=command)

    assert helpers.outcome(local_cloud, instance, command)["Status"] == "Cancelled"
    assert sleepers(local_cloud, instance) == []


def sleepers(cloud: RunningCloud, instance: str) -> list[int]:
    def command(pid: int) -> str:
        with open(f"/proc/{pid}/cmdline") as line:
            return line.read().replace("\0", " ").strip()

    return [pid for pid in processes.marked(cloud.state, instance) if command(pid) == SLEEPER]


def test_a_daemon_that_a_command_starts_lives_on(local_cloud: RunningCloud, instance: str) -> None:
    before = processes.marked(local_cloud.state, instance)

    helpers.run(local_cloud, instance, "setsid sleep 300 &")

    assert len(processes.marked(local_cloud.state, instance) - before) == 1


def document(cloud: RunningCloud) -> str:
    """Make a document that takes one parameter, a word."""
    name = helpers.unique("Document")
    content = {
        "schemaVersion": "2.2",
        "description": "Greets.",
        "parameters": {"Name": {"type": "String", "allowedPattern": "^[a-z]+$"}},
        "mainSteps": [
            {"action": "aws:runShellScript", "name": "greet", "inputs": {"runCommand": ["echo hello {{ Name }}"]}}
        ],
    }
    cloud.client("ssm").create_document(Name=name, DocumentType="Command", Content=json.dumps(content))
    return name


def test_a_document_of_our_own_gets_its_parameters(local_cloud: RunningCloud, instance: str) -> None:
    ssm, name = local_cloud.client("ssm"), document(local_cloud)

    sent = ssm.send_command(InstanceIds=[instance], DocumentName=name, Parameters={"Name": ["world"]})

    done = helpers.outcome(local_cloud, instance, sent["Command"]["CommandId"])
    assert done["StandardOutputContent"] == "hello world\n"
    assert ssm.describe_document(Name=name)["Document"]["Status"] == "Active"


@pytest.mark.parametrize("value", ["; rm -rf .", "World", "two words", "word\n"])
def test_a_parameter_that_the_pattern_forbids_is_refused(local_cloud: RunningCloud, instance: str, value: str) -> None:
    name = document(local_cloud)

    with pytest.raises(ClientError) as error:
        local_cloud.client("ssm").send_command(InstanceIds=[instance], DocumentName=name, Parameters={"Name": [value]})

    assert error.value.response["Error"]["Code"] == "InvalidParameters"


def test_what_is_not_there_is_refused(local_cloud: RunningCloud, instance: str) -> None:
    ssm = local_cloud.client("ssm")
    command = helpers.send(local_cloud, instance, "true")
    calls: dict[str, Callable[[], object]] = {
        "InvalidInstanceId": lambda: helpers.send(local_cloud, "i-00000000", "true"),
        "InvalidDocument": lambda: ssm.send_command(InstanceIds=[instance], DocumentName="Missing"),
        "InvocationDoesNotExist": lambda: ssm.get_command_invocation(CommandId=command, InstanceId="i-00000000"),
        "InvalidCommandId": lambda: ssm.cancel_command(CommandId="00000000-0000-0000-0000-000000000000"),
    }
    for code, call in calls.items():
        with pytest.raises(ClientError) as error:
            call()
        assert error.value.response["Error"]["Code"] == code


def test_only_running_instances_are_online(local_cloud: RunningCloud) -> None:
    instance = helpers.launch(local_cloud)
    filters = [{"Key": "InstanceIds", "Values": [instance]}]

    def seen() -> list[str]:
        found = local_cloud.client("ssm").describe_instance_information(Filters=filters)["InstanceInformationList"]
        return [each["PingStatus"] for each in found]

    assert seen() == ["Online"]
    local_cloud.client("ec2").terminate_instances(InstanceIds=[instance])
    assert seen() == []
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        helpers.send(local_cloud, instance, "true")


def test_commands_are_listed_by_instance_with_their_comments(local_cloud: RunningCloud) -> None:
    ssm, instance = local_cloud.client("ssm"), helpers.launch(local_cloud)
    command = helpers.send(local_cloud, instance, "true")
    helpers.outcome(local_cloud, instance, command)

    [listed] = ssm.list_commands(InstanceId=instance)["Commands"]
    [invocation] = ssm.list_command_invocations(InstanceId=instance, Details=True)["CommandInvocations"]

    for each in (listed, invocation):
        assert (each["CommandId"], each["Comment"], each["Status"]) == (command, f"for {instance}", "Success")
    assert ssm.list_command_invocations(CommandId=command)["CommandInvocations"][0]["InstanceId"] == instance


def test_events_tell_of_every_change_of_a_command(local_cloud: RunningCloud, instance: str) -> None:
    queue = helpers.queue_for_events(local_cloud, {"source": ["aws.ssm"]})

    command = helpers.send(local_cloud, instance, "exit 1")
    helpers.outcome(local_cloud, instance, command)

    told = [
        (event["detail-type"].split()[2], event["detail"]["status"])
        for event in helpers.bodies(local_cloud, queue)
        if event["detail"]["command-id"] == command
    ]
    assert sorted(told) == [
        ("Invocation", "Failed"),
        ("Invocation", "InProgress"),
        ("Status-change", "Failed"),
        ("Status-change", "InProgress"),
    ]
