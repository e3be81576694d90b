"""Releases of components: published once, never changed, their contents shared between versions.

A release is a manifest and the packs that it refers to. Packs belong to the component and are named by their digest;
the manifest is written last, so a version that can be seen is whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.cloud import Conflict, ObjectsPort, Unavailable
from shared.ids import ComponentName, Version
from shared.outlines import Globs, Outline
from shared.outlines import outline as outlined
from shared.packing import Block, Pack, Packing, Place, Progress, Source, read_tree
from shared.plan import Content
from shared.records import manifest_key, pack_key

LOOK_BACK = 10
"""How many of the newest releases' contents are used again; older ones would cost more to read than they save."""


class VersionTaken(Exception):
    """A version was published before, with other content."""


class UnknownRelease(Exception):
    """There is no such release."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Stored):
    """One path of a release, relative to its directory, which itself is ``.``.

    In ``path`` and ``target``, ``%`` and bytes that are not UTF-8 are written ``%XX``.
    """

    path: str
    kind: Literal["file", "dir", "link"] = "file"
    mode: int = 0o644
    """Permission bits, set-user-id, set-group-id and sticky among them."""
    size: int = 0
    sha256: str = ""
    target: str = ""
    blocks: tuple[int, ...] = ()
    """A file's content is the text of these blocks (numbers in the manifest's list) one after the other, ..."""
    offset: int = 0
    """... from this byte in the first, for ``size`` bytes."""


class PackInfo(_Stored):
    """A pack: its SHA-256, and its length in bytes as far as this manifest knows it."""

    sha256: str
    length: int


class Manifest(_Stored):
    """Everything about a release. Blocks are (number of the pack, offset, length, size of the text)."""

    form: Literal[1]
    component: ComponentName
    version: Version
    entries: tuple[Entry, ...]
    packs: tuple[PackInfo, ...] = ()
    blocks: tuple[tuple[int, int, int, int], ...] = ()

    def same_tree(self, other: Manifest) -> bool:
        """Whether both describe the same directory, however it is packed."""
        return _described(self.entries) == _described(other.entries)


@dataclass(frozen=True)
class PublishedRelease:
    """A manifest, and the SHA-256 of the bytes that it is stored as."""

    manifest: Manifest
    digest: str

    @property
    def component(self) -> str:
        """The component's name."""
        return self.manifest.component

    @property
    def version(self) -> str:
        """The release's version."""
        return self.manifest.version


