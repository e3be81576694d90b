"""One session, and the clients that are opened from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from shared.aws.alarms import Alarms
from shared.aws.commands import Commands
from shared.aws.groups import Groups
from shared.aws.health import Health
from shared.aws.objects import Objects
from shared.aws.publisher import Publisher
from shared.aws.queues import Queue
from shared.aws.servers import Servers
from shared.clock import Clock
from shared.cloud import (
    AlarmsPort,
    CommandsPort,
    GroupsPort,
    HealthPort,
    ObjectsPort,
    PublisherPort,
    QueuePort,
    ServersPort,
)

if TYPE_CHECKING:
    from types_aiobotocore_autoscaling import AutoScalingClient
    from types_aiobotocore_cloudformation import CloudFormationClient
    from types_aiobotocore_cloudwatch import CloudWatchClient
    from types_aiobotocore_ec2 import EC2Client
    from types_aiobotocore_events import EventBridgeClient
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_sns import SNSClient
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_ssm import SSMClient

ServiceId = Literal["autoscaling", "cloudformation", "cloudwatch", "ec2", "events", "s3", "sns", "sqs", "ssm"]

CONNECT_TIMEOUT_S = 3.1
"""A little over one lost SYN packet, which is sent again after three seconds."""

READ_TIMEOUT_S = 30
"""Longer than the longest long poll (20 s); shorter would cut quiet polls off and lose their messages for a while."""

ATTEMPTS = 3
"""The first try and two more, with botocore's jitter and its own retry budget. Beyond that the consumer retries."""

CONNECTIONS = 20
"""Per client: a long poll holds one for its whole length, the handlers share the others."""


class Clients:
    """AWS clients, each opened at its first use: EC2's service model alone takes 16 MB and 0.1 s."""

    def __init__(self, exits: AsyncExitStack) -> None:
        self._exits = exits
        self._session = get_session()
        self._opening = asyncio.Lock()
        self._open: dict[ServiceId, Any] = {}

    async def _client(self, service: ServiceId) -> Any:
        if service not in self._open:
            async with self._opening:
                if service not in self._open:
                    client = self._session.create_client(service, config=_config(service))
                    self._open[service] = await self._exits.enter_async_context(client)
        return self._open[service]

    async def autoscaling(self) -> AutoScalingClient:
        """Auto Scaling."""
        client: AutoScalingClient = await self._client("autoscaling")
        return client

    async def cloudformation(self) -> CloudFormationClient:
        """CloudFormation; only ``deploy`` uses it."""
        client: CloudFormationClient = await self._client("cloudformation")
        return client

    async def cloudwatch(self) -> CloudWatchClient:
        """CloudWatch."""
        client: CloudWatchClient = await self._client("cloudwatch")
        return client

    async def ec2(self) -> EC2Client:
        """EC2."""
        client: EC2Client = await self._client("ec2")
        return client

    async def events(self) -> EventBridgeClient:
        """EventBridge; only ``deploy`` uses it."""
        client: EventBridgeClient = await self._client("events")
        return client

    async def s3(self) -> S3Client:
        """S3."""
        client: S3Client = await self._client("s3")
        return client

    async def sns(self) -> SNSClient:
        """SNS."""
        client: SNSClient = await self._client("sns")
        return client

    async def sqs(self) -> SQSClient:
        """SQS."""
        client: SQSClient = await self._client("sqs")
        return client

    async def ssm(self) -> SSMClient:
        """Systems Manager. Never retried by botocore: SendCommand is not idempotent."""
        client: SSMClient = await self._client("ssm")
        return client


def _config(service: ServiceId) -> AioConfig:
    return AioConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        user_agent="autoprovisioner",  # botocore puts its own together anew for each request: an eighth of the cost
        parameter_validation=service != "sqs",  # mypy has checked them; where one sends thousands, that is a tenth
        retries={"mode": "standard", "total_max_attempts": 1 if service == "ssm" else ATTEMPTS},
        s3={"addressing_style": "path"},  # works on emulators too, whose buckets have no names in DNS
        signature_version="s3v4" if service == "s3" else None,
        request_checksum_calculation="when_required",  # a presigned PUT must not ask the server for a checksum
        response_checksum_validation="when_required",
    )


@asynccontextmanager
async def open_clients() -> AsyncIterator[Clients]:
    """Yield clients as the environment describes them (AWS_*, AWS_ENDPOINT_URL included); close them afterwards."""
    async with AsyncExitStack() as exits:
        yield Clients(exits)


class CloudSettings(Protocol):
    """What the adapters need to be told. An empty or missing queue URL means that there is no queue to read."""

    @property
    def bucket(self) -> str:
        """The bucket of all documents."""
        ...

    @property
    def topic_prefix(self) -> str:
        """What precedes ``events``, ``commands``, ... in the ARNs of the topics."""
        ...

    @property
    def queue_url(self) -> str | None:
        """The service's own queue."""
        ...

    @property
    def dead_letter_url(self) -> str | None:
        """Its dead-letter queue."""
        ...


@dataclass(frozen=True)
class Cloud:
    """All ports to AWS. ``queue`` is None when the settings name none."""

    groups: GroupsPort
    servers: ServersPort
    commands: CommandsPort
    objects: ObjectsPort
    publisher: PublisherPort
    alarms: AlarmsPort
    health: HealthPort
    queue: QueuePort | None


@asynccontextmanager
async def open_cloud(settings: CloudSettings, source: str, clock: Clock) -> AsyncIterator[Cloud]:
    """Yield the ports; ``source`` is who we say we are in what we publish. Nothing is called until a port is used."""
    async with open_clients() as clients, aiohttp.ClientSession() as http:
        queue = None
        if settings.queue_url and settings.dead_letter_url:
            queue = Queue(clients.sqs, settings.queue_url, settings.dead_letter_url)
        yield Cloud(
            groups=Groups(clients.autoscaling),
            servers=Servers(clients.ec2, clients.ssm),
            commands=Commands(clients.ssm),
            objects=Objects(clients.s3, settings.bucket),
            publisher=Publisher(clients.sns, settings.topic_prefix, source, clock),
            alarms=Alarms(clients.cloudwatch),
            health=Health(http),
            queue=queue,
        )
