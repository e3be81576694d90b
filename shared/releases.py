"""Releases of components: published once, never changed, their contents shared between versions.

A release is a manifest and the packs that it refers to. Packs belong to the component and are named by their digest;
the manifest is written last, so a version that can be seen is whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from shared.cloud import Conflict, ObjectsPort, Unavailable
from shared.contents import contents
from shared.deltas import make_delta
from shared.documents import CorruptDocument, decode
from shared.ids import ComponentName, Version
from shared.manifests import Entry, Manifest, Numbering, PublishedRelease, Stored
from shared.outlines import Globs, Outline
from shared.outlines import outline as outlined
from shared.packing import Block, Earlier, Pack, Packing, Place, Progress
from shared.plan import Content, Delta
from shared.records import delta_key, deltas_prefix, manifest_key, pack_key
from shared.sources import Source, read_tree
from shared.uncollected import uncollected

LOOK_BACK = 10
"""How many of the newest releases' contents are used again; older ones would cost more to read than they save."""

DELTA_BASES = 3
"""A release has deltas from so many that come before it in the list of versions: a server that was brought up to date
by each keeps the one before its own, and misses none when a version is left out."""


class VersionTaken(Exception):
    """A version was published before, with other content."""


class UnknownRelease(Exception):
    """There is no such release."""


class ReleaseInfo(Stored):
    """What publishing did: ``uploaded`` counts the bytes of new packs, the manifest not among them."""

    component: ComponentName
    version: Version
    digest: str
    files: int
    size: int = Field(description="bytes of all files")
    packs: int
    uploaded: int
    existed: bool = False


async def publish(
    objects: ObjectsPort, component: str, version: str, directory: Path, progress: Progress | None = None
) -> ReleaseInfo:
    """Publish a directory as a release. Content that the component's recent releases have is not uploaded again.

    Publishing the same directory again as the same version does nothing, but for deltas that were not made when an
    earlier try was cut off. Running it twice at once is safe.

    Raises:
        VersionTaken: the version was published before with other content.
        SourceError: the directory has something in it that cannot be released, or changed meanwhile.
        OSError: something in the directory cannot be read.
        CorruptDocument: the manifest of a recent release cannot be read. The release may be there, without deltas.
        CloudError: S3 did not take it; what was uploaded is used by the next try. The release may be there by then,
            without deltas.
    """
    with uncollected():
        sources = await asyncio.to_thread(read_tree, directory)
        packing = Packing(sources, progress)
        reading = (asyncio.to_thread(packing.digest_large), asyncio.to_thread(packing.digest_small))
        past, *_ = await asyncio.gather(_past(objects, component), *reading)
        await asyncio.to_thread(past.look_for, packing.digests.values())
        new, uploaded = await _laid_out(objects, component, version, packing, past)
        published, existed = await _put_manifest(objects, new)
        await _put_deltas(objects, published, sources)
    return _info(published, uploaded, existed)


async def manifest(objects: ObjectsPort, component: str, version: str) -> PublishedRelease:
    """Read a release.

    Raises:
        UnknownRelease: it was never published.
        CorruptDocument: its manifest is damaged, or of a newer form.
        CloudError: S3 did not answer.
    """
    stored = await _stored(objects, component, version)
    parsed = await asyncio.to_thread(decode, Manifest, manifest_key(component, version), stored)
    return PublishedRelease(parsed, hashlib.sha256(stored).hexdigest())


async def outline(objects: ObjectsPort, component: str, version: str, asked: Iterable[Globs] = ()) -> Outline:
    """Read what planning needs of a release, in a fraction of the memory that its manifest would take.

    Raises:
        UnknownRelease, CorruptDocument, CloudError: as ``manifest``.
    """
    stored = await _stored(objects, component, version)
    try:
        return await asyncio.to_thread(outlined, stored, asked)
    except ValueError as error:
        raise CorruptDocument(manifest_key(component, version), str(error)) from error


async def versions(objects: ObjectsPort, component: str) -> Sequence[str]:
    """Return all published versions of a component, oldest number first (9 before 10).

    Raises:
        CloudError: S3 did not answer.
    """
    prefix, suffix = f"releases/{component}/", "/manifest.json"
    keys = await objects.etags(prefix)
    return sorted((key[len(prefix) : -len(suffix)] for key in keys if key.endswith(suffix)), key=_by_number)


