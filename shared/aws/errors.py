"""Which of our errors each error of botocore means: one table, used by every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError
from opentelemetry.trace import SpanKind

from shared.cloud import CloudError, Conflict, Denied, Incomplete, NotFound, Refused, Throttled, Unavailable
from shared.tracing import calling

P = ParamSpec("P")
T = TypeVar("T")

FAULTS = (ClientError, BotoCoreError, ResponseParserError, aiohttp.ClientError, TimeoutError)
"""Everything that a call through aiobotocore raises.

``ResponseParserError`` is what an HTML page in place of an answer becomes: emulators send one for what they lack.
"""

_CODES: dict[type[CloudError], tuple[str, ...]] = {
    Throttled: (
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "OverLimit",
        "PriorRequestNotComplete",
        "RateExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TooManyUpdates",
    ),
    Unavailable: (
        "IdempotentCallInProgress",
        "InsufficientAddressCapacity",
        "InsufficientCapacity",
        "InsufficientHostCapacity",
        "InsufficientInstanceCapacity",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "KMSInternalException",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ResourceContention",
        "ResourceContentionFault",
        "ScalingActivityInProgress",
        "ServiceUnavailable",
        "Unavailable",
    ),
    NotFound: (
        "AWS.SimpleQueueService.NonExistentQueue",
        "InvalidAMIID.Unavailable",
        "InvalidCommandId",
        "InvalidDocument",
        "InvalidInstanceId",
        "InvocationDoesNotExist",
        "NoSuchBucket",
        "NoSuchKey",
        "NonExistentQueue",
        "QueueDoesNotExist",
    ),
    Denied: (
        "AccessDenied",
        "AccessDeniedException",
        "AllAccessDisabled",
        "AuthFailure",
        "AuthorizationError",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "KMSAccessDenied",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    ),
    Conflict: ("ConditionalRequestConflict", "PreconditionFailed"),
}
_BY_CODE = {code: kind for kind, codes in _CODES.items() for code in codes}

_NOT_FOUND_ENDINGS = (".NotFound", "NotFoundException", "NotFoundFault", "ParameterNotFound")
"""Such as ``InvalidInstanceID.NotFound``, ``InvalidLaunchTemplateName.NotFoundException``."""

_BY_STATUS: dict[int, type[CloudError]] = {401: Denied, 403: Denied, 404: NotFound, 412: Conflict, 429: Throttled}

_BY_EXCEPTION: tuple[tuple[tuple[type[Exception], ...], type[CloudError]], ...] = (
    (
        (
            CredentialRetrievalError,
            NoAuthTokenError,
            NoCredentialsError,
            PartialCredentialsError,
            SSOError,
            TokenRetrievalError,
        ),
        Denied,
    ),
    (
        (
            HTTPClientError,
            IncompleteReadError,
            NoConnection,
            ResponseParserError,
            aiohttp.ClientError,
            TimeoutError,
        ),
        Unavailable,
    ),
)


_SENDS = ("Publisher.publish", "Queue.send", "Queue.send_dead")
"""Whoever receives what these send goes on from them in the trace."""


def error_code(error: Exception) -> str:
    """Return AWS's code for the error, or "" for one that is not an answer of AWS."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def error_message(error: Exception) -> str:
    """Return AWS's own sentence."""
    return str(error.response.get("Error", {}).get("Message", "")) if isinstance(error, ClientError) else str(error)


def kind_of(error: Exception) -> type[CloudError]:
    """Return the class of ours that the error belongs to; ``Refused`` when nothing else is known. Pure."""
    if not isinstance(error, ClientError):
        return next((kind for types, kind in _BY_EXCEPTION if isinstance(error, types)), Refused)
    code = error_code(error)
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code.endswith(_NOT_FOUND_ENDINGS):
        return NotFound
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return _BY_STATUS.get(status, Unavailable if status >= 500 else Refused)


def translate(error: Exception) -> CloudError:
    """Return our error for one of botocore's, with its words."""
    return kind_of(error)(str(error) or type(error).__name__)


def translated(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make an adapter's method raise CloudError in place of whatever aiobotocore raises, and show up in the trace."""
    name = method.__qualname__
    kind = SpanKind.PRODUCER if name in _SENDS else SpanKind.CLIENT

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with calling(name, kind):
            try:
                return await method(*args, **kwargs)
            except FAULTS as error:
                raise translate(error) from error

    return call


async def collect(pages: AsyncIterable[T]) -> list[T]:
    """Return all pages of a listing.

    Raises:
        Incomplete: a page after the first failed. When the first one fails, its own error says more.
    """
    seen: list[T] = []
    try:
        async for page in pages:
            seen.append(page)
    except FAULTS as error:
        if seen:
            raise Incomplete(f"page {len(seen) + 1} of a listing failed: {error}") from error
        raise
    return seen