class ReleaseInfo(_Stored):
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

    Publishing the same directory again as the same version does nothing. Running it twice at once is safe.

    Raises:
        VersionTaken: the version was published before with other content.
        SourceError: the directory has something in it that cannot be released, or changed meanwhile.
        OSError: something in the directory cannot be read.
        CloudError: S3 did not take it; what was uploaded is used by the next try.
    """
    known = await _known(objects, component)
    sources = await asyncio.to_thread(read_tree, directory)
    packing = Packing(sources, frozenset(known), progress)
    blocks = await _upload(objects, component, packing)
    new = _Layout(blocks, packing.places, known).manifest(component, version, sources, packing.digests)
    published, existed = await _put_manifest(objects, new)
    return _info(published, sum(block.length for block in blocks), existed)


async def manifest(objects: ObjectsPort, component: str, version: str) -> PublishedRelease:
    """Read a release.

    Raises:
        UnknownRelease: it was never published.
        pydantic.ValidationError: its manifest is damaged, or of a newer form.
        CloudError: S3 did not answer.
    """
    stored = await _stored(objects, component, version)
    parsed = await asyncio.to_thread(Manifest.model_validate_json, stored)
    return PublishedRelease(parsed, hashlib.sha256(stored).hexdigest())


async def outline(objects: ObjectsPort, component: str, version: str, asked: Iterable[Globs] = ()) -> Outline:
    """Read what planning needs of a release, in a fraction of the memory that its manifest would take.

    Raises:
        UnknownRelease, pydantic.ValidationError, CloudError: as ``manifest``.
    """
    return await asyncio.to_thread(outlined, await _stored(objects, component, version), asked)


async def versions(objects: ObjectsPort, component: str) -> Sequence[str]:
    """Return all published versions of a component, oldest number first (9 before 10).

    Raises:
        CloudError: S3 did not answer.
    """
    prefix, suffix = f"releases/{component}/", "/manifest.json"
    keys = await objects.keys(prefix)
    return sorted((key[len(prefix) : -len(suffix)] for key in keys if key.endswith(suffix)), key=_by_number)


async def objects_of(objects: ObjectsPort, component: str, version: str) -> set[str]:
    """Return the keys of all objects that a release needs.

    Raises:
        UnknownRelease, pydantic.ValidationError, CloudError: as ``manifest``.
    """
    release = await outline(objects, component, version)
    return {manifest_key(component, version), *(pack_key(component, pack) for pack in release.packs)}


async def content(objects: ObjectsPort, release: Outline, expires_s: int) -> Content:
    """Return presigned URLs of a release's manifest and packs, for the agent.

    Raises:
        CloudError: the URLs could not be made.
    """
    component = release.component
    packs = {pack: await objects.presign_get(pack_key(component, pack), expires_s) for pack in release.packs}
    url = await objects.presign_get(manifest_key(component, release.version), expires_s)
    return Content(manifest_url=url, manifest_sha256=release.digest, packs=packs)


async def _stored(objects: ObjectsPort, component: str, version: str) -> bytes:
    stored = await objects.get(manifest_key(component, version))
    if stored is None:
        raise UnknownRelease(f"there is no release {version} of {component}")
    return stored.body


@dataclass(frozen=True)
class _Known:
    """A content that is stored: its blocks, and where in the first it begins."""

    blocks: tuple[Block, ...]
    offset: int


async def _known(objects: ObjectsPort, component: str) -> dict[str, _Known]:
    """Return the contents of the newest releases, by digest; of several copies, the newest release's."""
    known: dict[str, _Known] = {}
    for version in (await versions(objects, component))[-LOOK_BACK:]:
        release = (await manifest(objects, component, version)).manifest
        blocks = [Block(release.packs[number].sha256, *rest) for number, *rest in release.blocks]
        for entry in release.entries:
            if entry.blocks:
                known[entry.sha256] = _Known(tuple(blocks[number] for number in entry.blocks), entry.offset)
    return known


async def _upload(objects: ObjectsPort, component: str, packing: Packing) -> list[Block]:
    """Upload the packs, each while the next is made; return the blocks of all in their order."""
    blocks: list[Block] = []
    made = packing.packs()
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


class _Layout:
    """Numbers packs and blocks for a manifest."""

    def __init__(self, new: list[Block], places: dict[str, Place], known: dict[str, _Known]) -> None:
        self._new = new
        self._places = places
        self._known = known
        self._numbers: dict[Block, int] = {}

    def manifest(self, component: str, version: str, sources: list[Source], digests: dict[str, str]) -> Manifest:
        entries = tuple(self._entry(source, digests.get(source.path, "")) for source in sources)
        ends: dict[str, int] = {}
        for block in self._numbers:
            ends[block.pack] = max(ends.get(block.pack, 0), block.offset + block.length)
        number = {digest: index for index, digest in enumerate(ends)}
        return Manifest(
            form=1,
            component=component,
            version=version,
            entries=entries,
            packs=tuple(PackInfo(sha256=digest, length=length) for digest, length in ends.items()),
            blocks=tuple((number[pack], *rest) for pack, *rest in self._numbers),
        )

    def _entry(self, source: Source, digest: str) -> Entry:
        place = self._known_or_new(digest) if source.size else _Known((), 0)
        return Entry(
            path=source.path,
            kind=source.kind,
            mode=source.mode,
            size=source.size,
            sha256=digest,
            target=source.target,
            blocks=tuple(self._numbers.setdefault(block, len(self._numbers)) for block in place.blocks),
            offset=place.offset,
        )

    def _known_or_new(self, digest: str) -> _Known:
        if digest in self._known:
            return self._known[digest]
        place = self._places[digest]
        return _Known(tuple(self._new[number] for number in place.blocks), place.offset)


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


def _described(entries: Iterable[Entry]) -> list[tuple[str, str, int, str, str]]:
    return [(entry.path, entry.kind, entry.mode, entry.sha256, entry.target) for entry in entries]


def _by_number(version: str) -> list[tuple[int, str]]:
    """Order text by its numbers: every part compares as (number, text)."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]