async def objects_of(objects: ObjectsPort, component: str, listed: Iterable[Outline]) -> set[str]:
    """Return the keys of all objects that releases of a component need, and of the deltas between them.

    Raises:
        CloudError: S3 did not answer.
    """
    found, digests = set[str](), set[str]()
    for release in listed:
        digests.add(release.digest)
        found |= {manifest_key(component, release.version), *(pack_key(component, pack) for pack in release.packs)}
    keys = await objects.etags(deltas_prefix(component))
    return found | {key for key in keys if digests.issuperset(key.split("/")[-3:-1])}


async def content(objects: ObjectsPort, release: Outline, expires_s: int) -> Content:
    """Return presigned URLs of a release's manifest, packs and deltas, for the agent.

    Raises:
        CloudError: the deltas could not be listed, or the URLs not be made.
    """
    component = release.component
    packs = {pack: await objects.presign_get(pack_key(component, pack), expires_s) for pack in release.packs}
    url = await objects.presign_get(manifest_key(component, release.version), expires_s)
    deltas = {
        base: Delta(
            url=await objects.presign_get(delta_key(component, release.digest, base, digest), expires_s), sha256=digest
        )
        for base, digest in (await _deltas(objects, component, release.digest)).items()
    }
    return Content(manifest_url=url, manifest_sha256=release.digest, packs=packs, deltas=deltas)


async def _deltas(objects: ObjectsPort, component: str, digest: str) -> dict[str, str]:
    """Return the SHA-256 of each delta to the release with this manifest, by the manifest that it starts from."""
    keys = await objects.etags(f"{deltas_prefix(component)}{digest}/")
    return {base: delta for *_, base, delta in (key.split("/") for key in keys)}


async def _stored(objects: ObjectsPort, component: str, version: str) -> bytes:
    stored = await objects.get(manifest_key(component, version))
    if stored is None:
        raise UnknownRelease(f"there is no release {version} of {component}")
    return stored.body


@dataclass
class _Past:
    """Where the contents of the newest releases are."""

    newest: Manifest | None
    known: dict[str, Place]
    """By SHA-256: those of the newest release, and what was looked for."""
    older: Mapping[str, str]
    """The manifests of those before it by their keys, newest first: the newest has most of what they have."""

    def look_for(self, digests: Iterable[str]) -> None:
        """Find out where contents are, of several copies the newest. Reading all of a manifest takes far longer."""
        lacking = set(digests) - self.known.keys()
        for key, stored in self.older.items():
            found = lacking.intersection(_DIGEST.findall(stored)) if lacking else set()
            if found:
                self.known.update(_places(_with(key, stored, found)))
                lacking -= found


_DIGEST = re.compile('"sha256":"([0-9a-f]{64})"')


async def _past(objects: ObjectsPort, component: str) -> _Past:
    listed = list(await versions(objects, component))[-LOOK_BACK:]
    if not listed:
        return _Past(None, {}, {})
    newest = (await manifest(objects, component, listed.pop())).manifest
    listed.reverse()
    older = await asyncio.gather(*(_stored(objects, component, version) for version in listed))
    texts = zip(listed, older, strict=True)
    return _Past(
        newest, _places(newest), {manifest_key(component, each): text.decode(errors="replace") for each, text in texts}
    )


def _places(release: Manifest) -> dict[str, Place]:
    return {entry.sha256: release.place(entry) for entry in release.files() if entry.size}


class _Unread(BaseModel):
    """A manifest whose entries are not looked at yet."""

    model_config = ConfigDict(extra="allow")

    entries: list[dict[str, Any]]


def _with(key: str, stored: str, wanted: Container[str]) -> Manifest:
    """Read a manifest with only those entries whose content is wanted: all take several times as long.

    Raises:
        CorruptDocument: it is damaged, or of a newer form.
    """
    unread = decode(_Unread, key, stored.encode())
    entries = [entry for entry in unread.entries if entry.get("sha256") in wanted]
    return decode(Manifest, key, orjson.dumps({**(unread.model_extra or {}), "entries": entries}))


async def _earlier(
    objects: ObjectsPort, before: Manifest | None, changed: Iterable[Source], folder: Path
) -> dict[str, Earlier]:
    """Return what changed files were in the release before, by path."""
    if before is None:
        return {}
    paths = {source.path for source in changed}
    entries = [entry for entry in before.files() if entry.path in paths]
    texts = await contents(objects, before, entries, folder)
    return {entry.path: Earlier(texts[entry.sha256], before.place(entry)) for entry in entries if entry.sha256 in texts}


