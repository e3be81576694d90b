from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ops.collecting import Collected, Needs, collect, retire
from ops.releases import Refusal
from shared import releases
from shared.cloud import Denied, Incomplete
from shared.manifests import PackInfo
from shared.records import Bake, Member, Membership, bake_key, delta_key, manifest_key, membership_key, pack_key
from tests.unit.fleetworld import FIRST, STOCK, FleetWorld

DAY = timedelta(days=1)
ORPHAN = pack_key("monolith", "0" * 64)


@pytest.fixture
async def world(tmp_path: Path) -> FleetWorld:
    """Two releases, the first of them the fleet's, and a pack that an upload left behind."""
    world = FleetWorld()
    for version in ("1", "2"):
        (tmp_path / "file").write_text(version * 100)
        await releases.publish(world.objects, "monolith", version, tmp_path)
    await world.components.set("web", "monolith", "1", by="ada")
    world.objects.bodies[ORPHAN] = b"left behind"
    return world


async def run(world: FleetWorld, *, dry_run: bool = False, age: timedelta = DAY) -> Collected:
    return await collect(needs(world), "monolith", age, "ada", dry_run)


def needs(world: FleetWorld) -> Needs:
    return Needs(world.objects, world.servers, world.components, world.clock)


async def retired(world: FleetWorld, version: str, *, dry_run: bool = False) -> bool:
    await retire(needs(world), "monolith", version, "ada", dry_run)
    return version not in await releases.versions(world.objects, "monolith")


async def baked(world: FleetWorld, version: str) -> Bake:
    bake = Bake(
        bake="web-20260304t120000",
        fleet="web",
        stage="ready",
        requested=world.now,
        by="ada",
        releases={"monolith": version},
        image="ami-00000000000000009",
    )
    await world.documents.create(bake_key("web", bake.bake), bake)
    return bake


def packs(world: FleetWorld) -> set[str]:
    return {key for key in world.objects.bodies if key.startswith(pack_key("monolith", ""))}


async def test_only_what_no_listed_release_needs_goes_and_only_once_it_was_marked_long_enough(
    world: FleetWorld,
) -> None:
    before = packs(world)
    assert (await run(world)).marked == [ORPHAN]
    world.clock.step(hours=23)
    assert (await run(world)).waiting == [ORPHAN]
    assert packs(world) == before
    world.clock.step(hours=1)
    assert (await run(world)).deleted == [ORPHAN]
    assert packs(world) == before - {ORPHAN}
    assert await run(world) == Collected("monolith", [], [], [])


async def test_a_delta_stays_as_long_as_both_its_releases_are_listed(world: FleetWorld) -> None:
    one, two = [(await releases.manifest(world.objects, "monolith", version)).digest for version in ("1", "2")]
    stale = [delta_key("monolith", two, "0" * 64, "1" * 64), delta_key("monolith", "0" * 64, one, "1" * 64)]
    world.objects.bodies.update(dict.fromkeys(stale, b"delta"))
    assert any(f"/deltas/{two}/{one}/" in key for key in world.objects.bodies)
    assert (await run(world)).marked == sorted([ORPHAN, *stale])


async def test_what_will_be_deleted_is_written_down_before(world: FleetWorld) -> None:
    await run(world)
    world.clock.step(days=1)
    world.objects.fail("put", Denied("no"))
    with pytest.raises(Denied):
        await run(world)
    assert ORPHAN in packs(world)
    await run(world)
    [sweep] = [key for key in world.objects.bodies if "/sweeps/" in key]
    assert ORPHAN in world.objects.bodies[sweep].decode()


async def test_a_dry_run_marks_and_deletes_nothing(world: FleetWorld) -> None:
    await run(world)
    world.clock.step(days=2)
    before = dict(world.objects.bodies)
    assert (await run(world, dry_run=True)).deleted == [ORPHAN]
    assert world.objects.bodies == before


async def test_a_pack_that_a_publish_has_taken_up_since_it_was_marked_stays(world: FleetWorld) -> None:
    await run(world)
    world.clock.step(days=2)
    manifest = (await releases.manifest(world.objects, "monolith", "2")).manifest
    pack = PackInfo(sha256="0" * 64, length=11)
    taken = manifest.model_copy(update={"version": "3", "packs": (*manifest.packs, pack)})
    world.objects.bodies[manifest_key("monolith", "3")] = taken.model_dump_json().encode()
    assert (await run(world)).deleted == []
    assert ORPHAN in packs(world)


@pytest.mark.parametrize("damage", ["current", "image", "manifest", "listing"])
async def test_where_it_cannot_be_told_in_full_what_is_needed_nothing_goes(world: FleetWorld, damage: str) -> None:
    await run(world)
    world.clock.step(days=2)
    before = packs(world)
    match damage:
        case "current":
            del world.objects.bodies[manifest_key("monolith", "1")]
        case "image":
            await baked(world, "0")
        case "manifest":
            world.objects.bodies[manifest_key("monolith", "2")] = b"{}"
        case "listing":
            world.objects.fail("etags", Incomplete("half"))
    with pytest.raises((Refusal, Incomplete)):
        await run(world)
    assert packs(world) == before


async def test_an_age_that_could_hurt_a_publish_is_refused(world: FleetWorld) -> None:
    with pytest.raises(Refusal, match="publish in progress"):
        await run(world, age=timedelta(minutes=5))


async def test_a_retired_release_is_listed_no_more_and_what_only_it_needed_goes_with_the_garbage(
    world: FleetWorld,
) -> None:
    assert await retired(world, "2", dry_run=True) is False
    assert await retired(world, "2")
    before = packs(world)
    await run(world)
    world.clock.step(days=1)
    assert len((await run(world)).deleted) > 1
    assert len(packs(world)) == len(before) - 2
    assert await releases.manifest(world.objects, "monolith", "1")


@pytest.mark.parametrize("who", ["fleet", "server", "image"])
async def test_a_release_that_somebody_needs_is_not_retired(world: FleetWorld, who: str) -> None:
    version = "1" if who == "fleet" else "2"
    if who == "server":
        member = Member(server=FIRST, address="10.0.1.1", image=STOCK, releases={"monolith": "2"}, since=world.now)
        await world.documents.create(membership_key("web"), Membership(members=(member,)))
    elif who == "image":
        bake = await baked(world, "2")
        world.image(str(bake.image), bake.bake)
        world.clock.step(days=2)
    with pytest.raises(Refusal, match=f"stays: {who} "):
        await retired(world, version)
    assert version in await releases.versions(world.objects, "monolith")


async def test_a_release_whose_images_are_all_gone_can_be_retired_and_gc_goes_on(world: FleetWorld) -> None:
    await baked(world, "2")
    with pytest.raises(Refusal, match="stays: image"):
        await retired(world, "2")
    world.clock.step(days=2)
    assert await retired(world, "2")
    assert ORPHAN in (await run(world)).marked


async def test_a_release_that_is_set_while_it_is_being_retired_is_put_back(world: FleetWorld) -> None:
    key = manifest_key("monolith", "2")
    delete = world.objects.delete

    async def set_first(key: str) -> None:
        await world.components.set("web", "monolith", "2", by="grace")
        await delete(key)

    world.objects.delete = set_first  # type: ignore[method-assign]
    before = world.objects.bodies[key]
    with pytest.raises(Refusal, match="stays: fleet web needs it"):
        await retired(world, "2")
    assert world.objects.bodies[key] == before


async def test_what_is_not_listed_cannot_be_retired(world: FleetWorld) -> None:
    with pytest.raises(releases.UnknownRelease):
        await retired(world, "9")
