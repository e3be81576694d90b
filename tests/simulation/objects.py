"""S3: one bucket, strongly consistent, with conditional writes."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from shared.cloud import Conflict, Refused, StoredObject

Told = Callable[[str, str], None]
"""Hears of each key that was written or removed, and S3's name for that."""


class Bucket:
    """Objects by key."""

    def __init__(self, told: Told, now: Callable[[], datetime]) -> None:
        self._told = told
        self._now = now
        self._objects: dict[str, StoredObject] = {}
        self._keys: list[str] = []

    def get(self, key: str) -> StoredObject | None:
        """Return the object, or None."""
        return self._objects.get(key)

    def put(self, key: str, body: bytes, match: str | None = None, absent: bool = False) -> str:
        """Write; Conflict when the condition does not hold. The entity tag is the body's MD5, as S3's is."""
        old = self._objects.get(key)
        if (absent and old is not None) or (match is not None and (old is None or old.etag != match)):
            raise Conflict(f"{key}: the condition does not hold")
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        self._objects[key] = StoredObject(body, etag, self._now().replace(microsecond=0))
        if old is None:
            insort(self._keys, key)
        self._told(key, "ObjectCreated:Put")
        return etag

    def delete(self, key: str) -> None:
        """Delete; nothing happens where nothing is."""
        if self._objects.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
            self._told(key, "ObjectRemoved:Delete")

    def keys(self, prefix: str) -> list[str]:
        """Return the keys with this prefix, in order."""
        begin = bisect_left(self._keys, prefix)
        end = bisect_left(self._keys, prefix + "\U0010ffff", lo=begin)
        return self._keys[begin:end]

    def etags(self, prefix: str) -> dict[str, str]:
        """Return the entity tags below this prefix, by key, in order."""
        return {key: self._objects[key].etag for key in self.keys(prefix)}

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names between this prefix and the next slash, in order."""
        found: list[str] = []
        at = bisect_left(self._keys, prefix)
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            name, slash, _ = self._keys[at][len(prefix) :].partition("/")
            found += [name] if slash else []
            at = bisect_left(self._keys, f"{prefix}{name}0", lo=at) if slash else at + 1  # what comes after a slash
        return found


def presigned(key: str, method: str) -> str:
    """Return a URL that stands for the object."""
    return f"https://s3.invalid/{key}?method={method}"


def key_of(url: str, method: str) -> str:
    """Return the key of a presigned URL."""
    begin, end = "https://s3.invalid/", f"?method={method}"
    if not (url.startswith(begin) and url.endswith(end)):
        raise Refused(f"{url} is not presigned for {method}")
    return url[len(begin) : -len(end)]


class DirectObjects:
    """The bucket as a port, for those to whom nothing happens."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def get(self, key: str) -> StoredObject | None:
        """Return the object, or None."""
        return self._bucket.get(key)

    async def put(self, key: str, body: bytes, *, match: str | None = None, absent: bool = False) -> str:
        """Write, on condition."""
        return self._bucket.put(key, body, match, absent)

    async def delete(self, key: str) -> None:
        """Delete."""
        self._bucket.delete(key)

    async def etags(self, prefix: str) -> Mapping[str, str]:
        """Return the entity tags below this prefix, by key."""
        return self._bucket.etags(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders below this prefix."""
        return self._bucket.folders(prefix)

    async def presign_get(self, key: str, expires_s: int) -> str:
        """Return a URL to read."""
        return presigned(key, "get")

    async def presign_put(self, key: str, expires_s: int) -> str:
        """Return a URL to write."""
        return presigned(key, "put")
