import json
import re
import subprocess
from math import prod
from typing import Any, get_args

import pytest

from deploy.template import TEMPLATE, Place, load_template
from shared.aws.publisher import topic_of
from shared.messages import Command, Fact
from shared.names import LAUNCH_HOOK, RUN_DOCUMENT, SERVICES, TERMINATE_HOOK, TopicName, queue_name, topic_name

RESOURCES: dict[str, Any] = load_template(TEMPLATE.read_text())["Resources"]
PLACE = Place("aws", "us-east-1", "000000000000", "documents")
EXPECTED = {
    ("commands", "reconciler"): {"server.kill.requested", "server.disable.requested"},
    ("commands", "baker"): {"image.bake.requested"},
    ("commands", "registry"): {
        "image.rollback.requested",
        "image.pin.requested",
        "release.set.requested",
        "release.undo.requested",
    },
    ("commands", "janitor"): {"image.retirement.requested"},
    ("events", "reconciler"): {
        "server.ready",
        "release.set",
        "server.updated",
        "server.update.failed",
        "membership.changed",
    },
    ("events", "provisioner"): {"launch.unclaimed", "server.update.granted"},
    ("events", "registry"): {
        "image.ready",
        "server.ready",
        "server.update.granted",
        "server.updated",
        "server.update.failed",
    },
    ("events", "chaos"): {"fleet.converged", "fleet.degraded"},
}


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    found = {name: each["Properties"] for name, each in RESOURCES.items() if each["Type"] == kind}
    assert found
    return {name: PLACE.resolve(properties, RESOURCES) for name, properties in found.items()}


def arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:us-east-1:000000000000:{name}"


QUEUES = {properties["QueueName"]: properties for properties in of_type("AWS::SQS::Queue").values()}
SUBSCRIPTIONS = of_type("AWS::SNS::Subscription")
RULES = {properties["Name"]: properties for properties in of_type("AWS::Events::Rule").values()}
POLICIES = {
    queue: properties["PolicyDocument"]["Statement"]
    for properties in of_type("AWS::SQS::QueuePolicy").values()
    for queue in properties["Queues"]
}


def test_names_are_those_that_the_code_uses() -> None:
    topics = {properties["TopicName"] for properties in of_type("AWS::SNS::Topic").values()}
    assert topics == {topic_name(topic) for topic in get_args(TopicName)}
    assert set(QUEUES) == {queue_name(service) + end for service in SERVICES for end in ("", "-dead")}
    assert RESOURCES["RunPlan"]["Properties"]["Name"] == RUN_DOCUMENT


@pytest.mark.fault(19)
@pytest.mark.parametrize("service", SERVICES)
def test_a_dead_letter_outlives_the_queue_it_came_from(service: Any) -> None:
    queue, dead = QUEUES[queue_name(service)], QUEUES[f"{queue_name(service)}-dead"]
    assert queue["RedrivePolicy"] == {"deadLetterTargetArn": arn("sqs", dead["QueueName"]), "maxReceiveCount": 20}
    assert dead["MessageRetentionPeriod"] > queue["MessageRetentionPeriod"]


