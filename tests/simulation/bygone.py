"""The records of weeks ago: what is in the bucket of them from the first, and what must not be left of them at rest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from shared.records import (
    Attempt,
    Audit,
    Bake,
    Baking,
    Launch,
    Record,
    Update,
    audit_key,
    audit_prefix,
    bake_key,
    bakes_prefix,
    baking_key,
    launch_key,
    report_key,
    run_prefix,
    runs_prefix,
    servers_prefix,
    update_key,
    updates_prefix,
)
from tests.simulation.fleet import NAME
from tests.simulation.loop import START
from tests.simulation.machines import STOCK

SERVERS, UPDATES, BAKES = RECORDS = tuple(prefix(NAME) for prefix in (servers_prefix, updates_prefix, bakes_prefix))
"""What the keys of records begin with."""

R = TypeVar("R", bound=Record)

GRACE = timedelta(hours=1)
"""For the last look of the janitor at it, and for clocks."""

if TYPE_CHECKING:
    from tests.simulation.world import World


def leave_behind(world: World) -> None:
    """Leave the records of a server and of a bake that are past the policy's days, and of two that are not yet."""
    days = world.fleet.policies.retention.records_days
    for number, age in enumerate((days + 5, days + 0.5, days / 2, 1.5), start=1):
        _leave(world, f"i-0bf{number:014x}", START - timedelta(days=age))


def _leave(world: World, server: str, at: datetime) -> None:
    bake = f"{NAME}-{at:%Y%m%dt%H%M%S}"
    launched, built = (_attempt(name, at) for name in (f"{server}-1", f"{bake}-builder"))
    launch = Launch(fleet=NAME, server=server, image=STOCK, claimed=at, ended=at, attempts=(launched,), result="ready")
    update = Update(fleet=NAME, server=server, rollout=1, began=at, releases={}, before={}, result="left", ended=at)
    baked = Bake(fleet=NAME, bake=bake, requested=at, ended=at, by="schedule", stage="failed", provision=built)
    audit = Audit(
        fleet=NAME, service="reconciler", action="terminate", target=server, by="reconciler", reason="", at=at
    )
    records: dict[str, Record] = {
        launch_key(NAME, server): launch,
        update_key(NAME, server): update,
        bake_key(NAME, bake): baked,
        audit_key(NAME, at, "terminate", server): audit,
    }
    for key, record in records.items():
        world.bucket.put(key, record.model_dump_json(by_alias=True).encode())
    for attempt in (launched, built):
        world.bucket.put(report_key(NAME, attempt.attempt), b"{}")


def _attempt(name: str, at: datetime) -> Attempt:
    return Attempt(attempt=name, began=at, ended=at, plan_digest="", result="ok")


def unexpired(world: World) -> Iterator[str]:
    """14: documents that the janitor should have deleted, or that nobody ever will."""
    before = world.now() - timedelta(days=world.fleet.policies.retention.records_days) - GRACE
    for key in (*_servers(world, before), *_bakes(world, before), *_audits(world, before)):
        yield f"{key} is older than records are kept"
    owned = tuple(runs_prefix(NAME, _name(key)) for prefix in RECORDS for key in world.bucket.keys(prefix))
    for key in world.bucket.keys(run_prefix(NAME, "").removesuffix("/")):
        if not key.startswith(owned):
            yield f"{key} belongs to nothing"


def _servers(world: World, before: datetime) -> Iterator[str]:
    """Yield the records of servers that are no more and have ended one and all before that time."""
    kept: dict[str, list[tuple[str, datetime | None]]] = {}
    for launch in _all(world, Launch, SERVERS):
        kept.setdefault(launch.server, []).append((launch_key(NAME, launch.server), launch.ended))
    for update in _all(world, Update, UPDATES):
        kept.setdefault(update.server, []).append((update_key(NAME, update.server), update.ended))
    for server, records in kept.items():
        machine = world.ec2.machines.get(server)
        if (machine is None or not machine.living) and all(
            ended is not None and ended < before for _, ended in records
        ):
            yield from (key for key, _ in records)


def _bakes(world: World, before: datetime) -> Iterator[str]:
    latest = next(_all(world, Baking, baking_key(NAME)), None)
    for bake in _all(world, Bake, BAKES):
        needed = bake.image in world.ec2.pictures or (latest is not None and bake.bake == latest.bake)
        if not needed and bake.ended is not None and bake.ended < before:
            yield bake_key(NAME, bake.bake)


def _audits(world: World, before: datetime) -> Iterator[str]:
    first = f"{audit_prefix(NAME)}{before:%Y-%m-%d}"
    return (key for key in world.bucket.keys(audit_prefix(NAME)) if key < first)


def _all(world: World, model: type[R], prefix: str) -> Iterator[R]:
    for key in world.bucket.keys(prefix):
        stored = world.bucket.get(key)
        if stored is not None:
            yield model.model_validate_json(stored.body)


def _name(key: str) -> str:
    return key.rsplit("/", 1)[1].removesuffix(".json")
