"""How methods of moto's classes are replaced, and how errors in them are answered.

moto answers each request with a method of a response class that is named for the action. What moto lacks is added to
that class; what moto does differently from AWS is replaced.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse
from werkzeug.exceptions import HTTPException

log = logging.getLogger("localcloud")

Method = Callable[..., Any]


class Refusal(ServiceException):  # type: ignore[misc] # moto comes without types
    """An error that AWS answers: its code and its message.

    Of our own module, since moto looks up its own exceptions' service by the module's name.
    """

    def __init__(self, code: str, message: str):
        super().__init__(code, message)


def replace(owner: Any, method: Method) -> None:
    """Give a moto class a method of ours, under the function's own name."""
    setattr(owner, method.__name__, method)


def wrap(owner: Any, name: str, wrapper: Callable[[Method], Method]) -> None:
    """Replace a moto class's method by what ``wrapper`` makes of it."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(wrapper(original)))


def answer_errors() -> None:
    """Answer what goes wrong inside an action with an AWS error, and log it with its traceback."""

    def answering(original: Method) -> Method:
        def call_action(response: Any) -> Any:
            try:
                return original(response)
            except (ServiceException, HTTPException):
                raise
            except NotImplementedError as missing:
                log.warning("not implemented: %s", missing)
                return _refuse(response, 501, "NotImplemented", f"the local cloud does not do this: {missing}")
            except Exception as failure:
                log.exception("an action failed")
                return _refuse(response, 500, "InternalFailure", f"the local cloud failed: {failure!r}; see its log")

        return call_action

    wrap(BaseResponse, "call_action", answering)


def _refuse(response: Any, status: int, code: str, message: str) -> tuple[int, dict[str, str], str]:
    _, headers, body = response.serialized(ActionResult(Refusal(code, message)))
    return status, {**headers, "status": str(status)}, body