@pytest.mark.parametrize("queue", QUEUES)
def test_every_queue_is_encrypted_and_refuses_plain_http(queue: str) -> None:
    assert QUEUES[queue]["SqsManagedSseEnabled"] is True
    [deny] = [statement for statement in POLICIES[queue] if statement["Effect"] == "Deny"]
    assert (deny["Principal"], deny["Action"]) == ("*", "sqs:*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.fault(15)
@pytest.mark.parametrize("service", SERVICES)
def test_a_queue_admits_exactly_those_that_send_to_it(service: Any) -> None:
    queue = queue_name(service)
    admitted: set[str] = set()
    for statement in POLICIES[queue]:
        if statement["Effect"] == "Allow":
            assert statement["Action"] == "sqs:SendMessage"
            assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": PLACE.account}
            admitted |= set(statement["Condition"]["ArnEquals"]["aws:SourceArn"])
    topics = {each["TopicArn"] for each in SUBSCRIPTIONS.values() if each["Endpoint"] == arn("sqs", queue)}
    rules = {
        arn("events", f"rule/{name}")
        for name, rule in RULES.items()
        if arn("sqs", queue) in {target["Arn"] for target in rule["Targets"]}
    }
    bucket = {"arn:aws:s3:::documents"} if service == "registry" else set()
    assert admitted == topics | rules | bucket


def test_every_subscription_is_raw_and_filters_by_the_body() -> None:
    for subscription in SUBSCRIPTIONS.values():
        assert subscription["RawMessageDelivery"] is True
        assert subscription["FilterPolicyScope"] == "MessageBody"
        filters = subscription["FilterPolicy"]
        assert 1 <= len(filters) <= 5
        assert prod(len(values) for values in filters.values()) <= 150
        assert len(json.dumps(filters)) <= 256 * 1024


def routed() -> dict[tuple[str, str], set[str]]:
    found = {}
    for subscription in SUBSCRIPTIONS.values():
        topic = subscription["TopicArn"].rpartition("autoprovisioner-")[2]
        service = subscription["Endpoint"].rpartition("autoprovisioner-")[2]
        if topic != "alarms":
            found[topic, service] = types_of(subscription["FilterPolicy"]["type"])
    return found


def types_of(values: list[Any]) -> set[str]:
    """The types that a filter on requests names, or leaves over."""
    [first, *_] = values
    if isinstance(first, dict):
        return {kind.model_fields["type"].default for kind in get_args(Command)} - set(first["anything-but"])
    return set(values)


def test_a_request_of_a_type_that_nobody_knows_reaches_the_reconciler() -> None:
    others = set().union(
        *(types for (topic, service), types in routed().items() if topic == "commands" and service != "reconciler")
    )
    [anything_but] = SUBSCRIPTIONS["ReconcilerCommands"]["FilterPolicy"]["type"]
    assert set(anything_but["anything-but"]) == others


def test_messages_go_to_the_services_that_consume_them() -> None:
    assert routed() == EXPECTED


def test_every_request_has_a_service_that_answers_it() -> None:
    requests = {kind.model_fields["type"].default for kind in get_args(Command)}
    answered = set().union(*(types for (topic, _), types in routed().items() if topic == "commands"))
    assert answered == requests


def test_filters_name_only_types_that_their_topic_carries() -> None:
    topics = {kind.model_fields["type"].default: topic_of(kind.model_construct()) for kind in get_args(Command | Fact)}
    for (topic, _), types in routed().items():
        assert {topics[each] for each in types} == {topic}


def test_alarms_reach_those_that_look_at_them() -> None:
    alarms = {each["Endpoint"] for each in SUBSCRIPTIONS.values() if each["TopicArn"].endswith("-alarms")}
    assert alarms == {arn("sqs", queue_name(service)) for service in ("reconciler", "registry", "chaos")}


@pytest.mark.parametrize(
    ("rule", "services", "detail"),
    [
        ("launch-action", ["provisioner"], {"LifecycleHookName": [LAUNCH_HOOK]}),
        ("terminate-action", ["registry"], {"LifecycleHookName": [TERMINATE_HOOK]}),
        (
            "command-status",
            ["provisioner", "baker"],
            {"document-name": [RUN_DOCUMENT], "status": ["Success", "Failed", "TimedOut", "Cancelled"]},
        ),
        ("instance-state", ["reconciler"], {"state": ["stopping", "stopped", "shutting-down", "terminated"]}),
        ("image-state", ["baker"], {"State": ["available", "failed"]}),
    ],
)
def test_what_aws_says_goes_to_those_it_concerns(rule: str, services: list[Any], detail: dict[str, Any]) -> None:
    found = RULES[f"autoprovisioner-{rule}"]
    assert [target["Arn"] for target in found["Targets"]] == [arn("sqs", queue_name(service)) for service in services]
    assert found["EventPattern"]["detail"] == detail
    assert len(json.dumps(found["EventPattern"])) <= 2048


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_told_to_look_at_everything_now_and_then(service: Any) -> None:
    rule = RULES[f"{queue_name(service)}-tick"]
    [target] = rule["Targets"]
    assert target["Arn"] == arn("sqs", queue_name(service))
    assert json.loads(target["Input"]) == {"type": "tick"}
    assert re.fullmatch(r"(rate|cron)\(.+\)", rule["ScheduleExpression"])


def test_every_night_the_baker_is_told_so() -> None:
    rule = RULES["autoprovisioner-nightly"]
    [target] = rule["Targets"]
    assert target["Arn"] == arn("sqs", queue_name("baker"))
    assert json.loads(target["Input"]) == {"type": "nightly"}
    assert rule["ScheduleExpression"] == "cron(0 2 * * ? *)"


@pytest.mark.fault(19)
@pytest.mark.parametrize("service", SERVICES)
def test_dead_letters_and_a_queue_that_waits_ring(service: Any) -> None:
    alarms = [
        alarm
        for alarm in of_type("AWS::CloudWatch::Alarm").values()
        if alarm["Dimensions"][0]["Value"] in (queue_name(service), f"{queue_name(service)}-dead")
    ]
    watched = {(alarm["MetricName"], alarm["Dimensions"][0]["Value"], alarm["Threshold"]) for alarm in alarms}
    assert watched == {
        ("ApproximateNumberOfMessagesVisible", f"{queue_name(service)}-dead", 0),
        ("ApproximateAgeOfOldestMessage", queue_name(service), 600),
    }
    assert all(alarm["AlarmActions"] == [arn("sns", topic_name("alarms"))] for alarm in alarms)


def test_a_pointer_written_by_hand_reaches_the_registry() -> None:
    [bucket] = of_type("AWS::S3::Bucket").values()
    wanted = bucket["NotificationConfiguration"]["QueueConfigurations"]
    assert {each["Event"] for each in wanted} == {"s3:ObjectCreated:*", "s3:ObjectRemoved:*"}
    for each in wanted:
        rules = {rule["Name"]: rule["Value"] for rule in each["Filter"]["S3Key"]["Rules"]}
        assert rules == {"prefix": "fleets/", "suffix": "/image.json"}
        assert each["Queue"] == arn("sqs", queue_name("registry"))


def test_the_bucket_is_private_encrypted_and_keeps_old_versions() -> None:
    [bucket] = of_type("AWS::S3::Bucket").values()
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]


