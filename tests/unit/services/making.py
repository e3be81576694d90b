"""Fleets, groups, servers and images for the tests of the services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from shared import ids
from shared.alerts import Alerts
from shared.cloud import Group, GroupMember, Image, Instance
from shared.documents import Documents
from shared.fleet import Capacity, Fleet, Health, Policies, RunStep
from shared.fleets import Fleets
from shared.messages import AlertRaised
from shared.records import Record, config_key
from tests.fakes import START, World

WEB = "web"
OURS = {ids.MANAGED_TAG: "true", ids.FLEET_TAG: WEB}


def server(number: int) -> str:
    """Return the id of server ``number``."""
    return f"i-{number:017x}"


def image_id(number: int) -> str:
    """Return the id of image ``number``."""
    return f"ami-{number:017x}"


def page(number: int) -> str:
    """Return the health page of server ``number``."""
    return f"http://10.0.0.{number}/health"


def fleet(policies: Mapping[str, Mapping[str, object]] | None = None, name: str = WEB) -> Fleet:
    """Return a fleet of three with these policies."""
    return Fleet(
        fleet=name,
        stock=image_id(999),
        capacity=Capacity(min=0, desired=3, max=10),
        plan=(RunStep(step="build", run="scripts/build.sh"),),
        health=Health(url="http://{address}/health", timeout=2, failures=3, interval=1),
        policies=Policies.model_validate(policies or {}),
    )


def member(number: int, state: str = "InService", *, healthy: bool = True, version: str = "1") -> GroupMember:
    """Return a group's member."""
    return GroupMember(server(number), state, healthy, "us-east-1a", version)


def group(
    *members: GroupMember, desired: int | None = None, managed: bool = True, suspended: Sequence[str] = ()
) -> Group:
    """Return the group of ``web``, at strength unless told otherwise."""
    wanted = len(members) if desired is None else desired
    return Group(WEB, 0, wanted, 100, members, managed, tuple(suspended))


def instance(
    number: int,
    state: str = "running",
    *,
    image: int = 1,
    launched: datetime = START - timedelta(hours=1),
    tags: Mapping[str, str] | None = None,
) -> Instance:
    """Return an instance of the fleet."""
    return Instance(
        server(number), state, image_id(image), f"10.0.0.{number}", launched, "us-east-1a", {**OURS, **(tags or {})}
    )


def image(
    number: int, *, age_days: float = 30, state: str = "available", tags: Mapping[str, str] | None = None
) -> Image:
    """Return an image of the fleet."""
    return Image(
        image_id(number),
        f"web-{number}",
        state,
        START - timedelta(days=age_days),
        (f"snap-{number:017x}",),
        {**OURS, **(tags or {})},
    )


def encoded(document: Record) -> bytes:
    """Return a document as it is stored, whatever generation it carries."""
    return document.model_dump_json(by_alias=True).encode()


@dataclass
class Stage:
    """A world with what stands on its ports."""

    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.documents = Documents(self.world.objects)
        self.fleets = Fleets(self.world.objects)
        self.alerts = Alerts(self.documents, self.world.publisher, self.world.clock)

    def describe(self, described: Fleet) -> None:
        """Put a fleet's description there."""
        body = described.model_dump_json(by_alias=True).encode()
        self.world.objects.bodies[config_key(described.fleet)] = body

    def put(self, key: str, document: Record) -> None:
        """Put a document there."""
        self.world.objects.bodies[key] = encoded(document)

    def servers(self, *numbers: int) -> None:
        """Have a group of these servers, all of them in service and well."""
        self.world.groups.set(group(*(member(number) for number in numbers)))
        for number in numbers:
            self.world.servers.set(instance(number))

    def raised(self) -> list[str]:
        """Return the causes of all alerts so far."""
        return [alert.cause for alert in self.world.publisher.of(AlertRaised)]

    def audited(self) -> list[str]:
        """Return the keys of all audit documents."""
        return [key for key in self.world.objects.bodies if "/audit/" in key]
