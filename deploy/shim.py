"""Supplies what an emulator's CloudFormation passes over, from the same template.

moto 5.2.5 reports success for subscriptions, queue policies and alarms and makes none: such resources have no physical
id afterwards. Of a bucket it makes the bucket without versions and notifications. (moto's buckets lack their public
access block and life cycle too; on one machine those protect nothing.) LocalStack 4 passes over Systems Manager
documents, with the physical id ``unknown``; the shim makes ours wherever AWS_ENDPOINT_URL_SSM points to. On AWS nothing
is found missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deploy.template import Place
from shared.aws.session import Clients

SUPPLIED = ("AWS::SQS::QueuePolicy", "AWS::SNS::Subscription", "AWS::CloudWatch::Alarm", "AWS::SSM::Document")


async def supply(clients: Clients, template: Mapping[str, Any], place: Place, made: frozenset[str]) -> list[str]:
    """Make what the stack lacks, and return the logical names of it. May be repeated.

    ``made`` names the resources that CloudFormation says it made. Raises what aiobotocore raises.
    """
    resources = template["Resources"]
    missing = [name for name in resources if name not in made and resources[name]["Type"] in SUPPLIED]
    for name in missing:
        properties = place.resolve(resources[name]["Properties"], resources)
        match resources[name]["Type"]:
            case "AWS::SQS::QueuePolicy":
                await _queue_policy(clients, properties)
            case "AWS::SNS::Subscription":
                await _subscription(clients, properties)
            case "AWS::CloudWatch::Alarm":
                await (await clients.cloudwatch()).put_metric_alarm(**properties)
            case "AWS::SSM::Document":
                await _document(clients, properties)
    bucket = place.resolve(resources["Documents"]["Properties"], resources)
    return [*missing, "Documents"] if await _bucket(clients, bucket) else missing


async def _queue_policy(clients: Clients, properties: Mapping[str, Any]) -> None:
    sqs = await clients.sqs()
    policy = json.dumps(properties["PolicyDocument"])
    for queue in properties["Queues"]:
        url = (await sqs.get_queue_url(QueueName=queue))["QueueUrl"]
        await sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


async def _subscription(clients: Clients, properties: Mapping[str, Any]) -> None:
    sns = await clients.sns()
    attributes = {
        "FilterPolicyScope": properties["FilterPolicyScope"],
        "FilterPolicy": json.dumps(properties["FilterPolicy"]),
        "RawMessageDelivery": json.dumps(properties["RawMessageDelivery"]),
    }
    made = await sns.subscribe(
        TopicArn=properties["TopicArn"],
        Protocol=properties["Protocol"],
        Endpoint=properties["Endpoint"],
        Attributes=attributes,
        ReturnSubscriptionArn=True,
    )
    for name, value in attributes.items():  # one that was there already keeps its own otherwise
        await sns.set_subscription_attributes(
            SubscriptionArn=made["SubscriptionArn"], AttributeName=name, AttributeValue=value
        )


async def _document(clients: Clients, properties: Mapping[str, Any]) -> None:
    """Make the document, or make its newest version this one."""
    ssm = await clients.ssm()
    name, content = properties["Name"], json.dumps(properties["Content"])
    try:
        await ssm.create_document(
            Name=name, Content=content, DocumentType=properties["DocumentType"], DocumentFormat="JSON"
        )
    except ssm.exceptions.DocumentAlreadyExists:
        try:
            made = await ssm.update_document(
                Name=name, Content=content, DocumentFormat="JSON", DocumentVersion="$LATEST"
            )
        except ssm.exceptions.DuplicateDocumentContent:
            return
        version = made["DocumentDescription"]["DocumentVersion"]
        await ssm.update_document_default_version(Name=name, DocumentVersion=version)


async def _bucket(clients: Clients, properties: Mapping[str, Any]) -> bool:
    """Give the bucket its versions and notifications, if it has no versions; return whether it had none."""
    s3 = await clients.s3()
    bucket = properties["BucketName"]
    if "Status" in await s3.get_bucket_versioning(Bucket=bucket):
        return False
    await s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "Events": [wanted["Event"]],
                    "QueueArn": wanted["Queue"],
                    "Filter": {"Key": {"FilterRules": wanted["Filter"]["S3Key"]["Rules"]}},
                }
                for wanted in properties["NotificationConfiguration"]["QueueConfigurations"]
            ]
        },
    )
    await s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=properties["VersioningConfiguration"])
    return True
