import asyncio
import contextlib
import gc
import hashlib
import os
import random
import sys
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import contents, packing, releases, sources
from shared.cloud import Denied, Unavailable
from shared.documents import CorruptDocument
from shared.manifests import Entry, Manifest
from shared.records import manifest_key
from shared.releases import UnknownRelease, VersionTaken
from shared.sources import SourceError, encode_name
from tests.fakes import FakeObjects


@pytest.fixture
def objects() -> FakeObjects:
    return FakeObjects()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "app/empty").mkdir(parents=True)
    (directory / "app/one").write_text("one")
    (directory / "app/two").write_text("two")
    (directory / "app/two").chmod(0o750)
    (directory / "nothing").touch()
    (directory / "link").symlink_to("app/one")
    (directory / "large").write_bytes(random.Random(1).randbytes(700_000))
    return directory


def packs(objects: FakeObjects) -> dict[str, bytes]:
    return {key: body for key, body in objects.bodies.items() if "/packs/" in key}


def unpacked(objects: FakeObjects, manifest: Manifest) -> dict[str, bytes]:
    """Every file's content as the manifest says that it can be found."""
    texts = []
    for number, offset, length, size in manifest.blocks:
        body = objects.bodies[f"releases/{manifest.component}/packs/{manifest.packs[number].sha256}"]
        texts.append(zlib.decompress(body[offset : offset + length]))
        assert len(texts[-1]) == size
    text = dict(zip(map(manifest.block, range(len(manifest.blocks))), texts, strict=True))
    return {
        entry.path: b"".join(
            text[part.stored()][part.start : part.start + part.length] for part in manifest.place(entry)
        )
        for entry in manifest.files()
    }


async def test_a_release_can_be_read_back_whole(objects: FakeObjects, source: Path) -> None:
    info = await releases.publish(objects, "app", "1", source)
    published = await releases.manifest(objects, "app", "1")
    assert published.digest == info.digest
    assert (info.files, info.size, info.existed) == (4, 700_006, False)
    assert info.uploaded == sum(map(len, packs(objects).values()))
    assert unpacked(objects, published.manifest) == {
        "app/one": b"one",
        "app/two": b"two",
        "nothing": b"",
        "large": (source / "large").read_bytes(),
    }
    entries = {entry.path: entry for entry in published.manifest.entries}
    assert list(entries) == sorted(entries)
    assert (entries["app/empty"].kind, entries["link"].target, entries["app/two"].mode) == ("dir", "app/one", 0o750)
    assert entries["."].mode == source.stat().st_mode & 0o7777


async def test_the_manifest_is_written_last(objects: FakeObjects, source: Path) -> None:
    await releases.publish(objects, "app", "1", source)
    assert objects.called("put")[-1].arguments[0] == manifest_key("app", "1")


async def test_contents_of_earlier_releases_are_not_uploaded_again(objects: FakeObjects, source: Path) -> None:
    await releases.publish(objects, "app", "1", source)
    (source / "app/one").write_text("three")
    os.rename(source / "large", source / "moved")
    second = await releases.publish(objects, "app", "2", source)
    assert 0 < second.uploaded < 50
    manifest = (await releases.manifest(objects, "app", "2")).manifest
    contents = unpacked(objects, manifest)
    assert (contents["app/one"], contents["app/two"]) == (b"three", b"two")
    assert contents["moved"] == (source / "moved").read_bytes()


async def test_the_same_content_is_stored_once(objects: FakeObjects, source: Path) -> None:
    (source / "again").write_bytes((source / "large").read_bytes())
    info = await releases.publish(objects, "app", "1", source)
    assert info.uploaded < 710_000


