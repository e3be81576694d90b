"""The ports of ``shared.cloud`` on the simulated world: each call goes through its process, and may go wrong there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.aws import Cloud
from shared.cloud import (
    AlarmState,
    CommandStatus,
    Group,
    Image,
    Instance,
    LifecycleResult,
    NotFound,
    QueueMessage,
    StoredObject,
    TemplateVersion,
)
from shared.ids import IMAGE_PATTERN
from shared.messages import Message
from shared.tracing import carried
from tests.simulation.deletions import known
from tests.simulation.objects import presigned

if TYPE_CHECKING:
    from tests.simulation.process import Process


class _Facade:
    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world


class GroupsFacade(_Facade):
    """Auto Scaling."""

    async def describe(self, fleet: str) -> Group:
        return await self._process.read("describe", lambda at: self._seen(fleet, at), late=True)

    def _seen(self, fleet: str, at: float) -> Group:
        self._process.looked[fleet] = self._world.loop.time()
        return self._world.groups.describe(fleet, at)

    async def complete(self, fleet: str, server: str, hook: str, result: LifecycleResult) -> bool:
        return await self._process.write("complete", lambda: self._world.groups.complete(fleet, server, hook, result))

    async def heartbeat(self, fleet: str, server: str, hook: str) -> bool:
        return await self._process.write("heartbeat", lambda: self._world.groups.heartbeat(fleet, server, hook))

    async def mark_unhealthy(self, fleet: str, server: str) -> None:
        self._world.destroys(self._process, fleet, server, "mark_unhealthy")
        await self._process.write("mark_unhealthy", lambda: self._world.groups.mark_unhealthy(fleet, server))

    async def terminate(self, fleet: str, server: str) -> None:
        self._world.destroys(self._process, fleet, server, "terminate")
        await self._process.write("terminate", lambda: self._world.groups.terminate(fleet, server))

    async def detach(self, fleet: str, server: str) -> None:
        self._world.destroys(self._process, fleet, server, "detach")
        await self._process.write("detach", lambda: self._world.groups.detach(fleet, server))


class ServersFacade(_Facade):
    """EC2."""

    async def instances(self, servers: Sequence[str]) -> Mapping[str, Instance]:
        if not servers:
            return {}
        return await self._process.read("instances", lambda at: self._world.ec2.instances(servers, at), late=True)

    async def tagged(self, tags: Mapping[str, str]) -> Sequence[Instance]:
        if not tags:
            raise ValueError("no tags: that would be every instance of the account")
        return await self._process.read("tagged", lambda at: self._world.ec2.tagged(tags, at), late=True)

    async def launch(self, token: str, image: str, fleet: str, tags: Mapping[str, str]) -> str:
        zone = self._world.ec2.zones[0]
        return await self._process.write("launch", lambda: self._world.ec2.launch_once(token, image, zone, tags))

    async def tag(self, resource: str, tags: Mapping[str, str]) -> None:
        await self._process.write("tag", lambda: self._tag(resource, tags))

    def _tag(self, resource: str, tags: Mapping[str, str]) -> None:
        ec2 = self._world.ec2
        if resource in ec2.machines:
            ec2.tag_instance(resource, tags)
        elif resource in ec2.pictures:
            ec2.tag_image(resource, tags)
        elif resource not in ec2.snapshots:
            raise NotFound(f"there is no resource {resource}")

    async def terminate(self, server: str) -> None:
        self._world.ends(self._process, server)
        await self._process.write("terminate", lambda: self._world.ec2.terminate(server))

    async def create_image(self, server: str, name: str, tags: Mapping[str, str]) -> str:
        return await self._process.write("create_image", lambda: self._world.ec2.create_image(server, name, tags))

    async def images(self, fleet: str) -> Sequence[Image]:
        return await self._process.read("images", lambda at: self._world.ec2.images(fleet, at), late=True)

    async def image(self, image: str) -> Image | None:
        return await self._process.read("image", lambda at: self._world.ec2.image(image, at), late=True)

    async def deregister(self, image: Image) -> None:
        self._world.retires(self._process, image)
        await self._process.write("deregister", lambda: self._world.ec2.deregister(image.image))

    async def stock_image(self, stock: str) -> str:
        return await self._process.read("stock_image", lambda at: _image_id(stock))

    async def templates(self, fleet: str) -> Sequence[TemplateVersion]:
        return await self._process.read("templates", lambda at: self._templates(fleet, at), late=True)

    def _templates(self, fleet: str, at: float) -> Sequence[TemplateVersion]:
        past = self._world.ec2.templates.get(fleet)
        seen = past.at(at) if past else None
        if seen is None:
            raise NotFound(f"there is no launch template {fleet}")
        return seen

    async def set_template_image(self, fleet: str, image: str) -> int:
        return await self._process.write("set_template_image", lambda: self._world.ec2.set_template_image(fleet, image))


def _image_id(stock: str) -> str:
    if not re.fullmatch(IMAGE_PATTERN, stock):
        raise NotFound(f"there is no parameter {stock}")
    return stock


class CommandsFacade(_Facade):
    """Systems Manager."""

    async def online(self, server: str) -> bool:
        def answer(at: float) -> bool:
            machine = self._world.ec2.machines.get(server)
            return machine is not None and machine.online

        return await self._process.read("online", answer)

    async def send(
        self, server: str, document: str, parameters: Mapping[str, str], comment: str, timeout_s: int
    ) -> str:
        def effect() -> str:
            return self._world.ec2.send(server, document, parameters, comment, timeout_s)

        return await self._process.write("commands.send", effect, retried=False)

    async def find(self, server: str, comment: str) -> str | None:
        return await self._process.read("find", lambda at: self._world.ec2.find(server, comment, at), late=True)

    async def status(self, server: str, command: str) -> CommandStatus:
        return await self._process.read("status", lambda at: self._world.ec2.status(server, command, at), late=True)

    async def cancel(self, server: str, command: str) -> None:
        await self._process.write("cancel", lambda: self._world.ec2.cancel(server, command))


class ObjectsFacade(_Facade):
    """S3."""

    async def get(self, key: str) -> StoredObject | None:
        stored = await self._process.read("get", lambda at: self._world.bucket.get(key))
        known(key)
        return stored

    async def put(self, key: str, body: bytes, *, match: str | None = None, absent: bool = False) -> str:
        return await self._process.write("put", lambda: self._put(key, body, match, absent), what=key)

    def _put(self, key: str, body: bytes, match: str | None, absent: bool) -> str:
        before = self._world.bucket.get(key)
        etag = self._world.bucket.put(key, body, match, absent)
        self._world.wrote(self._process, key, body, before)
        return etag

    async def delete(self, key: str) -> None:
        await self._process.write("delete", lambda: self._world.bucket.delete(key), what=key)

    async def etags(self, prefix: str) -> Mapping[str, str]:
        return await self._process.read("etags", lambda at: self._world.bucket.etags(prefix))

    async def folders(self, prefix: str) -> Sequence[str]:
        return await self._process.read("folders", lambda at: self._world.bucket.folders(prefix))

    async def presign_get(self, key: str, expires_s: int) -> str:
        return presigned(key, "get")

    async def presign_put(self, key: str, expires_s: int) -> str:
        return presigned(key, "put")


class PublisherFacade(_Facade):
    """SNS: signs and dates as the adapter does. An id that nobody chose follows from the seed."""

    async def publish(self, message: Message) -> None:
        own = {} if "id" in message.model_fields_set else {"id": self._process.new_id()}
        signed = message.model_copy(
            update={**own, "source": self._process.service, "time": message.time or self._process.clock.now()}
        )
        body, attributes = signed.model_dump_json(exclude_none=True), carried({})
        await self._process.write("publish", lambda: self._world.published(self._process, signed, body, attributes))


class AlarmsFacade(_Facade):
    """CloudWatch."""

    async def states(self, names: Sequence[str]) -> Mapping[str, AlarmState]:
        return await self._process.read("states", lambda at: {name: self._world.alarm(name) for name in names})


class HealthFacade(_Facade):
    """Health pages."""

    async def probe(self, url: str, timeout_s: float) -> bool | None:
        address = urlsplit(url).hostname or ""
        return await self._process.read("probe", lambda at: self._world.ec2.page(address))


class QueueFacade(_Facade):
    """SQS: the service's own queue."""

    async def receive(self, limit: int, wait_s: int, visibility_s: int) -> Sequence[QueueMessage]:
        queue = self._world.messaging.queue(self._process.service)
        await self._process.read("queue.receive", lambda at: None)
        got = await queue.receive(limit, visibility_s, wait_s)
        self._world.invariants.received(self._process, len(got))
        self._process.deletions.received(got)
        self._process.check()
        return got

    async def delete(self, receipts: Sequence[str]) -> Sequence[str]:
        queue = self._world.messaging.queue(self._process.service)
        self._process.deletions.judge(receipts)
        return await self._process.write("queue.delete", lambda: [each for each in receipts if not queue.delete(each)])

    async def extend(self, receipts: Mapping[str, int]) -> Sequence[str]:
        queue = self._world.messaging.queue(self._process.service)
        return await self._process.write(
            "queue.extend", lambda: [each for each, seconds in receipts.items() if not queue.hide(each, seconds)]
        )

    async def send(self, body: str, delay_s: int, attributes: Mapping[str, str]) -> None:
        queue, kept = self._world.messaging.queue(self._process.service), carried(attributes)
        await self._process.write("queue.send", lambda: self._world.delivered(queue, body, kept, delay_s))
        self._process.deletions.sent(body)

    async def send_dead(self, body: str, attributes: Mapping[str, str]) -> None:
        queue = self._world.messaging.queue(self._process.service).dead
        assert queue is not None
        await self._process.write("queue.send_dead", lambda: queue.send(body, 0, attributes) and None)
        self._process.deletions.sent(body)


def cloud_of(process: Process) -> Cloud:
    """Return all ports of a process."""
    return Cloud(
        groups=GroupsFacade(process),
        servers=ServersFacade(process),
        commands=CommandsFacade(process),
        objects=ObjectsFacade(process),
        publisher=PublisherFacade(process),
        alarms=AlarmsFacade(process),
        health=HealthFacade(process),
        queue=QueueFacade(process),
    )
