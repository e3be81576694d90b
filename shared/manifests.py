"""What a release is as it is stored: a manifest of its entries, and the blocks and packs that have their contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shared.ids import ComponentName, Version
from shared.packing import Block, Part


class Stored(BaseModel):
    """What is stored is read as it was written, or refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(Stored):
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
    """... from this byte in the first, for ``size`` bytes. Or else:"""
    parts: tuple[tuple[int, int, int], ...] = ()
    """Its content is these stretches one after the other, each (number of a block, offset in its text, length)."""


class PackInfo(Stored):
    """A pack: its SHA-256, and its length in bytes as far as this manifest knows it."""

    sha256: str
    length: int


class Manifest(Stored):
    """Everything about a release. Blocks are (number of the pack, offset, length, size of the text)."""

    form: Literal[1]
    component: ComponentName
    version: Version
    entries: tuple[Entry, ...]
    packs: tuple[PackInfo, ...] = ()
    blocks: tuple[tuple[int, int, int, int], ...] = ()

    def same_tree(self, other: Manifest) -> bool:
        """Whether both describe the same directory, however it is packed."""
        return [described(entry) for entry in self.entries] == [described(entry) for entry in other.entries]

    def files(self) -> Iterator[Entry]:
        """Yield the files."""
        return (entry for entry in self.entries if entry.kind == "file")

    @cached_property
    def _named(self) -> tuple[Block, ...]:
        packs = [pack.sha256 for pack in self.packs]
        return tuple(Block(packs[number], *rest) for number, *rest in self.blocks)

    def block(self, number: int) -> Block:
        """Return a block of the manifest's list."""
        return self._named[number]

    def place(self, entry: Entry) -> tuple[Part, ...]:
        """Return where a file's content is."""
        if entry.parts:
            return tuple(Part(self.block(number), start, length) for number, start, length in entry.parts)
        found, left, start = [], entry.size, entry.offset
        for number in entry.blocks:
            block = self.block(number)
            length = min(left, block.size - start)
            found.append(Part(block, start, length))
            left, start = left - length, 0
        return tuple(found)


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


def described(entry: Entry) -> tuple[str, str, int, str, str]:
    """Return what an entry is on disk, however it is packed."""
    return (entry.path, entry.kind, entry.mode, entry.sha256, entry.target)


class Numbering:
    """Numbers the blocks and packs that entries refer to."""

    def __init__(self) -> None:
        self._numbers: dict[Block, int] = {}

    def refer(self, place: Iterable[Part]) -> dict[str, Any]:
        """Return how an entry refers to a content at a place whose blocks are all stored: some of its fields."""
        parts = [(part.stored(), part.start, part.length) for part in place]
        numbers = tuple(self._numbers.setdefault(block, len(self._numbers)) for block, _, _ in parts)
        if _without_gaps(parts):
            return {"blocks": numbers, "offset": parts[0][1] if parts else 0, "parts": ()}
        stretches = tuple((self._numbers[block], start, length) for block, start, length in parts)
        return {"blocks": (), "offset": 0, "parts": stretches}

    def packs(self) -> tuple[PackInfo, ...]:
        """Return the packs in the order of their numbers."""
        return tuple(PackInfo(sha256=pack, length=end) for pack, end in self._ends().items())

    def blocks(self) -> tuple[tuple[int, int, int, int], ...]:
        """Return the blocks in the order of their numbers, as ``Manifest`` has them."""
        number = {pack: index for index, pack in enumerate(self._ends())}
        return tuple((number[block.pack], block.offset, block.length, block.size) for block in self._numbers)

    def _ends(self) -> dict[str, int]:
        ends: dict[str, int] = {}
        for block in self._numbers:
            ends[block.pack] = max(ends.get(block.pack, 0), block.offset + block.length)
        return ends


def _without_gaps(parts: list[tuple[Block, int, int]]) -> bool:
    """Whether parts are all of their blocks' text, but for the beginning of the first and the end of the last."""
    if len(parts) < 2:  # Most files by far, and the rest takes a tenth of publishing for them.
        return True
    starts = all(start == 0 for _, start, _ in parts[1:])
    return starts and all(start + length == block.size for block, start, length in parts[:-1])
