"""Reading a directory that is to be released, and packing its contents.

Files are cut into pieces of at most ``BLOCK_BYTES``; small files share a block. A block is one zlib stream: what the
agent can read with the standard library, in bounded memory. Blocks stand one after the other in packs. Of a large file
that was edited since the release before only what is new is packed; the rest is stretches of blocks that are stored.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zlib
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from shared.recipes import Text, TooMuch, copies

BLOCK_BYTES = 256 * 1024
"""Large enough to compress well and be few, small enough that fetching one small file costs little."""

PACK_BYTES = 32 * 1024 * 1024
"""A pack is closed when it reaches this: two of them are held in memory, and several workers can share a release."""

MATCHED_BYTES = 1024 * 1024 * 1024
"""Larger files are packed whole when they change: what is matched is held in memory."""

_DIGEST_BYTES = 8 * 1024 * 1024
"""Pieces of this are read for a digest: after each, a thread may have to wait for its turn."""

_LEAST_COPY = 4096
"""A shorter stretch that is stored already is stored again: referring to it costs as much."""

_MOST_PARTS_A_BLOCK = 4
"""A file that edits have cut up finer than this is packed whole, so that it can be fetched in few requests."""

_LEVEL = 1
"""Of zlib: 300 MB of code in seconds; higher levels save little of it."""

_WORKERS = os.cpu_count() or 1

Progress = Callable[[int, int], None]
"""Told (bytes read so far, bytes in all)."""


class SourceError(Exception):
    """The directory cannot be released as it is; the message says which path and why."""


class Block(NamedTuple):
    """A zlib stream in a pack: where it is (bytes), and how long the text in it is."""

    pack: str
    offset: int
    length: int
    size: int


@dataclass(frozen=True)
class Source:
    """One path of the directory. ``path`` is as in the manifest, ``at`` is where it is on this machine."""

    path: str
    kind: Literal["file", "dir", "link"]
    mode: int
    at: bytes
    size: int = 0
    changed_ns: int = 0
    target: str = ""


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


def encode_name(name: bytes) -> str:
    """Return a path as text that any JSON can carry: ``%`` and what is not UTF-8 appear as ``%XX``."""
    text = os.fsdecode(name) if isinstance(name, bytes) else name
    return re.sub("[%\udc80-\udcff]", lambda found: f"%{os.fsencode(found[0])[0]:02X}", text)


def read_tree(directory: Path) -> list[Source]:
    """Return everything in the directory, and itself as ``.``, sorted by path.

    Raises:
        SourceError: it is not a directory, or has something in it that is no file, directory or link.
        OSError: something in it cannot be read.
    """
    root = os.fsencode(directory)
    if not os.path.isdir(root):
        raise SourceError(f"{directory} is not a directory")
    top = Source(".", "dir", stat.S_IMODE(os.stat(root).st_mode), root)
    return sorted([top, *_below(root, b"")], key=lambda source: source.path)


def _below(directory: bytes, prefix: bytes) -> Iterator[Source]:
    with os.scandir(directory) as entries:
        for entry in entries:
            source = _source(entry, prefix + entry.name)
            yield source
            if source.kind == "dir":
                yield from _below(entry.path, prefix + entry.name + b"/")


def _source(entry: os.DirEntry[bytes], path: bytes) -> Source:
    name = encode_name(path)
    status = entry.stat(follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return Source(name, "file", mode, entry.path, status.st_size, status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return Source(name, "dir", mode, entry.path)
    if stat.S_ISLNK(status.st_mode):
        return Source(name, "link", 0o777, entry.path, target=encode_name(os.readlink(entry.path)))
    raise SourceError(f"{name}: neither a file, a directory nor a link")


@dataclass
class Packing:
    """Packs what is not known of the sources: ``digest_large``, ``small`` (these also at once), and then ``large``.

    Run to their ends, they leave ``digests``, and ``places`` of contents that are new: these count the blocks of all
    packs in the order they were yielded.
    """

    sources: list[Source]
    progress: Progress | None = None
    digests: dict[str, str] = field(default_factory=dict)
    """Of each file, by path: the SHA-256 of its content."""
    places: dict[str, Place] = field(default_factory=dict)
    _known: Container[str] = frozenset()
    _done: int = 0
    _texts: int = 0
    _open: bytearray = field(default_factory=bytearray)
    _waiting: list[_Compressed] = field(default_factory=list)

    def digest_large(self) -> None:
        """Read the large files. Threads do nearly all of that without holding others up.

        Raises:
            SourceError, OSError: as ``small``.
        """
        large = self._files(large=True)
        with ThreadPoolExecutor(_WORKERS) as pool:
            digests = pool.map(lambda file: _digest(_pieces(file, _DIGEST_BYTES)), large)
            self.digests.update(zip((file.path for file in large), digests, strict=True))

    def new_large(self, known: Container[str]) -> list[Source]:
        """Return the large files whose content is not known; call ``digest_large`` before."""
        return [file for file in self._files(large=True) if self.digests[file.path] not in known]

    def small(self, known: Container[str]) -> Iterator[Pack]:
        """Read the small files, and yield the packs that become full.

        Raises:
            SourceError: a file changed while it was read.
            OSError: a file cannot be read.
        """
        self._known = known
        yield from self._full(self._small_blocks())

    def large(self, earlier: Mapping[str, Earlier]) -> Iterator[Pack]:
        """Read the large files that are new, and yield the packs; of one that ``earlier`` has, only what is new.

        Raises:
            SourceError, OSError: as ``small``.
        """
        yield from self._full(self._large_blocks(earlier))
        if self._waiting:
            yield _pack(self._waiting)

    def _full(self, texts: Iterator[bytes]) -> Iterator[Pack]:
        with ThreadPoolExecutor(_WORKERS) as pool:
            for compressed in _in_order(pool, texts):
                self._waiting.append(compressed)
                if sum(len(each.body) for each in self._waiting) >= PACK_BYTES:
                    yield _pack(self._waiting)
                    self._waiting = []

    def _files(self, *, large: bool) -> list[Source]:
        files = (source for source in self.sources if source.kind == "file")
        return [file for file in files if (file.size > BLOCK_BYTES) == large]

    def _small_blocks(self) -> Iterator[bytes]:
        for file in self._files(large=False):
            yield from self._small(file)
            self._tell(file)

    def _large_blocks(self, earlier: Mapping[str, Earlier]) -> Iterator[bytes]:
        for file in self._files(large=True):
            if self._is_new(self.digests[file.path]):
                yield from self._large(file, earlier.get(file.path))
            self._tell(file)
        yield from self._close()

    def _tell(self, file: Source) -> None:
        self._done += file.size
        if self.progress is not None:
            self.progress(self._done, self._total)

    @cached_property
    def _total(self) -> int:
        return sum(source.size for source in self.sources)

    def _is_new(self, digest: str) -> bool:
        return digest not in self._known and digest not in self.places

    def _small(self, file: Source) -> Iterator[bytes]:
        text = read_source(file)
        digest = self.digests[file.path] = hashlib.sha256(text).hexdigest()
        if text and self._is_new(digest):
            part, full = self._put(text)
            yield from full
            self.places[digest] = (part,)

    def _large(self, file: Source, earlier: Earlier | None) -> Iterator[bytes]:
        if earlier is not None and file.size <= MATCHED_BYTES:
            text = read_source(file)
            place = edited_place(earlier, text)
            if place is not None:
                yield from self._edited(file, text, place)
                return
        yield from self._close()
        first, read = self._texts, hashlib.sha256()
        sizes = []
        for piece in _pieces(file):
            read.update(piece)
            self._texts += 1
            sizes.append(len(piece))
            yield piece
        self._placed(file, read.hexdigest(), tuple(Part(first + n, 0, size) for n, size in enumerate(sizes)))

    def _edited(self, file: Source, text: bytes, place: Sequence[Part | Fresh]) -> Iterator[bytes]:
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
        self._placed(file, hashlib.sha256(text).hexdigest(), tuple(parts))

    def _placed(self, file: Source, digest: str, place: Place) -> None:
        if digest != self.digests[file.path]:
            raise _changed(file)
        self.places[digest] = place

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


def read_source(file: Source) -> bytes:
    """Return a file's content.

    Raises:
        SourceError: the file changed since it was listed.
        OSError: it cannot be read.
    """
    return b"".join(_pieces(file))


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


def _pieces(file: Source, length: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the file's content in pieces; raise SourceError when it is not as it was when listed."""
    read = 0
    handle = os.open(file.at, os.O_RDONLY | os.O_NOFOLLOW)  # A file object costs a quarter more, for each small file.
    try:
        while read < file.size and (piece := os.read(handle, min(length, file.size - read))):
            read += len(piece)
            yield piece
        status = os.fstat(handle)
    finally:
        os.close(handle)
    if (read, status.st_size, status.st_mtime_ns) != (file.size, file.size, file.changed_ns):
        raise _changed(file)


def _digest(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _changed(file: Source) -> SourceError:
    return SourceError(f"{file.path}: changed while it was read; publish from a directory that nobody writes to")
