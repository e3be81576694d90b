"""The tree that moving code is measured on: ``python -m bench.codetree OUT --scale 1`` writes OUT/v1, v2 and v3.

Full size is about 40,000 files and 1.7 GB: sources, small files of packages, binaries, and three large binaries, of
which two are edited inside from version to version (overwritten in places, and something put in and taken out, so that
all after it moves). The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

SOURCES, PACKAGES, BINARIES = 22_000, 17_800, 300
LARGE_MB = (50, 60, 180)
CHANGED, ADDED, REMOVED = 0.015, 0.005, 0.005
"""Of the files, from one version to the next."""

_FOLDERS = 40
"""Files of one kind in a folder."""

_SEGMENT = 64 * 1024
_WORDS = (
    "account",
    "batch",
    "cache",
    "delta",
    "entry",
    "field",
    "graph",
    "handle",
    "index",
    "job",
    "key",
    "ledger",
    "model",
    "node",
    "order",
    "page",
    "query",
    "row",
)


def write_versions(out: Path, scale: float = 1.0, seed: int = 1, unchanged: float = 1.0) -> list[Path]:
    """Write three versions and return their folders; ``unchanged`` is a factor for the files that never change."""
    names = [out / f"v{number}" for number in (1, 2, 3)]
    _write_first(names[0], scale, seed, unchanged)
    for number, (old, new) in enumerate(pairwise(names), start=2):
        _write_next(old, new, scale, random.Random(f"{seed} {number}"))
    return names


def _write_first(root: Path, scale: float, seed: int, unchanged: float) -> None:
    folders = [
        (kind, number)
        for kind, count in (("src", SOURCES), ("packages", PACKAGES), ("bin", BINARIES))
        for number in range(-(-round(count * scale * unchanged) // _FOLDERS))
    ]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(_write_folder, root, seed, scale), folders, chunksize=20))
    (root / "large").mkdir()
    for megabytes in LARGE_MB:
        stream = random.Random(f"{seed} large {megabytes}")
        (root / f"large/{megabytes}.bin").write_bytes(_binary(stream, round(megabytes * 1_000_000 * scale)))
    (root / "current").symlink_to("src/0000")
    (root / "empty").mkdir()


def _write_folder(root: Path, seed: int, scale: float, which: tuple[str, int]) -> None:
    kind, number = which
    stream = random.Random(f"{seed} {kind} {number}")
    folder = root / kind / f"{number:04}"
    folder.mkdir(parents=True)
    for each in range(_FOLDERS):
        if kind == "src":
            (folder / f"module_{each:02}.py").write_text(_text(stream, stream.randint(60, 360)))
        elif kind == "packages":
            (folder / f"part_{each:02}.js").write_text(_text(stream, stream.randint(10, 120)))
        elif each < BINARIES * scale - number * _FOLDERS:
            path = folder / f"tool_{each:02}"
            path.write_bytes(_binary(stream, round(700_000 * (9 / 0.7) ** stream.random() * 1.05)))
            path.chmod(0o755)


def _text(stream: random.Random, lines: int) -> str:
    return "".join(_lines(stream, lines))


def _lines(stream: random.Random, count: int) -> Iterator[str]:
    for _ in range(count):
        one, two, three = stream.choices(_WORDS, k=3)
        yield f"    {one}_{two} = self.{three}({stream.randrange(100_000)}, {two!r})  # {one} of {three}\n"


def _binary(stream: random.Random, size: int) -> bytes:
    """About half of it cannot be compressed."""
    parts = []
    for _ in range(-(-size // _SEGMENT)):
        if stream.random() < 0.5:
            parts.append(stream.randbytes(_SEGMENT))
        else:
            parts.append((stream.randbytes(200) + bytes(56)) * (_SEGMENT // 256))
    return b"".join(parts)[:size]


def _write_next(old: Path, new: Path, scale: float, stream: random.Random) -> None:
    """Write the next version: hard links to the version before for what is the same."""
    shutil.copytree(old, new, symlinks=True, copy_function=os.link)
    total = round((SOURCES + PACKAGES + BINARIES) * scale)
    files = sorted(_first(new / "src", SOURCES * scale) + _first(new / "packages", PACKAGES * scale))
    picked = stream.sample(files, round(total * (CHANGED + REMOVED)))
    for path in picked[: round(total * REMOVED)]:
        path.unlink()
    for path in picked[round(total * REMOVED) :]:
        _replace(path, _edited(stream, path.read_text()).encode())
    for number in range(round(total * ADDED)):
        folder = stream.choice(picked).parent
        (folder / f"added_{new.name}_{number:03}.py").write_text(_text(stream, stream.randint(5, 60)))
    for megabytes in LARGE_MB[1:]:
        path = new / f"large/{megabytes}.bin"
        _replace(path, _edited_binary(stream, path.read_bytes()))


def _first(root: Path, count: float) -> list[Path]:
    """Return the files of the folders that there are at any factor of unchanged files."""
    folders = sorted(root.iterdir())[: -(-round(count) // _FOLDERS)]
    return [path for folder in folders for path in folder.iterdir()]


def _edited(stream: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    for _ in range(stream.randint(1, 4)):
        at = stream.randrange(len(lines) + 1)
        lines[at : at + stream.randint(0, 4)] = _lines(stream, stream.randint(1, 5))
    return "".join(lines)


def _edited_binary(stream: random.Random, content: bytes) -> bytes:
    text = bytearray(content)
    for _ in range(30):
        at = stream.randrange(len(text))
        text[at : at + 2_000] = stream.randbytes(2_000)
    at = stream.randrange(len(text))
    text[at:at] = stream.randbytes(5_000)
    at = stream.randrange(len(text))
    del text[at : at + 3_000]
    return bytes(text)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def main() -> None:
    """Write the tree."""
    parser = argparse.ArgumentParser(description="Writes the tree that moving code is measured on.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write_versions(options.out, options.scale, options.seed)


if __name__ == "__main__":
    main()
