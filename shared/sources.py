"""Reading a directory that is to be released.

Standard library alone, and nothing of ours: this module is also the program that ``digests`` starts.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, NamedTuple

BLOCK_BYTES = 256 * 1024
"""Contents are stored in blocks of at most this: large enough to compress well and be few, small enough that fetching
one small file costs little."""

_DIGEST_BYTES = 8 * 1024 * 1024
"""Pieces of this are read for a digest: after each, a thread may have to wait for its turn."""

_WORTH_A_PROCESS = 2000
"""Fewer files are read in the time that a process takes to start."""


class SourceError(Exception):
    """The directory cannot be released as it is; the message says which path and why."""


class Source(NamedTuple):
    """One path of the directory. ``path`` is as in the manifest, ``at`` is where it is on this machine."""

    path: str
    kind: Literal["file", "dir", "link"]
    mode: int
    at: bytes
    size: int = 0
    changed_ns: int = 0
    target: str = ""

    @property
    def is_large(self) -> bool:
        """Whether it has blocks of its own."""
        return self.size > BLOCK_BYTES


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


def read_source(file: Source) -> bytes:
    """Return a file's content.

    Raises:
        SourceError: the file changed since it was listed.
        OSError: it cannot be read.
    """
    return b"".join(pieces(file, file.size))


def digest(file: Source) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        SourceError, OSError: as ``read_source``.
    """
    found = hashlib.sha256()
    for piece in pieces(file, _DIGEST_BYTES):
        found.update(piece)
    return found.hexdigest()


def pieces(file: Source, length: int) -> Iterator[bytes]:
    """Yield a file's content in pieces of so many bytes.

    Raises:
        SourceError, OSError: as ``read_source``.
    """
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
        raise changed(file)


def changed(file: Source) -> SourceError:
    """Return the error that says that a file is not as it was when it was listed."""
    return SourceError(f"{file.path}: changed while it was read; publish from a directory that nobody writes to")


def digests(files: Sequence[Source]) -> Iterator[str]:
    """Yield the SHA-256 of each file, found out by a process beside this one.

    Empty where that could not, for whatever reason, and where the files are too few for it.
    """
    if len(files) < _WORTH_A_PROCESS:
        yield from repeat("", len(files))
        return
    with TemporaryFile() as listed:
        listed.writelines(b"%d %d %s\0" % (file.size, file.changed_ns, file.at) for file in files)
        listed.seek(0)
        with subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=listed, stdout=subprocess.PIPE) as beside:
            assert beside.stdout is not None
            try:
                for _ in files:
                    line = beside.stdout.readline()
                    yield line[:64].decode() if len(line) == 65 else ""
            finally:
                beside.kill()


def _main() -> None:
    """Print the SHA-256 of each file on standard input, an empty line where there is none."""
    for line in sys.stdin.buffer.read().split(b"\0")[:-1]:
        size, changed_ns, at = line.split(b" ", 2)
        try:
            print(digest(Source("", "file", 0, at, int(size), int(changed_ns))))
        except (OSError, SourceError):
            print()


if __name__ == "__main__":
    _main()
