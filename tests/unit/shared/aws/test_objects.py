from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from shared.aws.objects import Objects
from shared.cloud import Incomplete


class Bucket:
    """Lists what it is given, page by page."""

    def __init__(self, *pages: dict[str, Any] | ClientError) -> None:
        self._pages = pages

    async def client(self) -> Any:
        return self

    def get_paginator(self, _: str) -> "Bucket":
        return self

    async def paginate(self, **_: Any) -> AsyncIterator[dict[str, Any]]:
        for page in self._pages:
            if isinstance(page, ClientError):
                raise page
            yield page


def page(*keys: str) -> dict[str, Any]:
    return {"Contents": [{"Key": key, "ETag": f"tag of {key}"} for key in keys]} if keys else {}


async def test_keys_come_from_all_pages() -> None:
    listed = await Objects(Bucket(page("b", "c"), page("a"), page()).client, "bucket").etags("")
    assert list(listed.items()) == [("a", "tag of a"), ("b", "tag of b"), ("c", "tag of c")]


@pytest.mark.fault(29)
async def test_keys_are_never_shortened() -> None:
    slow_down = ClientError({"Error": {"Code": "SlowDown", "Message": "please"}}, "ListObjectsV2")
    with pytest.raises(Incomplete):
        await Objects(Bucket(page("a"), slow_down).client, "bucket").etags("")
