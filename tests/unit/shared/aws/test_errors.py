from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from shared.aws.errors import collect, kind_of, translated
from shared.cloud import CloudError, Conflict, Denied, Incomplete, NotFound, Refused, Throttled, Unavailable


def answered(code: str, status: int = 400, message: str = "no") -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "SomeCall")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("Throttling", Throttled),
        ("ThrottlingException", Throttled),
        ("RequestLimitExceeded", Throttled),
        ("SlowDown", Throttled),
        ("OverLimit", Throttled),
        ("ResourceContention", Unavailable),
        ("ScalingActivityInProgress", Unavailable),
        ("InsufficientInstanceCapacity", Unavailable),
        ("IdempotentCallInProgress", Unavailable),
        ("InvalidInstanceID.NotFound", NotFound),
        ("InvalidAMIID.Unavailable", NotFound),
        ("InvalidLaunchTemplateName.NotFoundException", NotFound),
        ("ParameterNotFound", NotFound),
        ("AWS.SimpleQueueService.NonExistentQueue", NotFound),
        ("NoSuchBucket", NotFound),
        ("InvocationDoesNotExist", NotFound),
        ("UnauthorizedOperation", Denied),
        ("ExpiredToken", Denied),
        ("AccessDenied", Denied),
        ("PreconditionFailed", Conflict),
        ("ConditionalRequestConflict", Conflict),
        ("ValidationError", Refused),
        ("InstanceLimitExceeded", Refused),
        ("IdempotentParameterMismatch", Refused),
    ],
)
def test_an_error_code_says_what_follows_from_it(code: str, kind: type[CloudError]) -> None:
    assert kind_of(answered(code)) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, Unavailable), (503, Unavailable), (429, Throttled), (403, Denied), (404, NotFound), (400, Refused)],
)
def test_an_unknown_code_is_told_by_its_status(status: int, kind: type[CloudError]) -> None:
    assert kind_of(answered("NeverSeenBefore", status)) is kind


def test_a_known_code_counts_more_than_its_status() -> None:
    assert kind_of(answered("ResourceContention", 400)) is Unavailable
    assert kind_of(answered("SlowDown", 503)) is Throttled


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EndpointConnectionError(endpoint_url="http://x"), Unavailable),
        (ConnectTimeoutError(endpoint_url="http://x"), Unavailable),
        (ReadTimeoutError(endpoint_url="http://x"), Unavailable),
        (HTTPClientError(error="x"), Unavailable),
        (ResponseParserError("<html>500</html>"), Unavailable),
        (aiohttp.ClientPayloadError("cut off"), Unavailable),
        (TimeoutError(), Unavailable),
        (NoCredentialsError(), Denied),
        (ParamValidationError(report="x"), Refused),
        (BotoCoreError(), Refused),
    ],
)
def test_what_is_no_answer_of_aws_has_its_place(error: Exception, kind: type[CloudError]) -> None:
    assert kind_of(error) is kind


async def test_a_translated_call_raises_ours_with_the_words_of_aws() -> None:
    @translated
    async def call() -> None:
        raise answered("Throttling", message="Rate exceeded")

    with pytest.raises(Throttled, match="Rate exceeded"):
        await call()


async def test_a_mistake_of_our_own_is_not_hidden() -> None:
    @translated
    async def call() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        await call()


async def pages(*found: int | Exception) -> AsyncIterator[int]:
    for page in found:
        if isinstance(page, Exception):
            raise page
        yield page


async def test_a_whole_listing_is_returned() -> None:
    assert await collect(pages(1, 2, 3)) == [1, 2, 3]


@pytest.mark.fault(29)
async def test_a_listing_that_fails_half_way_is_incomplete() -> None:
    with pytest.raises(Incomplete, match="page 3"):
        await collect(pages(1, 2, answered("Throttling")))


async def test_a_listing_that_never_began_fails_with_its_own_error() -> None:
    @translated
    async def listing() -> list[int]:
        return await collect(pages(answered("Throttling")))

    with pytest.raises(Throttled):
        await listing()
