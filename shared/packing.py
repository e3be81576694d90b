"""Packing the contents of a directory that is to be released.

Files are cut into pieces of at most ``BLOCK_BYTES``; small files share a block. A block is one zlib stream: what the
agent can read with the standard library, in bounded memory. Blocks stand one after the other in packs. Of a large file
that was edited since the release before only what is new is packed; the rest is stretches of blocks that are stored.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import NamedTuple

from shared.recipes import Text, TooMuch, copies
from shared.sources import BLOCK_BYTES, Source, changed, digest, digests, pieces, read_source

PACK_BYTES = 32 * 1024 * 1024
"""A pack is closed when it reaches this: two of them are held in memory, and several workers can share a release."""

MATCHED_BYTES = 1024 * 1024 * 1024
"""Larger files are packed whole when they change: what is matched is held in memory."""

_LEAST_COPY = 4096
"""A shorter stretch that is stored already is stored again: referring to it costs as much."""

_MOST_PARTS_A_BLOCK = 4
"""A file that edits have cut up finer than this is packed whole, so that it can be fetched in few requests."""

_LEVEL = 1
"""Of zlib: 300 MB of code in seconds; higher levels save little of it."""

_WORKERS = os.cpu_count() or 1

Progress = Callable[[int, int], None]
"""Told (bytes done so far, bytes in all): half of each byte is done when its digest is known."""


class Block(NamedTuple):
    """A zlib stream in a pack: where it is (bytes), and how long the text in it is."""

    pack: str
    offset: int
    length: int
    size: int


@dataclass(frozen=True)
class Pack:
    """Blocks ready to be stored; ``blocks`` lie in it from its beginning, without gaps."""

    digest: str
    body: bytes
    blocks: tuple[Block, ...]


class Part(NamedTuple):
    """A stretch of the text of a block: of one that is stored, or of the block with this number among the new ones."""

    block: Block | int
    start: int
    length: int

    def stored(self) -> Block:
        """Return the block, which is stored by now."""
        if isinstance(self.block, int):
            raise TypeError(f"block {self.block} is not stored yet")
        return self.block


Place = tuple[Part, ...]
"""Where a content is: these parts one after the other."""


class Fresh(NamedTuple):
    """A stretch of a content that is not stored."""

    start: int
    length: int


class Earlier(NamedTuple):
    """What a large file was in the release before, and where that is stored."""

    text: Text
    place: Place


@dataclass
class Packing:
    """Packs what is not known of the sources: ``digest_small``, ``digest_large`` (also at once), and then ``packs``."""

    sources: list[Source]
    progress: Progress | None = None
    digests: dict[str, str] = field(default_factory=dict)
    """Of each file, by path: the SHA-256 of its content."""
    _places: dict[str, Place] = field(default_factory=dict)
    """Of contents that are new. The blocks of all packs are counted in the order they were yielded."""
    _done: int = 0
    _texts: int = 0
    _open: bytearray = field(default_factory=bytearray)
    _telling: Lock = field(default_factory=Lock)

    def digest_small(self) -> None:
        """Read the small files: a process beside does it.

        Raises:
            SourceError: a file changed while it was read.
            OSError: a file cannot be read.
        """
        small = [file for file in self._files() if not file.is_large]
        for file, found in zip(small, digests(small), strict=True):
            self._digested(file, found or digest(file))

    def digest_large(self) -> None:
        """Read the large files. Threads do nearly all of that without holding others up.

        Raises:
            SourceError, OSError: as ``digest_small``.
        """
        large = [file for file in self._files() if file.is_large]
        with ThreadPoolExecutor(_WORKERS) as pool:
            for file, found in zip(large, pool.map(digest, large), strict=True):
                self._digested(file, found)

    def _digested(self, file: Source, found: str) -> None:
        self.digests[file.path] = found
        self._tell(file.size)

    def new(self, known: Container[str]) -> list[Source]:
        """Return the files whose content is not known; call it when all are read."""
        return [file for file in self._files() if file.size and self.digests[file.path] not in known]

    def packs(self, new: Sequence[Source], earlier: Mapping[str, Earlier]) -> Iterator[Pack]:
        """Read files that are new, and yield the packs. Of a large one that ``earlier`` has, only what is new.

        Raises:
            SourceError, OSError: as ``digest_small``.
        """
        self._tell(self._total - sum(file.size for file in new))
        waiting: list[_Compressed] = []
        with ThreadPoolExecutor(_WORKERS) as pool:
            for compressed in _in_order(pool, self._blocks(new, earlier, pool)):
                waiting.append(compressed)
                if sum(len(each.body) for each in waiting) >= PACK_BYTES:
                    yield _pack(waiting)
                    waiting = []
        if waiting:
            yield _pack(waiting)

    def stored(self, blocks: Sequence[Block]) -> dict[str, Place]:
        """Return where the new contents are, now that these are the blocks of all packs."""

        def stored(part: Part) -> Part:
            return part._replace(block=blocks[part.block]) if isinstance(part.block, int) else part

        return {digest: tuple(map(stored, place)) for digest, place in self._places.items()}

    def _files(self) -> Iterator[Source]:
        return (source for source in self.sources if source.kind == "file")

    def _blocks(
        self, new: Sequence[Source], earlier: Mapping[str, Earlier], pool: ThreadPoolExecutor
    ) -> Iterator[bytes]:
        """Yield the texts of blocks. Small files come first, so that they share theirs."""
        for file in sorted(new, key=lambda file: file.is_large):
            if self.digests[file.path] not in self._places:
                yield from self._large(file, earlier.get(file.path), pool) if file.is_large else self._small(file)
            self._tell(file.size)
        yield from self._close()

    def _small(self, file: Source) -> Iterator[bytes]:
        text = read_source(file)
        part, full = self._put(text)
        yield from full
        self._placed(file, hashlib.sha256(text).hexdigest(), (part,))

    def _tell(self, size: int) -> None:
        with self._telling:
            self._done += size
            if self.progress is not None:
                self.progress(self._done // 2, self._total)

    @cached_property
    def _total(self) -> int:
        return sum(source.size for source in self.sources)

    def _large(self, file: Source, earlier: Earlier | None, pool: ThreadPoolExecutor) -> Iterator[bytes]:
        if earlier is not None and file.size <= MATCHED_BYTES:
            text = read_source(file)
            hashing = pool.submit(hashlib.sha256, text)  # Meanwhile, for it takes about as long.
            place = edited_place(earlier, text)
            if place is not None:
                yield from self._edited(file, text, hashing.result().hexdigest(), place)
                return
        yield from self._close()
        first, read = self._texts, hashlib.sha256()
        sizes = []
        for piece in pieces(file, BLOCK_BYTES):
            read.update(piece)
            self._texts += 1
            sizes.append(len(piece))
            yield piece
        self._placed(file, read.hexdigest(), tuple(Part(first + n, 0, size) for n, size in enumerate(sizes)))

    def _edited(self, file: Source, text: bytes, read: str, place: Sequence[Part | Fresh]) -> Iterator[bytes]:
        """Pack what is new of an edited file."""
        parts: list[Part] = []
        for each in place:
            if isinstance(each, Part):
                parts.append(each)
                continue
            for at in range(each.start, each.start + each.length, BLOCK_BYTES):
                part, full = self._put(text[at : min(at + BLOCK_BYTES, each.start + each.length)])
                yield from full
                parts.append(part)
        self._placed(file, read, tuple(parts))

    def _placed(self, file: Source, found: str, place: Place) -> None:
        if found != self.digests[file.path]:
            raise changed(file)
        self._places[found] = place

    def _put(self, text: bytes) -> tuple[Part, list[bytes]]:
        """Add a text to the open block; return where it is, and the block that was closed for it."""
        full = list(self._close()) if len(self._open) + len(text) > BLOCK_BYTES else []
        part = Part(self._texts, len(self._open), len(text))
        self._open += text
        return part, full

    def _close(self) -> Iterator[bytes]:
        if self._open:
            text, self._open = bytes(self._open), bytearray()
            self._texts += 1
            yield text


def edited_place(earlier: Earlier, new: bytes) -> list[Part | Fresh] | None:
    """Return what makes up a new content: stored parts, and stretches of itself that are new. Pure.

    None when most of it is new, or when it would be of very many parts.
    """
    try:
        same = copies(earlier.text, new, len(new) // 2)
    except TooMuch:
        return None
    found: list[Part | Fresh] = []
    done = 0
    for copy in same:
        if copy.length < _LEAST_COPY:
            continue
        if copy.start > done:
            found.append(Fresh(done, copy.start - done))
        found += _stretch(earlier.place, copy.source, copy.length)
        done = copy.start + copy.length
    if done < len(new):
        found.append(Fresh(done, len(new) - done))
    return found if len(found) <= _MOST_PARTS_A_BLOCK * (len(new) // BLOCK_BYTES + 1) else None


def _stretch(place: Place, start: int, length: int) -> Iterator[Part]:
    """Yield the parts that have a stretch of a stored content."""
    position = 0
    for part in place:
        first, last = max(start, position), min(start + length, position + part.length)
        if first < last:
            yield Part(part.block, part.start + first - position, last - first)
        position += part.length


class _Compressed(NamedTuple):
    body: bytes
    size: int


def _pack(compressed: list[_Compressed]) -> Pack:
    body = b"".join(each.body for each in compressed)
    digest = hashlib.sha256(body).hexdigest()
    blocks, offset = [], 0
    for each in compressed:
        blocks.append(Block(digest, offset, len(each.body), each.size))
        offset += len(each.body)
    return Pack(digest, body, tuple(blocks))


def _compress(text: bytes) -> _Compressed:
    return _Compressed(zlib.compress(text, _LEVEL), len(text))


def _in_order(pool: ThreadPoolExecutor, texts: Iterator[bytes]) -> Iterator[_Compressed]:
    """Compress in threads, a few ahead, and yield in the order of ``texts``."""
    ahead: deque[Future[_Compressed]] = deque()
    for text in texts:
        ahead.append(pool.submit(_compress, text))
        if len(ahead) > 4 * _WORKERS:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
