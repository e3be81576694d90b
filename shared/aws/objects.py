"""S3 behind ObjectsPort."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from shared.aws.errors import collect, error_code, translated
from shared.cloud import Conflict, StoredObject

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import PutObjectRequestTypeDef


class Objects:
    """The objects of one bucket."""

    def __init__(self, client: Callable[[], Awaitable[S3Client]], bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    @translated
    async def get(self, key: str) -> StoredObject | None:
        """Return the object, or None when there is none. A bucket that is missing is an error."""
        client = await self._client()
        try:
            answer = await client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                return None
            raise
        async with answer["Body"] as body:
            return StoredObject(body=await body.read(), etag=answer["ETag"], modified=answer["LastModified"])

    @translated
    async def put(self, key: str, body: bytes, *, match: str | None = None, absent: bool = False) -> str:
        """Write, and return the new entity tag; with ``match`` or ``absent`` only if that holds, or Conflict.

        S3 says 412 when it does not hold, 409 when another write is under way, and 404 for ``match`` where nothing is.
        A lost reply that botocore asks for again comes out as Conflict too: read back to tell.
        """
        client = await self._client()
        request: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": key, "Body": body}
        if match is not None:
            request["IfMatch"] = match
        if absent:
            request["IfNoneMatch"] = "*"
        try:
            answer = await client.put_object(**request)
        except ClientError as error:
            if match is not None and error_code(error) == "NoSuchKey":
                raise Conflict(f"{key} is not there to be written over") from error
            raise
        return answer["ETag"]

    @translated
    async def delete(self, key: str) -> None:
        """Delete; no error when there is none."""
        await (await self._client()).delete_object(Bucket=self._bucket, Key=key)

    @translated
    async def etags(self, prefix: str) -> Mapping[str, str]:
        """Return the entity tags of all objects whose keys have this prefix, by key, in the keys' order."""
        paginator = (await self._client()).get_paginator("list_objects_v2")
        pages = await collect(paginator.paginate(Bucket=self._bucket, Prefix=prefix))
        return dict(sorted((found["Key"], found["ETag"]) for page in pages for found in page.get("Contents", [])))

    @translated
    async def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders right under the prefix, in order: a request for each thousand of them."""
        paginator = (await self._client()).get_paginator("list_objects_v2")
        pages = await collect(paginator.paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/"))
        found = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", [])]
        return sorted(folder.removeprefix(prefix).removesuffix("/") for folder in found)

    @translated
    async def presign_get(self, key: str, expires_s: int) -> str:
        """Return a URL that reads the object without credentials."""
        return await self._presign("get_object", key, expires_s)

    @translated
    async def presign_put(self, key: str, expires_s: int) -> str:
        """Return a URL that writes the object without credentials."""
        return await self._presign("put_object", key, expires_s)

    async def _presign(self, method: str, key: str, expires_s: int) -> str:
        client = await self._client()
        return await client.generate_presigned_url(
            method, Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=expires_s
        )
