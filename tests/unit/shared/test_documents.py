"""Conditional documents: no accepted write is lost, and nothing unreadable is overwritten."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cloud import Conflict, StoredObject, Throttled, Unavailable
from shared.documents import TRIES, CorruptDocument, Documents, Written
from shared.records import Membership, Pause, Pointer
from tests.fakes import FakeObjects, etag_of

KEY = "fleets/web/pause.json"
NEVER = Pause(what="chaos", by="nobody")


def numbered(prefix: str) -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"{prefix}{next(numbers)}"


@pytest.fixture
def objects() -> FakeObjects:
    return FakeObjects()


@pytest.fixture
def documents(objects: FakeObjects) -> Documents:
    return Documents(objects, numbered("w"))


def by(person: str) -> Callable[[Pause | None], Pause]:
    """Add a person's name to the document's."""
    return lambda old: Pause(what="chaos", by=f"{old.by} {person}" if old else person)


async def written_by_another(objects: FakeObjects, person: str) -> bytes:
    """Return the bytes that another process would write next."""
    other = FakeObjects()
    other.bodies = dict(objects.bodies)
    await Documents(other, numbered(f"{person}-")).change(Pause, KEY, by(person))
    return other.bodies[KEY]


async def test_what_is_not_there_is_none(documents: Documents) -> None:
    assert await documents.get(Pause, KEY) is None


async def test_a_first_document_has_generation_one_and_a_write_id(documents: Documents) -> None:
    created = await documents.create(KEY, NEVER)
    assert created is not None
    assert (created.generation, created.write_id) == (1, "w1")
    assert await documents.get(Pause, KEY) == created


async def test_the_stored_form_is_the_documented_one(documents: Documents, objects: FakeObjects) -> None:
    await documents.create(KEY, NEVER)
    assert json.loads(objects.bodies[KEY]) == {
        "schema": 1,
        "generation": 1,
        "write_id": "w1",
        "what": "chaos",
        "by": "nobody",
        "reason": "",
        "until": None,
    }


async def test_a_copy_keeps_its_generation(documents: Documents) -> None:
    created = await documents.create(KEY, NEVER.model_copy(update={"generation": 7}))
    assert created is not None
    assert created.generation == 7


async def test_the_first_of_two_creators_wins(documents: Documents) -> None:
    first = await documents.create(KEY, NEVER)
    assert await documents.create(KEY, NEVER) is None
    assert await documents.get(Pause, KEY) == first


@pytest.mark.fault(1)
@pytest.mark.parametrize("error", [Unavailable("no reply"), Conflict("the retry of a lost reply")])
async def test_a_creation_whose_reply_was_lost_has_succeeded(
    documents: Documents, objects: FakeObjects, error: Unavailable | Conflict
) -> None:
    objects.fail("put", error, applied=True)
    created = await documents.create(KEY, NEVER)
    assert created is not None
    assert created == await documents.get(Pause, KEY)


async def test_a_creation_that_never_arrived_is_an_error(documents: Documents, objects: FakeObjects) -> None:
    objects.fail("put", Unavailable("lost on the way"))
    with pytest.raises(Unavailable):
        await documents.create(KEY, NEVER)
    assert objects.bodies == {}


async def test_a_change_raises_the_generation_by_one(documents: Documents) -> None:
    await documents.create(KEY, NEVER)
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.changed
    assert written.document is not None
    assert (written.document.generation, written.document.write_id, written.document.by) == (2, "w2", "nobody ann")
    assert await documents.get(Pause, KEY) == written.document


async def test_a_change_may_be_the_first_write(documents: Documents) -> None:
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.document is not None
    assert written.document.generation == 1


@pytest.mark.parametrize("decide", [lambda old: None, lambda old: old])
async def test_what_is_left_alone_is_not_written(
    documents: Documents, objects: FakeObjects, decide: Callable[[Pause | None], Pause | None]
) -> None:
    created = await documents.create(KEY, NEVER)
    assert await documents.change(Pause, KEY, decide) == Written(created, changed=False)
    assert len(objects.called("put")) == 1


async def test_what_was_read_a_moment_ago_is_read_again_only_to_be_changed(
    documents: Documents, objects: FakeObjects
) -> None:
    created = await documents.create(KEY, NEVER)
    for decide in (lambda old: None, lambda old: old):
        assert await documents.amend(Pause, KEY, created, decide) == Written(created, changed=False)
    assert objects.called("get") == []
    objects.bodies[KEY] = await written_by_another(objects, "bob")
    written = await documents.amend(Pause, KEY, created, by("ann"))
    assert written.document is not None
    assert (written.document.generation, written.document.by) == (3, "nobody bob ann")


@pytest.mark.fault(2)
async def test_a_lost_race_is_decided_anew_on_what_the_winner_wrote(documents: Documents, objects: FakeObjects) -> None:
    await documents.create(KEY, NEVER)
    theirs = await written_by_another(objects, "bob")
    objects.meanwhile("put", lambda: objects.bodies.update({KEY: theirs}))
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.document is not None
    assert (written.document.by, written.document.generation) == ("nobody bob ann", 3)


async def test_a_race_for_the_first_write_is_decided_anew(documents: Documents, objects: FakeObjects) -> None:
    theirs = await written_by_another(objects, "bob")
    objects.meanwhile("put", lambda: objects.bodies.update({KEY: theirs}))
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.document is not None
    assert written.document.by == "bob ann"


async def test_a_document_that_vanishes_meanwhile_is_decided_anew(documents: Documents, objects: FakeObjects) -> None:
    await documents.create(KEY, NEVER)
    objects.meanwhile("put", objects.bodies.clear)
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.document is not None
    assert (written.document.by, written.document.generation) == ("ann", 1)


@pytest.mark.fault(1)
@pytest.mark.parametrize("error", [Unavailable("no reply"), Conflict("the retry of a lost reply")])
async def test_a_change_whose_reply_was_lost_is_applied_once(
    documents: Documents, objects: FakeObjects, error: Unavailable | Conflict
) -> None:
    await documents.create(KEY, NEVER)
    objects.fail("put", error, applied=True)
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.changed
    assert written.document == await documents.get(Pause, KEY)
    assert written.document is not None
    assert (written.document.by, written.document.generation) == ("nobody ann", 2)


async def test_a_change_that_never_arrived_is_tried_again(documents: Documents, objects: FakeObjects) -> None:
    await documents.create(KEY, NEVER)
    objects.fail("put", Unavailable("lost on the way"))
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.document is not None
    assert (written.document.by, written.document.generation) == ("nobody ann", 2)


@pytest.mark.fault(1)
async def test_an_earlier_try_that_arrives_late_counts_as_ours(documents: Documents, objects: FakeObjects) -> None:
    await documents.create(KEY, NEVER)
    objects.fail("put", Unavailable("held up on the way"))

    def arrives() -> None:
        late = objects.called("put")[1].arguments[1]
        assert isinstance(late, bytes)
        objects.bodies[KEY] = late

    objects.meanwhile("put", lambda: objects.meanwhile("put", arrives))
    written = await documents.change(Pause, KEY, by("ann"))
    assert written.changed
    assert written.document is not None
    assert (written.document.by, written.document.generation) == ("nobody ann", 2)


@pytest.mark.fault(2)
async def test_tries_are_bounded(documents: Documents, objects: FakeObjects) -> None:
    objects.fail("put", Conflict("somebody was quicker"), times=TRIES)
    with pytest.raises(Conflict):
        await documents.change(Pause, KEY, by("ann"))
    assert len(objects.called("put")) == TRIES
    assert objects.bodies == {}


async def test_a_lost_reply_to_the_last_try_is_read_back_too(documents: Documents, objects: FakeObjects) -> None:
    objects.fail("put", Conflict("somebody was quicker"), times=TRIES - 1)
    objects.fail("put", Unavailable("no reply"), applied=True)
    assert (await documents.change(Pause, KEY, by("ann"))).changed


async def test_throttling_is_not_tried_again_at_once(documents: Documents, objects: FakeObjects) -> None:
    objects.fail("put", Throttled("slow down"))
    with pytest.raises(Throttled):
        await documents.change(Pause, KEY, by("ann"))
    assert len(objects.called("put")) == 1


@pytest.mark.fault(3)
async def test_the_same_content_written_again_is_another_version(documents: Documents, objects: FakeObjects) -> None:
    """A to B and back to A: a writer who saw the first A must lose against the second."""
    await documents.change(Pause, KEY, lambda old: Pause(what="chaos", by="ann"))
    first = objects.bodies[KEY]
    await documents.change(Pause, KEY, lambda old: Pause(what="chaos", by="bob"))
    await documents.change(Pause, KEY, lambda old: Pause(what="chaos", by="ann"))
    assert etag_of(first) != etag_of(objects.bodies[KEY])
    with pytest.raises(Conflict):
        await objects.put(KEY, b"a writer who slept", match=etag_of(first))


@pytest.mark.fault(3)
@given(st.lists(st.sampled_from(["ann", "bob"]), min_size=1, max_size=8))
async def test_no_two_writes_have_the_same_entity_tag(writers: list[str]) -> None:
    objects = FakeObjects()
    documents, seen = Documents(objects), set()
    for writer in writers:
        await documents.change(Pause, KEY, lambda old, by=writer: Pause(what="chaos", by=by))  # type: ignore[misc]
        seen.add(etag_of(objects.bodies[KEY]))
    assert len(seen) == len(writers)


async def test_writers_in_one_process_wait_for_each_other(documents: Documents, objects: FakeObjects) -> None:
    await asyncio.gather(*(documents.change(Pause, KEY, by(str(writer))) for writer in range(3 * TRIES)))
    final = await documents.get(Pause, KEY)
    assert final is not None
    assert final.generation == 3 * TRIES
    assert sorted(final.by.split()) == sorted(str(writer) for writer in range(3 * TRIES))


async def test_changes_that_wait_together_become_one_read_and_one_write(
    documents: Documents, objects: FakeObjects
) -> None:
    written = await asyncio.gather(*(documents.change(Pause, KEY, by(str(writer))) for writer in range(20)))
    assert len(objects.called("get")) == len(objects.called("put")) == 2  # the first one alone, then all the others
    told = [each.document for each in written if each.document]
    assert [each.generation for each in told] == list(range(1, 21))
    assert [each.by for each in told[:3]] == ["0", "0 1", "0 1 2"]
    assert await documents.get(Pause, KEY) == told[-1]


def no_one(old: Pause | None) -> Pause | None:
    raise LookupError("no one is there")


async def test_a_decision_that_raises_harms_nobody_elses(documents: Documents) -> None:
    outcomes = await asyncio.gather(
        *(documents.change(Pause, KEY, decide) for decide in (by("ann"), by("bob"), no_one, by("cy"))),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Written, Written, LookupError, Written]
    final = await documents.get(Pause, KEY)
    assert final is not None
    assert (final.by, final.generation) == ("ann bob cy", 3)


async def test_trouble_with_the_one_write_is_told_to_all(documents: Documents, objects: FakeObjects) -> None:
    objects.meanwhile("put", lambda: objects.fail("put", Throttled("slow down")))
    changes = [documents.change(Pause, KEY, by(person)) for person in ("ann", "bob", "cy")]
    first, *others = await asyncio.gather(*changes, return_exceptions=True)
    assert isinstance(first, Throttled)
    assert all(isinstance(other, Written) for other in others)

    await documents.delete(KEY)
    objects.bodies[KEY] = b"{"
    outcomes = await asyncio.gather(
        *(documents.change(Pause, KEY, by(person)) for person in "abc"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [CorruptDocument] * 3


class HeldObjects(FakeObjects):
    """Lets nobody but the first read until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def get(self, key: str) -> StoredObject | None:
        if self.called("get"):
            self.reached.set()
            await self.go.wait()
        return await super().get(key)


