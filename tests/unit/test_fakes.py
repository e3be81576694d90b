import pytest

from shared.cloud import Conflict, NotFound, Refused, Unavailable
from tests.fakes import FakeClock, FakeObjects, FakeServers


async def test_a_put_that_must_be_first_loses_against_what_is_there() -> None:
    objects = FakeObjects()
    await objects.put("a", b"1", absent=True)
    with pytest.raises(Conflict):
        await objects.put("a", b"2", absent=True)
    assert objects.bodies == {"a": b"1"}


async def test_a_put_over_an_entity_tag_loses_once_the_tag_is_another_or_the_object_is_gone() -> None:
    objects = FakeObjects()
    first = await objects.put("a", b"1")
    await objects.put("a", b"2", match=first)
    with pytest.raises(Conflict):
        await objects.put("a", b"3", match=first)
    await objects.delete("a")
    with pytest.raises(Conflict):
        await objects.put("a", b"3", match=first)
    assert objects.bodies == {}


async def test_a_lost_reply_leaves_the_effect_and_a_refused_call_leaves_none_and_both_happen_once() -> None:
    objects = FakeObjects()
    objects.fail("put", Unavailable("no connection"))
    objects.fail("put", Unavailable("no reply"), applied=True)
    with pytest.raises(Unavailable):
        await objects.put("a", b"1")
    assert objects.bodies == {}
    with pytest.raises(Unavailable):
        await objects.put("a", b"1")
    assert objects.bodies == {"a": b"1"}
    await objects.put("a", b"2")
    assert len(objects.called("put")) == 3


async def test_what_happens_meanwhile_comes_before_the_effect() -> None:
    objects = FakeObjects()
    tag = await objects.put("a", b"1")
    objects.meanwhile("put", lambda: objects.bodies.update({"a": b"theirs"}))
    with pytest.raises(Conflict):
        await objects.put("a", b"ours", match=tag)


async def test_sleeping_lets_time_pass_and_a_skewed_wall_clock_leaves_the_monotonic_one_alone() -> None:
    clock = FakeClock()
    before = clock.now()
    await clock.sleep(3)
    clock.step(minutes=1)
    assert (clock.now() - before).total_seconds() == 63
    assert clock.monotonic() == 63
    assert clock.slept == [3]


async def test_a_token_launches_one_server_and_is_refused_for_another() -> None:
    servers = FakeServers(FakeClock())
    server = await servers.launch("token", "ami-0000000a", "web", {"a": "b"})
    assert await servers.launch("token", "ami-0000000a", "web", {"a": "b"}) == server
    for image, tags in (("ami-0000000b", {"a": "b"}), ("ami-0000000a", {"a": "c"})):
        with pytest.raises(Refused):
            await servers.launch("token", image, "web", tags)
    assert list(servers.known) == [server]


async def test_a_launch_template_that_nobody_made_is_not_found() -> None:
    with pytest.raises(NotFound):
        await FakeServers(FakeClock()).templates("web")
