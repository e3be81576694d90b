"""A queue of the demo's own that hears everything: our topics, and what EC2 and Auto Scaling say on EventBridge."""

from __future__ import annotations

import json

import orjson

from ops.demo.journal import Journal
from shared.aws.session import Clients
from shared.names import TopicName, topic_name

QUEUE = "autoprovisioner-demo-witness"
RULE = "autoprovisioner-demo-witness"
HEARD = ("aws.ec2", "aws.autoscaling")
HEARD_TOPICS: tuple[TopicName, ...] = ("events", "commands", "alerts")
POLL_S = 5


async def open_witness(clients: Clients, topic_prefix: str) -> str:
    """Create the queue and everything that feeds it; return its URL. Repeating it changes nothing."""
    sqs, sns, events = await clients.sqs(), await clients.sns(), await clients.events()
    url = (await sqs.create_queue(QueueName=QUEUE))["QueueUrl"]
    arn = (await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
    account_prefix = topic_prefix.removesuffix("autoprovisioner-")
    for topic in HEARD_TOPICS:
        topic_arn = account_prefix + topic_name(topic)
        await sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    await events.put_rule(Name=RULE, EventPattern=json.dumps({"source": list(HEARD)}))
    await events.put_targets(Rule=RULE, Targets=[{"Id": "witness", "Arn": arn}])
    return url


async def listen(clients: Clients, url: str, journal: Journal) -> None:
    """Read the queue into the journal until cancelled. Times are SQS's own SentTimestamp, in milliseconds."""
    sqs = await clients.sqs()
    while True:
        answer = await sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=POLL_S, MessageSystemAttributeNames=["SentTimestamp"]
        )
        messages = answer.get("Messages", [])
        for message in sorted(messages, key=lambda each: int(each["Attributes"]["SentTimestamp"])):
            journal.read(orjson.loads(message["Body"]), int(message["Attributes"]["SentTimestamp"]) / 1000)
        if messages:
            entries = [
                {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]} for place, message in enumerate(messages)
            ]
            await sqs.delete_message_batch(QueueUrl=url, Entries=entries)  # type: ignore[arg-type]
