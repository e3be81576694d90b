"""S3: conditional writes that hold, and deletions that are told of.

moto looks at a write's condition and then writes, with nothing in between to stop another thread: two writers on the
same condition both win now and then. And deleting an object of a bucket that keeps versions only puts a marker on it,
which AWS announces and moto does not.
"""

from __future__ import annotations

from threading import Lock
from types import SimpleNamespace
from typing import Any

from moto.s3.models import S3Backend
from moto.s3.notifications import S3NotificationEvent, send_event
from moto.s3.responses import S3Response

from localcloud.overlay import Method, wrap


def install() -> None:
    """Let one write at a time, and announce delete markers."""
    one_at_a_time = taking(Lock())
    for write in ("put_object", "copy_object", "delete_object"):
        wrap(S3Response, write, one_at_a_time)
    wrap(S3Backend, "delete_object", _announcing)


def taking(lock: Lock) -> Method:
    """Return what makes a method hold the lock while it runs."""

    def holding(original: Method) -> Method:
        def call(*arguments: Any, **options: Any) -> Any:
            with lock:
                return original(*arguments, **options)

        return call

    return holding


def _announcing(original: Method) -> Method:
    def delete_object(backend: Any, bucket_name: str, key_name: str, version_id: str | None = None, **more: Any) -> Any:
        done = original(backend, bucket_name, key_name, version_id=version_id, **more)
        bucket = backend.get_bucket(bucket_name)
        if bucket.is_versioned and version_id is None:
            marker = SimpleNamespace(name=key_name, etag="", size=0)
            made = S3NotificationEvent.OBJECT_REMOVED_DELETE_MARKER_CREATED_EVENT
            send_event(backend.account_id, made, bucket, marker)
        return done

    return delete_object
