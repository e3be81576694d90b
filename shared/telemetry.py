"""Logs: one JSON object a line on stdout (or coloured text for people), with what the message is about bound to it.

Traces and metrics go where OpenTelemetry's own variables say, if they say so.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor

from shared.clock import Clock
from shared.tracing import add_handled

Signal = Literal["traces", "metrics"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics")


def configure_logs(log_format: Literal["json", "console"], service: str, clock: Clock) -> None:
    """Send the logs of this process to stdout; those of libraries (warnings and worse) in the same form."""
    shared: list[Processor] = [add_handled, structlog.stdlib.add_log_level, _Stamp(service, clock)]
    last: list[Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, _json]
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


def wanted_signals(environment: Mapping[str, str]) -> tuple[Signal, ...]:
    """Return what is to be exported: that which has an endpoint, and nothing when the SDK is disabled. Pure."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    every = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return tuple(each for each in SIGNALS if every or environment.get(f"OTEL_EXPORTER_OTLP_{each.upper()}_ENDPOINT"))


@contextmanager
def exporting(service: str, environment: Mapping[str, str], clock: Clock) -> Iterator[None]:
    """Export traces and metrics while inside, and flush them at the end; the SDK is not even loaded otherwise."""
    signals = wanted_signals(environment)
    if not signals:
        yield
        return
    from shared.exporting import start_exporting  # noqa: PLC0415  a fifth of the start-up time, for those who want it

    flush = start_exporting(service, signals, clock)
    try:
        yield
    finally:
        flush()


class _Stamp:
    """Adds when, who, and which trace and span a line belongs to."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        event["time"] = self._clock.now().isoformat(timespec="milliseconds")
        event["service"] = self._service
        here = trace.get_current_span().get_span_context()
        if here.is_valid:
            event["trace_id"] = trace.format_trace_id(here.trace_id)
            event["span_id"] = trace.format_span_id(here.span_id)
        return event


def _json(logger: Any, method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=repr).decode()
    except TypeError:  # half a surrogate pair, or a huge number: slower, but never a line that is lost
        return json.dumps(event, default=repr)