async def test_others_go_on_when_the_one_who_writes_for_all_is_cancelled() -> None:
    objects = HeldObjects()
    documents = Documents(objects)
    alone, writing, other = (asyncio.create_task(documents.change(Pause, KEY, by(each))) for each in "abc")
    await objects.reached.wait()  # a wrote alone; b is about to write for c too
    writing.cancel()
    objects.go.set()
    await asyncio.wait({alone, writing, other})
    assert writing.cancelled()
    final = await documents.get(Pause, KEY)
    assert final is not None
    assert (final.by, final.generation) == ("a c", 2)


async def test_who_was_cancelled_while_waiting_changes_nothing(documents: Documents) -> None:
    first, second, third = (
        asyncio.create_task(documents.change(Pause, KEY, by(person))) for person in ("ann", "bob", "cy")
    )
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({first, second, third})
    final = await documents.get(Pause, KEY)
    assert final is not None
    assert final.by == "ann cy"


def _leave(old: Pause | None) -> Pause | None:
    return None


DECISIONS = st.lists(st.sampled_from([*(by(person) for person in "abc"), _leave, no_one]), max_size=12)
FAULTS = st.lists(
    st.tuples(st.sampled_from([Conflict("late"), Unavailable("no reply")]), st.booleans()), max_size=TRIES - 1
)


