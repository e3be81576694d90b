"""Publishes one version into a folder that stands for S3: ``python -m bench.publishing STORE URL VERSION``.

Prints when it could be seen, in the seconds of ``time.perf_counter()``, which all processes of this machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from shared import releases
from shared.cloud import Conflict, StoredObject


class Folder:
    """S3 as a folder: what publishing needs, for one writer."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.published_at = 0.0
        """When the last manifest was written, in time.perf_counter()'s seconds."""

    async def get(self, key: str) -> StoredObject | None:
        """Return the file, or None."""
        path = self.root / key
        if not path.exists():
            return None
        return StoredObject(path.read_bytes(), "", datetime.fromtimestamp(path.stat().st_mtime, UTC))

    async def put(self, key: str, body: bytes, *, match: str | None = None, absent: bool = False) -> str:
        """Write the file; Conflict where it must not be there and is."""
        path = self.root / key
        if match is not None or (absent and path.exists()):
            raise Conflict(f"{key} is there already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        if path.name == "manifest.json":
            self.published_at = time.perf_counter()
        return ""

    async def delete(self, key: str) -> None:
        """Not needed."""
        raise NotImplementedError

    async def etags(self, prefix: str) -> Mapping[str, str]:
        """Return the keys with this prefix, in order; nobody asks for the tags."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return {key: "" for key in sorted(found) if key.startswith(prefix)}

    async def folders(self, prefix: str) -> Sequence[str]:
        """Not needed."""
        raise NotImplementedError

    async def presign_get(self, key: str, expires_s: int) -> str:
        """Return where the file is served."""
        return f"{self.url}/{key}"

    async def presign_put(self, key: str, expires_s: int) -> str:
        """Not needed."""
        raise NotImplementedError

    def stored(self) -> int:
        """Return the bytes of all files."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def main() -> None:
    """Publish."""
    parser = argparse.ArgumentParser(description="Publishes one version into a folder that stands for S3.")
    parser.add_argument("store", type=Path)
    parser.add_argument("url", help="where the folder is served")
    parser.add_argument("version", type=Path, help="the tree; its name is the version's")
    options = parser.parse_args()
    store = Folder(options.store, options.url)
    asyncio.run(releases.publish(store, "app", options.version.name, options.version))
    print(store.published_at)


if __name__ == "__main__":
    main()
