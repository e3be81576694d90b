"""Which records nobody will read any more: old ones, of servers and images that are no more. Pure: no I/O, no clock.

A server that EC2 does not show any more never comes back, nor does an image; what is found here stays due, so it is
not looked at again before it is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.janitor.decide import View, incomplete
from shared import pauses
from shared.records import Bake, Baking, Launch, Update, audit_prefix, bake_key, launch_key, update_key


@dataclass(frozen=True)
class Records:
    """What the fleet keeps besides its bakes, which the view has."""

    launches: Sequence[Launch]
    updates: Sequence[Update]
    latest: Baking | None
    audits: Sequence[str]
    """The keys of all audits."""


@dataclass(frozen=True)
class Expired:
    """Delete the runs of these servers and bakes, and then the documents at these keys."""

    owners: tuple[str, ...]
    keys: tuple[str, ...]
    reason: str


def expired(view: View, records: Records) -> Expired | None:
    """List what is older than the policy keeps, and of a server or image that is not there; None: nothing. Pure."""
    if incomplete(view) is not None or pauses.of_automation(view.pause, view.now):
        return None
    began = view.now - timedelta(days=view.fleet.policies.retention.records_days)
    servers = _servers(view, records, began)
    bakes = _bakes(view, records, began)
    audits = [key for key in records.audits if key < f"{audit_prefix(view.fleet.fleet)}{began:%Y-%m-%d}"]
    keys = (*_keys_of(servers, view.fleet.fleet), *(bake_key(bake.fleet, bake.bake) for bake in bakes), *audits)
    if not keys:
        return None
    reason = f"servers {len(servers)}, bakes {len(bakes)}, audits {len(audits)}, from before {began:%Y-%m-%d}"
    return Expired((*sorted(servers), *(bake.bake for bake in bakes)), keys, reason)


def _servers(view: View, records: Records, began: datetime) -> Mapping[str, Sequence[Launch | Update]]:
    """Return the records of each server that is gone, where all of them are old."""
    there = {each.server for each in view.instances}
    found: dict[str, list[Launch | Update]] = {}
    both: tuple[Launch | Update, ...] = (*records.launches, *records.updates)
    for record in both:
        if record.server not in there:
            found.setdefault(record.server, []).append(record)
    return {server: kept for server, kept in found.items() if all(_last(each) < began for each in kept)}


def _last(record: Launch | Update) -> datetime:
    """When it was last heard of; one that has not ended died with its server, and tells by its attempts."""
    first = record.claimed if isinstance(record, Launch) else record.began
    return record.ended or max([first, *(each.ended or each.began for each in record.attempts)])


def _keys_of(servers: Mapping[str, Sequence[Launch | Update]], fleet: str) -> Iterator[str]:
    for server, records in sorted(servers.items()):
        for record in records:
            yield launch_key(fleet, server) if isinstance(record, Launch) else update_key(fleet, server)


def _bakes(view: View, records: Records, began: datetime) -> list[Bake]:
    """Return the old bakes that nobody needs: no image of theirs is there, and no other bake looks how they ended."""
    images = {each.image for each in view.images}
    needed = {records.latest.bake if records.latest else None, view.pointer.bake if view.pointer else None}
    over = [bake for bake in view.bakes.values() if bake.ended is not None and bake.ended < began]
    return [bake for bake in over if bake.bake not in needed and bake.image not in images]