@pytest.mark.fault(1, 2)
@given(DECISIONS, FAULTS)
async def test_together_is_as_one_after_another(
    decisions: list[Callable[[Pause | None], Pause | None]], faults: list[tuple[Conflict | Unavailable, bool]]
) -> None:
    """Whatever fails on the way, everybody is told what they would be told alone, and the document ends the same."""
    apart, together = FakeObjects(), FakeObjects()
    alone = Documents(apart)
    expected = [await _told(alone, decide) for decide in decisions]
    for error, applied in faults:
        together.fail("put", error, applied=applied)
    documents = Documents(together)
    assert await asyncio.gather(*(_told(documents, decide) for decide in decisions)) == expected
    assert _content(await documents.get(Pause, KEY)) == _content(await alone.get(Pause, KEY))
    assert len(together.called("put")) <= 2 + len(faults)


async def _told(documents: Documents, decide: Callable[[Pause | None], Pause | None]) -> object:
    try:
        written = await documents.change(Pause, KEY, decide)
    except LookupError as error:
        return str(error)
    return _content(written.document), written.changed


def _content(document: Pause | None) -> object:
    return document.model_dump(exclude={"write_id"}) if document else None


@pytest.mark.fault(2, 4)
async def test_writers_in_many_processes_lose_nothing(objects: FakeObjects) -> None:
    async def write(writer: int) -> None:
        mine = Documents(objects, numbered(f"{writer}-"))
        turn = 0
        while turn < 5:
            with suppress(Conflict):
                await mine.change(Pause, KEY, by(f"{writer}.{turn}"))
                turn += 1

    await asyncio.gather(*(write(writer) for writer in range(4)))
    final = await Documents(objects).get(Pause, KEY)
    assert final is not None
    assert final.generation == 20
    assert sorted(final.by.split()) == sorted(f"{writer}.{turn}" for writer in range(4) for turn in range(5))


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b'{"what": "chaos"', "JSON"),
        (b"[]", "object"),
        (b"[" * 100_000, "JSON"),
        (b'{"what": "chaos"}', "by"),
        (b'{"what": "chaos", "by": "me", "generation": -1}', "generation"),
        (b'{"what": "chaos", "by": "me", "colour": "red"}', "colour"),
        (b'{"schema": 2, "what": "chaos", "by": "me"}', "schema 2 is not one that this program knows"),
    ],
)
async def test_a_corrupt_or_newer_document_is_reported_and_kept(
    documents: Documents, objects: FakeObjects, body: bytes, reason: str
) -> None:
    objects.bodies[KEY] = body
    with pytest.raises(CorruptDocument, match=reason) as caught:
        await documents.get(Pause, KEY)
    assert caught.value.key == KEY
    with pytest.raises(CorruptDocument):
        await documents.change(Pause, KEY, by("ann"))
    with pytest.raises(CorruptDocument):
        await documents.create(KEY, NEVER)
    assert objects.bodies[KEY] == body