PARAMETERS: dict[str, Any] = RESOURCES["RunPlan"]["Properties"]["Content"]["parameters"]
COMMANDS: list[Any] = RESOURCES["RunPlan"]["Properties"]["Content"]["mainSteps"][0]["inputs"]["runCommand"]


def test_the_commands_are_lines_of_text() -> None:
    assert all(isinstance(line, str) for line in COMMANDS)
    script = "\n".join(COMMANDS)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    _, _, program = script.partition("<<'PYTHON'\n")
    compile(program.partition("\nPYTHON\n")[0], "fetch", "exec")


@pytest.mark.fault(40)
def test_parameters_stand_in_single_quotes_and_can_not_leave_them() -> None:
    script = "\n".join(COMMANDS)
    assert set(re.findall(r"\{\{ (\w+) \}\}", script)) == set(PARAMETERS)
    assert script.count("{{") == len(re.findall(r"\s'\{\{ \w+ \}\}'\s", script.replace("' '", "'  '")))
    for parameter in PARAMETERS.values():
        for breaking in "'\"`$\\;|<>(){}*!#\n\r\t \x00é":
            assert not re.fullmatch(parameter["allowedPattern"], f"https://example.com/{breaking}")
            assert not re.fullmatch(parameter["allowedPattern"], "a" * 63 + breaking)


def test_presigned_urls_and_digests_are_admitted() -> None:
    url = "http://127.0.0.1:4566/b/fleets/web/runs/a-1/plan.json?X-Amz-Credential=t%2Fs3&X-Amz-Expires=60"
    assert re.fullmatch(PARAMETERS["PlanUrl"]["allowedPattern"], url)
    assert re.fullmatch(PARAMETERS["PlanSha256"]["allowedPattern"], "0f" * 32)
    assert not re.fullmatch(PARAMETERS["PlanUrl"]["allowedPattern"], "file:///etc/passwd")


def test_the_template_fits_into_one_request() -> None:
    assert len(TEMPLATE.read_bytes()) <= 51_200