async def _laid_out(
    objects: ObjectsPort, component: str, version: str, packing: Packing, past: _Past
) -> tuple[Manifest, int]:
    """Upload what is new, and meanwhile lay out what is known: (the manifest, bytes of new packs)."""
    numbering, new = Numbering(), packing.new(past.known)
    paths = {source.path for source in new}
    known = [source for source in packing.sources if source.path not in paths]
    blocks, entries = await asyncio.gather(
        _upload_new(objects, component, packing, new, past.newest),
        asyncio.to_thread(_entries, known, packing.digests, past.known, numbering),
    )
    entries |= _entries(new, packing.digests, packing.stored(blocks), numbering)
    laid_out = Manifest(
        form=1,
        component=component,
        version=version,
        entries=tuple(entries[source.path] for source in packing.sources),
        packs=numbering.packs(),
        blocks=numbering.blocks(),
    )
    return laid_out, sum(block.length for block in blocks)


def _entries(
    sources: Iterable[Source], digests: Mapping[str, str], places: Mapping[str, Place], numbering: Numbering
) -> dict[str, Entry]:
    """Return the manifest's entries of sources, by path; the content of each is at some place."""
    entries = {}
    for source in sources:
        digest = digests.get(source.path, "")
        entries[source.path] = Entry(
            path=source.path,
            kind=source.kind,
            mode=source.mode,
            size=source.size,
            sha256=digest,
            target=source.target,
            **numbering.refer(places[digest] if source.size else ()),
        )
    return entries


async def _upload_new(
    objects: ObjectsPort, component: str, packing: Packing, new: Sequence[Source], newest: Manifest | None
) -> list[Block]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # A thread may be at work there when we give up.
        earlier = await _earlier(objects, newest, (source for source in new if source.is_large), Path(folder))
        return await _upload(objects, component, packing.packs(new, earlier))


async def _upload(objects: ObjectsPort, component: str, made: Iterator[Pack]) -> list[Block]:
    """Upload packs, each while the next is made; return the blocks of all in their order."""
    blocks: list[Block] = []
    pack = await asyncio.to_thread(next, made, None)
    while pack is not None:
        blocks.extend(pack.blocks)
        _, pack = await asyncio.gather(_put_pack(objects, component, pack), asyncio.to_thread(next, made, None))
    return blocks


async def _put_pack(objects: ObjectsPort, component: str, pack: Pack) -> None:
    try:
        await objects.put(pack_key(component, pack.digest), pack.body, absent=True)
    except Conflict:
        return  # The key is the content's digest: what is there is the same.


async def _put_manifest(objects: ObjectsPort, new: Manifest) -> tuple[PublishedRelease, bool]:
    """Write the manifest, or adopt the one of the same tree that is there: (it, whether it was there)."""
    body = new.model_dump_json(exclude_defaults=True).encode()
    try:
        await objects.put(manifest_key(new.component, new.version), body, absent=True)
    except (Conflict, Unavailable) as error:
        try:
            there = await manifest(objects, new.component, new.version)
        except UnknownRelease:
            raise error from None
        if not there.manifest.same_tree(new):
            raise VersionTaken(
                f"release {new.version} of {new.component} exists with other content; publish under another version"
            ) from error
        return there, True
    return PublishedRelease(new, hashlib.sha256(body).hexdigest()), False


async def _put_deltas(objects: ObjectsPort, release: PublishedRelease, sources: Iterable[Source]) -> None:
    """Make and store the deltas that are missing; their keys are digests, so that this can be done again."""
    component, listed = release.component, await versions(objects, release.component)
    there = await _deltas(objects, component, release.digest)
    place = listed.index(release.version)
    for version in listed[max(place - DELTA_BASES, 0) : place]:
        base = await manifest(objects, component, version)
        if base.digest in there or base.digest == release.digest:
            continue
        made = await make_delta(objects, base, release, {source.path: source for source in sources})
        if made is not None:
            key = delta_key(component, release.digest, base.digest, hashlib.sha256(made).hexdigest())
            await objects.put(key, made)


def _info(release: PublishedRelease, uploaded: int, existed: bool) -> ReleaseInfo:
    files = [entry for entry in release.manifest.entries if entry.kind == "file"]
    return ReleaseInfo(
        component=release.component,
        version=release.version,
        digest=release.digest,
        files=len(files),
        size=sum(entry.size for entry in files),
        packs=len(release.manifest.packs),
        uploaded=uploaded,
        existed=existed,
    )


def _by_number(version: str) -> list[tuple[int, str]]:
    """Order text by its numbers: every part compares as (number, text)."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]