almost = st.fixed_dictionaries(
    {"what": st.sampled_from(["chaos", "automation", "naps", 7])},
    optional={
        "by": st.text(max_size=9) | st.none(),
        "schema": st.integers(-1, 9),
        "generation": st.integers(-2, 2) | st.text(max_size=2),
        "write_id": st.text(max_size=4),
        "added": st.booleans(),
    },
).map(orjson.dumps)


@pytest.mark.fault(9)
@given(almost | st.binary(max_size=60))
async def test_whatever_is_found_is_read_or_is_reported_and_stays_as_it_was(body: bytes) -> None:
    objects = FakeObjects()
    documents, objects.bodies[KEY] = Documents(objects), body
    try:
        found = await documents.get(Pause, KEY)
    except CorruptDocument:
        with pytest.raises(CorruptDocument):
            await documents.change(Pause, KEY, by("ann"))
        assert objects.bodies[KEY] == body
    else:
        assert found
        assert found.what in ("chaos", "automation")


async def test_a_document_that_is_of_another_kind_is_corrupt(documents: Documents) -> None:
    await documents.create(KEY, Membership())
    with pytest.raises(CorruptDocument):
        await documents.get(Pause, KEY)


async def test_what_an_operator_wrote_by_hand_is_read_and_replaced(documents: Documents, objects: FakeObjects) -> None:
    key = "fleets/web/image.json"
    objects.bodies[key] = b'{"image": "ami-12345678", "since": "2026-01-31T02:00:00Z", "by": "ann"}'
    pointer = await documents.get(Pointer, key)
    assert pointer is not None
    assert (pointer.generation, pointer.since) == (0, datetime(2026, 1, 31, 2, tzinfo=UTC))
    written = await documents.change(Pointer, key, lambda old: old and old.model_copy(update={"by": "registry"}))
    assert written.document is not None
    assert written.document.generation == 1


