"""EventBridge rules and schedules deliver, S3 tells, and queues keep their times."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.wire.localcloud import helpers
from tests.wire.running import RunningCloud, until

ACCOUNT_ARN = "arn:aws:{}:us-east-1:000000000000:{}"


def put(cloud: RunningCloud, source: str, **detail: object) -> None:
    entry = {"Source": source, "DetailType": "Something", "Detail": json.dumps(detail)}
    assert cloud.client("events").put_events(Entries=[entry])["FailedEntryCount"] == 0


def test_an_event_that_matches_comes_whole(local_cloud: RunningCloud) -> None:
    source = helpers.unique("source")
    queue = helpers.queue_for_events(local_cloud, {"source": [source], "detail": {"kind": ["wanted"]}})

    put(local_cloud, source, kind="unwanted")
    put(local_cloud, source, kind="wanted")

    [event] = helpers.bodies(local_cloud, queue)
    assert time.strptime(event.pop("time"), "%Y-%m-%dT%H:%M:%SZ")
    assert event.pop("id")
    assert event == {
        "version": "0",
        "account": "000000000000",
        "region": "us-east-1",
        "source": source,
        "detail-type": "Something",
        "resources": [],
        "detail": {"kind": "wanted"},
    }


def test_a_disabled_rule_is_silent(local_cloud: RunningCloud) -> None:
    source = helpers.unique("source")
    queue = helpers.queue_for_events(local_cloud, {"source": [source]})
    local_cloud.client("events").disable_rule(Name=queue.rsplit("/", 1)[1])

    put(local_cloud, source)

    assert helpers.bodies(local_cloud, queue) == []


def test_a_target_gets_its_input_instead_of_the_event_and_a_topic_gets_events_too(local_cloud: RunningCloud) -> None:
    sqs, sns, events = (local_cloud.client(service) for service in ("sqs", "sns", "events"))
    source = helpers.unique("source")
    queue = sqs.create_queue(QueueName=source)["QueueUrl"]
    topic = sns.create_topic(Name=source)["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=ACCOUNT_ARN.format("sqs", source))
    events.put_rule(Name=source, EventPattern=json.dumps({"source": [source]}))
    targets = [
        {"Id": "1", "Arn": ACCOUNT_ARN.format("sqs", source), "Input": '{"type":"tick"}'},
        {"Id": "2", "Arn": ACCOUNT_ARN.format("sqs", source), "InputPath": "$.detail"},
        {"Id": "3", "Arn": topic},
    ]
    events.put_targets(Rule=source, Targets=targets)

    put(local_cloud, source, kind="x")

    whole, *others = sorted(helpers.bodies(local_cloud, queue), key=len, reverse=True)
    assert json.loads(whole["Message"])["detail"] == {"kind": "x"}
    assert {"type": "tick"} in others
    assert {"kind": "x"} in others


def test_a_rule_with_only_a_schedule_gets_no_events(local_cloud: RunningCloud) -> None:
    name = helpers.unique("tick")
    queue = local_cloud.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    local_cloud.client("events").put_rule(Name=name, ScheduleExpression="rate(5 minutes)")
    targets = [{"Id": "1", "Arn": ACCOUNT_ARN.format("sqs", name)}]
    local_cloud.client("events").put_targets(Rule=name, Targets=targets)

    put(local_cloud, name)

    assert helpers.bodies(local_cloud, queue) == []


def test_a_schedule_fires_with_its_input(local_cloud: RunningCloud) -> None:
    name = helpers.unique("schedule")
    queue = local_cloud.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    scheduler = local_cloud.client("scheduler")
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 2))
    scheduler.create_schedule(
        Name=name,
        ScheduleExpression=f"at({soon})",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": ACCOUNT_ARN.format("sqs", name),
            "RoleArn": "arn:aws:iam::000000000000:role/any",
            "Input": '{"type":"due"}',
        },
    )

    assert helpers.next_body(local_cloud, queue) == {"type": "due"}
    assert helpers.bodies(local_cloud, queue) == []


def test_a_bucket_tells_a_queue_of_what_is_written(local_cloud: RunningCloud) -> None:
    s3, name = local_cloud.client("s3"), helpers.unique("bucket")
    queue = local_cloud.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    s3.create_bucket(Bucket=name)
    wish = {"QueueArn": ACCOUNT_ARN.format("sqs", name), "Events": ["s3:ObjectCreated:*"]}
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={"QueueConfigurations": [wish]})

    s3.put_object(Bucket=name, Key="fleets/web/image.json", Body=b"{}")

    test, written = helpers.bodies(local_cloud, queue)
    assert test["Event"] == "s3:TestEvent"
    assert written["Records"][0]["s3"]["bucket"]["name"] == name


def test_presigned_urls_read_and_write_without_credentials(local_cloud: RunningCloud) -> None:
    s3, name = local_cloud.client("s3"), helpers.unique("bucket")
    s3.create_bucket(Bucket=name)
    where = {"Bucket": name, "Key": "reports/one.json"}

    write = urllib.request.Request(s3.generate_presigned_url("put_object", Params=where), data=b"0123456789")
    write.get_method = lambda: "PUT"  # type: ignore[method-assign]
    with urllib.request.urlopen(write) as answer:
        assert answer.status == 200
    url = s3.generate_presigned_url("get_object", Params=where)
    part = urllib.request.Request(url, headers={"Range": "bytes=3-5"})

    with urllib.request.urlopen(url) as whole, urllib.request.urlopen(part) as some:
        assert whole.read() == b"0123456789"
        assert (some.status, some.read()) == (206, b"345")


@pytest.mark.parametrize("seconds", [1, 2])
def test_delays_and_visibility_end_on_time_while_a_long_poll_waits(local_cloud: RunningCloud, seconds: int) -> None:
    sqs = local_cloud.client("sqs")
    queue = sqs.create_queue(QueueName=helpers.unique("queue"))["QueueUrl"]

    def wait() -> tuple[float, str]:
        begun = time.monotonic()
        [message] = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10, VisibilityTimeout=seconds)["Messages"]
        return time.monotonic() - begun, message["ReceiptHandle"]

    sqs.send_message(QueueUrl=queue, MessageBody="{}", DelaySeconds=seconds)
    delayed, _ = wait()
    invisible, _ = wait()

    assert seconds - 0.5 < delayed < seconds + 1.5
    assert seconds - 0.5 < invisible < seconds + 1.5


def test_a_killed_consumers_long_poll_takes_no_message(local_cloud: RunningCloud) -> None:
    sqs = local_cloud.client("sqs")
    queue = sqs.create_queue(QueueName=helpers.unique("queue"))["QueueUrl"]
    poll = ("sqs", "receive-message", "--queue-url", queue, "--wait-time-seconds", "20", "--visibility-timeout", "600")
    log = local_cloud.state / "poll.log"
    with log.open("w") as errors:
        consumer = subprocess.Popen(
            (*local_cloud.cli, *poll, "--debug"), env=local_cloud.environment, stdout=subprocess.DEVNULL, stderr=errors
        )
    until(lambda: "Sending http request" in log.read_text())
    time.sleep(0.5)  # the request is on its way; nothing tells when it has come in
    consumer.kill()
    consumer.wait()

    time.sleep(0.5)  # for the kernel to close the connection, and the poll to see it
    sqs.send_message(QueueUrl=queue, MessageBody='{"for":"the next consumer"}')

    assert helpers.bodies(local_cloud, queue) == [{"for": "the next consumer"}]


def test_no_message_is_lost_when_many_send_receive_and_delete_at_once(local_cloud: RunningCloud) -> None:
    sqs = local_cloud.client("sqs")
    queue = sqs.create_queue(QueueName=helpers.unique("queue"))["QueueUrl"]
    received: list[str] = []

    def send(number: int) -> None:
        for each in range(20):
            sqs.send_message(QueueUrl=queue, MessageBody=f"{number}-{each}")

    def consume() -> None:
        while got := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=5, WaitTimeSeconds=2).get("Messages"):
            for message in got:
                received.append(message["Body"])
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(send, number) for number in range(4)] + [threads.submit(consume) for _ in range(4)]
    for each in work:
        each.result()

    assert sorted(received) == sorted(f"{number}-{each}" for number in range(4) for each in range(20))


def test_an_action_that_is_missing_is_an_aws_error(local_cloud: RunningCloud) -> None:
    ec2 = local_cloud.client("ec2")

    with pytest.raises(ec2.exceptions.ClientError) as error:
        ec2.describe_spot_datafeed_subscription()

    assert error.value.response["Error"]["Code"] == "NotImplemented"
    assert ec2.describe_instances()["ResponseMetadata"]["HTTPStatusCode"] == 200


async def test_the_adapters_own_client_library_works(local_cloud: RunningCloud) -> None:
    async with local_cloud.async_client("ssm") as ssm:
        found = await ssm.get_parameter(Name="/autoprovisioner/stock-image")

    assert found["Parameter"]["Value"] == helpers.stock_image(local_cloud)


def test_the_aws_cli_works(local_cloud: RunningCloud) -> None:
    image = local_cloud.aws(
        "ssm", "get-parameter", "--name", "/autoprovisioner/stock-image", "--query", "Parameter.Value", "--output=text"
    ).strip()

    launched = json.loads(local_cloud.aws("ec2", "run-instances", "--image-id", image, "--output=json"))

    assert launched["Instances"][0]["State"]["Name"] == "pending"
    helpers.until_state(local_cloud, launched["Instances"][0]["InstanceId"], "running")