async def test_packs_are_closed_at_their_size(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", 300_000)
    info = await releases.publish(objects, "app", "1", source)
    assert info.packs == 2
    assert (
        unpacked(objects, (await releases.manifest(objects, "app", "1")).manifest)["large"]
        == (source / "large").read_bytes()
    )


async def test_publishing_the_same_again_changes_nothing(objects: FakeObjects, source: Path) -> None:
    first = await releases.publish(objects, "app", "1", source)
    before = dict(objects.bodies)
    second = await releases.publish(objects, "app", "1", source)
    assert (second.existed, second.digest, second.uploaded) == (True, first.digest, 0)
    assert objects.bodies == before


@pytest.mark.parametrize("change", ["content", "mode", "more", "link"])
async def test_a_version_cannot_be_published_with_another_content(
    objects: FakeObjects, source: Path, change: str
) -> None:
    await releases.publish(objects, "app", "1", source)
    before = await releases.manifest(objects, "app", "1")
    if change == "content":
        (source / "app/one").write_text("ONE")
    elif change == "mode":
        (source / "app/one").chmod(0o600)
    elif change == "more":
        (source / "more").mkdir()
    else:
        (source / "link").unlink()
        (source / "link").symlink_to("app/two")
    with pytest.raises(VersionTaken, match="release 1 of app exists with other content"):
        await releases.publish(objects, "app", "1", source)
    assert await releases.manifest(objects, "app", "1") == before


async def test_a_manifest_whose_reply_was_lost_counts_as_published(objects: FakeObjects, source: Path) -> None:
    await releases.publish(objects, "app", "1", source)
    (source / "no-new-content").symlink_to("x")
    objects.fail("put", Unavailable("lost"), applied=True)
    info = await releases.publish(objects, "app", "2", source)
    assert info.digest == (await releases.manifest(objects, "app", "2")).digest


async def test_a_manifest_that_was_not_written_is_an_error(objects: FakeObjects, source: Path) -> None:
    await releases.publish(objects, "app", "1", source)
    (source / "no-new-content").symlink_to("x")
    objects.fail("put", Unavailable("down"))
    with pytest.raises(Unavailable):
        await releases.publish(objects, "app", "2", source)


async def test_an_upload_that_fails_leaves_no_release(objects: FakeObjects, source: Path) -> None:
    objects.fail("put", Denied("no"))
    with pytest.raises(Denied):
        await releases.publish(objects, "app", "1", source)
    assert await releases.versions(objects, "app") == []


@pytest.mark.parametrize("name", ["app/one", "large"])
@pytest.mark.parametrize("how", ["longer", "other", "shorter"])
async def test_a_file_that_changes_while_it_is_read_is_an_error(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    read_tree = sources.read_tree

    def read_and_change(directory: Path) -> list[sources.Source]:
        tree = read_tree(directory)
        content = (source / name).read_bytes()
        changed = {"longer": content + b"x", "other": b"X" + content[1:], "shorter": content[:-1]}[how]
        (source / name).write_bytes(changed)
        return tree

    monkeypatch.setattr(releases, "read_tree", read_and_change)
    with pytest.raises(SourceError, match=f"{name}: changed while it was read"):
        await releases.publish(objects, "app", "1", source)


async def test_of_two_things_that_go_wrong_at_once_one_is_said_and_none_is_left_to_the_loop(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    listed = [each._replace(changed_ns=each.changed_ns - 1) for each in sources.read_tree(source)]
    monkeypatch.setattr(releases, "read_tree", lambda _: listed)

    async def etags(prefix: str) -> dict[str, str]:
        for _ in range(100):  # Meanwhile the large file is found to have changed.
            await asyncio.sleep(0.001)
        raise Unavailable("S3 is down")

    monkeypatch.setattr(objects, "etags", etags)
    with contextlib.suppress(SourceError):  # Unlike pytest.raises it keeps no frames, and so no tasks.
        await releases.publish(objects, "app", "1", source)
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    gc.collect()
    assert heard == []


@pytest.mark.parametrize("damage", [(b"{", b"{not json"), (b'"path"', b'"pat"'), (b'"form":1', b'"form":2')])
async def test_an_older_manifest_that_is_damaged_and_has_what_is_wanted_is_an_error(
    objects: FakeObjects, source: Path, damage: tuple[bytes, bytes]
) -> None:
    await releases.publish(objects, "app", "1", source)
    (source / "app/one").write_text("another")
    await releases.publish(objects, "app", "2", source)
    (source / "app/one").write_text("one")
    key = manifest_key("app", "1")
    objects.bodies[key] = objects.bodies[key].replace(*damage)
    with pytest.raises(CorruptDocument, match=r"app/1/manifest\.json"):
        await releases.publish(objects, "app", "3", source)
    assert "3" not in await releases.versions(objects, "app")


@pytest.mark.parametrize("stored", [b"{not json", b"{}", b'{"entries": [1]}', b'{"form": 2, "entries": []}'])
async def test_a_damaged_manifest_is_told_by_its_key(objects: FakeObjects, stored: bytes) -> None:
    objects.bodies[manifest_key("app", "1")] = stored
    with pytest.raises(CorruptDocument, match=r"app/1/manifest\.json"):
        await releases.manifest(objects, "app", "1")
    with pytest.raises(CorruptDocument, match=r"app/1/manifest\.json"):
        await releases.outline(objects, "app", "1")


async def test_what_only_an_older_release_has_is_not_stored_again(objects: FakeObjects, source: Path) -> None:
    await releases.publish(objects, "app", "1", source)
    large = (source / "large").read_bytes()
    (source / "app/one").write_text("another")
    (source / "large").write_bytes(random.Random(2).randbytes(700_000))
    await releases.publish(objects, "app", "2", source)
    (source / "app/one").write_text("one")
    (source / "large").write_bytes(large)
    assert (await releases.publish(objects, "app", "3", source)).uploaded == 0


@pytest.fixture
def read_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another process read even a few files."""
    monkeypatch.setattr(sources, "_WORTH_A_PROCESS", 1)


@pytest.mark.usefixtures("read_beside")
def test_another_process_tells_the_digests_of_files_that_it_can_read_and_are_as_they_were(source: Path) -> None:
    files = {each.path: each for each in sources.read_tree(source) if each.kind == "file"}
    files["app/two"] = files["app/two"]._replace(changed_ns=1)
    (source / "nothing").unlink()
    found = dict(zip(files, sources.digests(list(files.values())), strict=True))
    known = {name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in ("app/one", "large")}
    assert found == {**known, "app/two": "", "nothing": ""}


@pytest.mark.usefixtures("read_beside")
async def test_what_another_process_reads_is_the_same_release(objects: FakeObjects, source: Path) -> None:
    (source / os.fsdecode(b"new\nline \xff")).write_text("odd")
    beside = await releases.publish(objects, "app", "1", source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_WORTH_A_PROCESS", 1000)
        here = await releases.publish(FakeObjects(), "app", "1", source)
    assert beside == here


@pytest.mark.usefixtures("read_beside")
@pytest.mark.parametrize("python", ["/bin/false", "/bin/echo"])
async def test_a_process_that_reads_nothing_well_is_made_up_for(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    await releases.publish(objects, "app", "1", source)
    found = (await releases.manifest(objects, "app", "1")).manifest
    assert unpacked(objects, found)["app/one"] == b"one"


@pytest.mark.usefixtures("read_beside")
async def test_a_file_that_another_process_finds_changed_is_told(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [each._replace(changed_ns=each.changed_ns - 1) for each in sources.read_tree(source)]
    monkeypatch.setattr(releases, "read_tree", lambda _: listed)
    with pytest.raises(SourceError, match="changed while it was read"):
        await releases.publish(objects, "app", "1", source)


async def test_what_is_no_file_directory_or_link_is_refused(objects: FakeObjects, source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(SourceError, match="pipe: neither"):
        await releases.publish(objects, "app", "1", source)


async def test_a_missing_directory_is_refused(objects: FakeObjects, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a directory"):
        await releases.publish(objects, "app", "1", tmp_path / "none")


async def test_progress_ends_with_all_bytes(objects: FakeObjects, source: Path) -> None:
    told: list[tuple[int, int]] = []
    await releases.publish(objects, "app", "1", source, lambda done, total: told.append((done, total)))
    assert told[-1] == (700_006, 700_006)
    assert told == sorted(told)


async def test_versions_are_listed_by_number(objects: FakeObjects, source: Path) -> None:
    for version in ("9", "10", "2.1", "2", "nightly"):
        await releases.publish(objects, "app", version, source)
    assert await releases.versions(objects, "app") == ["2", "2.1", "9", "10", "nightly"]
    assert await releases.versions(objects, "ap") == []


async def test_a_release_that_was_never_published_is_unknown(objects: FakeObjects) -> None:
    with pytest.raises(UnknownRelease, match="no release 7 of app"):
        await releases.manifest(objects, "app", "7")


async def test_content_names_a_url_for_everything_that_a_release_needs(objects: FakeObjects, source: Path) -> None:
    await releases.publish(objects, "app", "1", source)
    release = await releases.manifest(objects, "app", "1")
    content = await releases.content(objects, await releases.outline(objects, "app", "1"), 60)
    assert content.manifest_sha256 == release.digest
    assert "releases/app/1/manifest.json" in content.manifest_url
    assert set(content.packs) == {pack.sha256 for pack in release.manifest.packs}


@given(st.binary(min_size=1))
def test_any_name_survives_as_text(name: bytes) -> None:
    encoded = encode_name(name)
    assert encoded.encode().decode() == encoded
    assert unquote_to_bytes(encoded) == name


def test_two_packings_of_one_tree_are_the_same_tree() -> None:
    entry = Entry(path="a", sha256="1", size=1)
    one, two = (
        Manifest(form=1, component="app", version="1", entries=(entry.model_copy(update={"blocks": blocks}),))
        for blocks in ((0,), (1,))
    )
    assert one.same_tree(two)


def delta_keys(objects: FakeObjects) -> list[str]:
    return sorted(key for key in objects.bodies if "/deltas/" in key)


async def some_releases(objects: FakeObjects, source: Path) -> list[str]:
    digests = []
    for version in ("1", "2", "3", "4", "5"):
        (source / "app/one").write_text(version)
        digests.append((await releases.publish(objects, "app", version, source)).digest)
    return digests


async def test_a_release_has_deltas_from_the_three_before_it(objects: FakeObjects, source: Path) -> None:
    _, two, three, four, five = await some_releases(objects, source)
    content = await releases.content(objects, await releases.outline(objects, "app", "5"), 60)
    assert set(content.deltas) == {two, three, four}
    for base, delta in content.deltas.items():
        key = f"releases/app/deltas/{five}/{base}/{delta.sha256}"
        assert key in delta.url
        assert hashlib.sha256(objects.bodies[key]).hexdigest() == delta.sha256


async def test_deltas_that_are_missing_are_made_when_the_same_is_published_again(
    objects: FakeObjects, source: Path
) -> None:
    newest = (await some_releases(objects, source))[-1]
    before = dict(objects.bodies)
    del objects.bodies[next(key for key in delta_keys(objects) if f"/{newest}/" in key)]
    assert (await releases.publish(objects, "app", "5", source)).existed
    assert objects.bodies == before


async def test_a_delta_is_made_although_a_pack_of_the_base_is_gone(objects: FakeObjects, source: Path) -> None:
    await some_releases(objects, source)
    for key in packs(objects):
        del objects.bodies[key]
    (source / "app/one").write_text("6")
    info = await releases.publish(objects, "app", "6", source)
    assert any(info.digest in key for key in delta_keys(objects))


async def test_of_an_edited_large_file_only_what_is_new_is_stored(objects: FakeObjects, source: Path) -> None:
    text = (source / "large").read_bytes()
    await releases.publish(objects, "app", "1", source)
    for version, edit in enumerate((b"put in", b"once more" * 500, b""), start=2):
        text = text[: version * 90_000] + edit + text[version * 90_000 + 50 :]
        (source / "large").write_bytes(text)
        info = await releases.publish(objects, "app", f"{version}", source)
        assert info.uploaded < 10_000
        assert unpacked(objects, (await releases.manifest(objects, "app", f"{version}")).manifest)["large"] == text


async def test_a_file_that_edits_have_cut_up_is_stored_whole(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await releases.publish(objects, "app", "1", source)
    monkeypatch.setattr(packing, "_MOST_PARTS_A_BLOCK", 1)
    text = (source / "large").read_bytes()
    (source / "large").write_bytes(text[:200_000] + b"one" + text[200_000:400_000] + b"two" + text[400_000:])
    assert (await releases.publish(objects, "app", "2", source)).uploaded > 700_000


async def test_a_large_file_is_stored_although_what_it_was_cannot_be_read(objects: FakeObjects, source: Path) -> None:
    await releases.publish(objects, "app", "1", source)
    for key in packs(objects):
        objects.bodies[key] = b"x" * len(objects.bodies[key])
    text = (source / "large").read_bytes() + b"x"
    (source / "large").write_bytes(text)
    info = await releases.publish(objects, "app", "2", source)
    assert info.uploaded > 700_000


async def test_what_takes_reading_too_much_is_not_read_to_make_deltas(
    objects: FakeObjects, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await releases.publish(objects, "app", "1", source)
    monkeypatch.setattr(contents, "MOST_READ", 600_000)
    (source / "large").write_bytes((source / "large").read_bytes() + b"x")
    assert (await releases.publish(objects, "app", "2", source)).uploaded > 700_000
