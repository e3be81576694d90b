"""What must hold at rest (13 to 15), and the state that two runs are compared by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, QUARANTINE_TAG, ROLE_TAG
from shared.records import alert_key, current_release_key, membership_key, rollout_key
from tests.simulation.fleet import COMPONENT, NAME
from tests.simulation.machines import GROUP_TAG

TROUBLE = {
    "received too often": ("kill", "storm", "throttled", "denied", "error", "lost", "late"),
    "Throttled": ("throttled", "storm"),
    "Denied": ("denied",),
    "Unavailable": ("error", "lost", "late"),
    "Incomplete": ("partial", "blind", "server"),
    "health is blind": ("blind", "zone", "server"),
    "NotFound": ("lagging", "stale", "server"),
    "does not show": ("lagging", "stale"),
    "Invalid JSON": ("edit-garbage",),
    "cannot be read": ("corrupt", "edit-garbage"),
    "is not one that this program knows": ("corrupt",),
}
"""What handlers say that failed to the last, and the kinds of trouble that may be behind it."""

TYPED_BY_PEOPLE = (".requested", '"type":"image.ready"')
"""What refused messages are: requests that cannot be granted, and one that somebody forged."""

if TYPE_CHECKING:
    from tests.simulation.world import World


def at_rest(world: World) -> list[tuple[int, str]]:
    """Return what is not as it must be at rest, with the invariant's number."""
    return [(13, what) for what in (*_strength(world), *_rolled_out(world))] + [
        (14, what) for what in _left_over(world)
    ]


def _strength(world: World) -> Iterator[str]:
    """13: the fleet is at strength, with the right image, and nothing is stuck."""
    group, ec2 = world.group(), world.ec2
    serving = [each.server for each in group.members if each.in_service]
    if len(group.members) != group.desired or len(serving) != group.desired:
        yield f"{len(serving)} of {group.desired} are in service: {[each.state for each in group.members]}"
    for server in serving:
        if not ec2.machines[server].well:
            yield f"{server} is in service and does not serve"
    pointer = world.pointer()
    default = ec2.default_version(NAME)
    if pointer is None:
        yield "there is no pointer that can be read"
    elif default.image != pointer.image:
        yield f"the launch template has {default.image}, the pointer {pointer.image}"
    members = _members(world)
    if sorted(members) != sorted(serving):
        yield f"the members are {members}, in service are {serving}"


def _rolled_out(world: World) -> Iterator[str]:
    """13: a rollout has ended, and servers in service run what is set."""
    release, rollout = document(world, current_release_key(NAME, COMPONENT)), document(world, rollout_key(NAME))
    if rollout.get("state") == "running" or rollout.get("taken"):
        yield f"rollout {rollout['number']} is {rollout['state']} with {len(rollout['taken'])} on the way"
    for member in world.group().members:
        machine = world.ec2.machines.get(member.server)
        runs = machine.disk.releases.get(COMPONENT) if machine is not None else None
        if member.in_service and release.get("rollout") and runs != release["version"]:
            yield f"{member.server} runs release {runs} of {COMPONENT}, {release['version']} is set"


def document(world: World, key: str) -> dict[str, Any]:
    """Return what a document says; nothing where there is none."""
    stored = world.bucket.get(key)
    return orjson.loads(stored.body) if stored is not None else {}


def _left_over(world: World) -> Iterator[str]:
    """14: nothing leaks."""
    group = world.group()
    for server, machine in sorted(world.ec2.machines.items()):
        tags = machine.now.tags
        if not machine.living or group.member(server) is not None or tags.get(FLEET_TAG) != NAME:
            continue
        if ROLE_TAG in tags or (QUARANTINE_TAG not in tags and GROUP_TAG not in tags):
            yield f"{server} is left over: {dict(tags)}"
    for snapshot, image in sorted(world.ec2.snapshots.items()):
        if image not in world.ec2.pictures:
            yield f"the snapshot {snapshot} of {image} is left over"
    for bake in _bakes(world):
        if bake.get("ended") is None:
            yield f"the bake {bake['bake']} never ended: {bake['stage']}"


def unexplained(world: World) -> Iterator[str]:
    """14: dead letters that neither trouble nor a person's mistake explains."""
    for letter in world.messaging.dead_letters():
        if not _is_explained(world, letter.body, letter.attributes.get("reason", "")):
            yield f"a dead letter that nothing explains: {letter.body[:200]}: {letter.attributes.get('reason')}"


def _is_explained(world: World, body: str, reason: str) -> bool:
    """Whether trouble that there was, or a person's mistake, made it a dead letter."""
    if reason.startswith(("failed ", "received too often")):
        behind = [trouble for error, trouble in TROUBLE.items() if error in reason]
        return any(kind.startswith(trouble) for trouble in behind for kind in world.occurred)
    return any(each in body for each in TYPED_BY_PEOPLE)


def _members(world: World) -> list[str]:
    stored = world.bucket.get(membership_key(NAME))
    return [each["server"] for each in orjson.loads(stored.body)["members"]] if stored else []


def _bakes(world: World) -> list[dict[str, Any]]:
    stored = [world.bucket.get(key) for key in world.bucket.keys(f"fleets/{NAME}/bakes/")]
    return [orjson.loads(each.body) for each in stored if each is not None]


def state_of(world: World) -> Mapping[str, Any]:
    """Return the state, ids aside: what two runs of the same deeds must agree in."""
    group, ec2, pointer = world.group(), world.ec2, world.pointer()
    bakes = {each["bake"]: each for each in _bakes(world)}
    alerts = world.bucket.keys(alert_key(NAME, "").removesuffix(".json"))
    return {
        "desired": group.desired,
        "members": sorted(str(each.state) for each in group.members),
        "membership": len(_members(world)),
        "pinned": pointer is not None and pointer.pin is not None,
        "pointer's releases": bakes.get((pointer.bake if pointer else None) or "", {}).get("releases"),
        "builders": sum(each.living and ROLE_TAG in each.now.tags for each in ec2.machines.values()),
        "bakes under way": sorted(bake for bake, each in bakes.items() if each["ended"] is None),
        "alerts": [key.rsplit("/", 1)[1].removesuffix(".json") for key in alerts],
        "managed": sum(
            each.past.now.tags.get(MANAGED_TAG) == "true" and BAKE_TAG not in each.past.now.tags
            for each in ec2.pictures.values()
        ),
    }