async def test_deleting_and_listing(documents: Documents) -> None:
    await documents.create("fleets/web/bakes/b.json", NEVER)
    await documents.create("fleets/web/bakes/a.json", NEVER)
    assert list(await documents.keys("fleets/web/bakes/")) == ["fleets/web/bakes/a.json", "fleets/web/bakes/b.json"]
    await documents.delete("fleets/web/bakes/a.json")
    await documents.delete("fleets/web/bakes/a.json")
    assert list(await documents.keys("fleets/web/bakes/")) == ["fleets/web/bakes/b.json"]


FOLDER = "fleets/web/pauses/"


async def test_of_documents_that_are_asked_for_again_only_those_are_read_that_changed(
    documents: Documents, objects: FakeObjects
) -> None:
    for name in ("b", "a", "c"):
        await documents.create(f"{FOLDER}{name}.json", NEVER)
    first = await documents.named(Pause, FOLDER, {"b", "a", "gone"})
    assert list(first) == ["a", "b"]

    await Documents(objects, numbered("other-")).change(Pause, f"{FOLDER}a.json", by("ann"))
    await documents.delete(f"{FOLDER}b.json")
    objects.calls.clear()
    assert [each.by for each in await documents.all(Pause, FOLDER)] == ["nobody ann", "nobody"]
    assert [call.arguments[0] for call in objects.called("get")] == [f"{FOLDER}a.json", f"{FOLDER}c.json"]


async def test_a_document_that_is_deleted_after_it_was_listed_is_none_and_one_that_was_mended_is_read(
    documents: Documents, objects: FakeObjects
) -> None:
    await documents.create(f"{FOLDER}a.json", NEVER)
    objects.bodies[f"{FOLDER}b.json"] = b"{"
    with pytest.raises(CorruptDocument):
        await documents.all(Pause, FOLDER)
    objects.bodies[f"{FOLDER}b.json"] = objects.bodies[f"{FOLDER}a.json"]
    listed = await objects.etags(FOLDER)
    del objects.bodies[f"{FOLDER}a.json"]

    async def etags(prefix: str) -> Mapping[str, str]:
        return listed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(objects, "etags", etags)
        assert list(await documents.named(Pause, FOLDER, "ab")) == ["b"]


async def test_documents_besides_some_are_found_though_one_of_those_cannot_be_read(
    documents: Documents, objects: FakeObjects
) -> None:
    await documents.create(f"{FOLDER}a.json", NEVER)
    objects.bodies[f"{FOLDER}b.json"] = b"{"
    assert len(await documents.all(Pause, FOLDER, besides={"b", "gone"})) == 1
