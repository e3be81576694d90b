"""S3: what moto does not tell of.

Deleting an object of a bucket that keeps versions only puts a marker on it; AWS announces that too.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from moto.s3.models import S3Backend
from moto.s3.notifications import S3NotificationEvent, send_event

from localcloud.overlay import Method, wrap


def install() -> None:
    """Announce delete markers."""
    wrap(S3Backend, "delete_object", _announcing)


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
