"""Logs: one JSON object a line on stdout (or coloured text for people), with what the message is about bound to it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor

from shared.clock import Clock
from shared.events import Incoming

BOUND = ("fleet", "server", "image", "bake", "command", "name", "key")
"""Fields of messages and events that every log line written while they are handled carries."""


def configure_logs(log_format: Literal["json", "console"], service: str, clock: Clock) -> None:
    """Send the logs of this process to stdout; those of libraries (warnings and worse) in the same form."""
    shared: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level]
    shared.append(_Stamp(service, clock))
    last: list[Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    else:
        last = [
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def bound_to(message: str, incoming: Incoming | None) -> AbstractContextManager[None]:
    """Bind a message's id, and what it is about, to all log lines written inside."""
    fields = vars(incoming) if incoming else {}
    about = {"message": message, **{name: fields[name] for name in BOUND if fields.get(name)}}
    return structlog.contextvars.bound_contextvars(**about)


class _Stamp:
    """Adds when and who."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        event["time"] = self._clock.now().isoformat(timespec="milliseconds")
        event["service"] = self._service
        return event


def _json(event: MutableMapping[str, Any], **options: Any) -> str:
    try:
        return orjson.dumps(event, default=options.get("default")).decode()
    except TypeError:  # half a surrogate pair, or a huge number: slower, but never a line that is lost
        return json.dumps(event, default=repr)
