"""One trace from an event to its last effect: across queues and topics, services, and servers.

The context travels as W3C ``traceparent``: as a message attribute, and in the records of launches and bakes, since
AWS's own events bring none. Every message handled has ids, so that logs can be joined; spans are recorded only where
an exporter is configured (``shared.exporting``), and only where a message is handled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import metrics
from shared.clock import Clock
from shared.cloud import QueueMessage
from shared.events import Incoming, Unparseable
from shared.outcome import Outcome, Reject, Retry

TRACEPARENT = "traceparent"

ATTRIBUTES_LIMIT = 10
"""SQS allows a message no more attributes."""

ABOUT = ("fleet", "server", "image", "bake", "command", "name", "key")
"""Fields of messages and events that say what they are about: log lines and spans carry them."""

_NOWHERE = context.Context()
"""The parent of what has none."""

_W3C = TraceContextTextMapPropagator()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOTHING = nullcontext()


class _Namer(trace.NoOpTracer):
    """Gives spans their ids and records nothing: all that logs need."""

    def start_span(self, name: str, context: context.Context | None = None, *rest: Any, **options: Any) -> Span:
        above = trace.get_current_span(context).get_span_context()
        trace_id = above.trace_id if above.is_valid else random.getrandbits(128)
        return trace.NonRecordingSpan(SpanContext(trace_id, random.getrandbits(64), False, _SAMPLED))


_tracer: Tracer = _Namer()


def record_with(tracer: Tracer | None) -> None:
    """Let this tracer make all spans from now on; None: only ids, recorded nowhere."""
    global _tracer  # noqa: PLW0603  one a process, as OpenTelemetry has it, but one that tests can take back
    _tracer = tracer or _Namer()


def traceparent() -> str | None:
    """Return the current context in W3C's form, for a record that others go on from; None outside of any."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(TRACEPARENT)


def carried(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Return a message's attributes with the current context; those that bring one keep theirs."""
    if TRACEPARENT in attributes or len(attributes) >= ATTRIBUTES_LIMIT:
        return attributes
    current = traceparent()
    return {**attributes, TRACEPARENT: current} if current else attributes


def _brought(attributes: Mapping[str, str]) -> context.Context:
    """Return the context that a message brought; what cannot be read is none."""
    return _W3C.extract(attributes, _NOWHERE) if TRACEPARENT in attributes else _NOWHERE


class Handling:
    """One message while it is handled: inside, in the trace that it brought or, without one, in a new one."""

    def __init__(self, queue: str, message: QueueMessage, incoming: Incoming | Unparseable, clock: Clock) -> None:
        fields = {} if isinstance(incoming, Unparseable) else vars(incoming)
        self.about = {name: fields[name] for name in ABOUT if fields.get(name)}
        self.message = message.id
        self._queue = queue
        self._span = _tracer.start_span(f"process {queue}", _brought(message.attributes), kind=SpanKind.CONSUMER)
        if self._span.is_recording():
            self._span.set_attributes(_described(queue, message, incoming, self.about))
        self._clock = clock
        self._began = clock.monotonic()
        self._current = _Current(self._span)
        self.joined: dict[int, Span] = {}
        """Trace id to the last span in each other trace that the handling went on with."""
        self.error: str | None = None

    def __enter__(self) -> Handling:
        self._before = _handling.set(self)
        self._current.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._current.__exit__(kind, error, traceback)
        _handling.reset(self._before)

    def answered(self, outcome: Outcome) -> None:
        """Note the outcome. What is logged and sent from here on belongs to the one trace that was joined, if any."""
        kind = type(outcome).__name__
        error = (self.error or kind) if isinstance(outcome, Retry | Reject) else None
        metrics.processed(self._queue, self._clock.monotonic() - self._began, error)
        if self._span.is_recording():
            self._span.set_attributes({"autoprovisioner.outcome": kind, "autoprovisioner.why": outcome.why})
        if error is not None:
            _fail(self._span, error, outcome.why)
        if len(self.joined) == 1:
            [span] = self.joined.values()
            context.attach(trace.set_span_in_context(span))


_handling: ContextVar[Handling | None] = ContextVar("handling", default=None)


def add_handled(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add to a log line which message is being handled, and what that is about. A processor of structlog's."""
    handled = _handling.get()
    return event if handled is None else {"message": handled.message, **handled.about, **event}


def failed(error: Exception) -> None:
    """Note what a handler raised: its class becomes the error's type."""
    handled = _handling.get()
    if handled is not None:
        handled.error = type(error).__name__


@contextmanager
def joined(trace_of: str | None, what: str) -> Iterator[None]:
    """Do what is inside in that trace: the one which the record of a launch or bake names.

    A message that came without the trace (AWS's own, a sweep's tick) is linked to it. Nothing happens when the record
    names none, or the current one.
    """
    here = trace.get_current_span()
    above = _brought({TRACEPARENT: trace_of}) if trace_of else _NOWHERE
    there = trace.get_current_span(above).get_span_context()
    if not there.is_valid or there.trace_id == here.get_span_context().trace_id:
        yield
        return
    links = [trace.Link(here.get_span_context())] if here.get_span_context().is_valid else []
    span = _tracer.start_span(what, above, links=links)
    here.add_link(span.get_span_context())
    handled = _handling.get()
    if handled is not None:
        handled.joined[there.trace_id] = span
    with _Current(span):
        yield


def calling(name: str, kind: SpanKind) -> AbstractContextManager[Span | None]:
    """Call AWS inside: a span below the message's, where there is one that is recorded."""
    if not trace.get_current_span().is_recording():
        return _NOTHING
    return _Current(_tracer.start_span(name, kind=kind))


def sending(system: Literal["aws_sqs", "aws.sns"], destination: str) -> None:
    """Say of the current call that it sends a message."""
    span = trace.get_current_span()
    if span.is_recording():
        span.update_name(f"send {destination}")
        span.set_attributes(_messaging(system, "send", destination))


def told(
    name: str,
    above: Span | str | None,
    began: datetime,
    ended: datetime,
    attributes: Mapping[str, str | float],
    error: str | None = None,
) -> Span:
    """Record what happened elsewhere, or before, with its own times, below a span or ``traceparent``, else here."""
    if isinstance(above, Span):
        parent = trace.set_span_in_context(above)
    else:
        parent = _brought({TRACEPARENT: above}) if above else context.get_current()
    span = _tracer.start_span(name, parent, attributes=dict(attributes), start_time=_nanoseconds(began))
    if error is not None:
        _fail(span, "failed", error)
    span.end(_nanoseconds(ended))
    return span


class _Current:
    """Makes the span the current one inside, and ends it; what is raised inside fails it."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._before = context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            _fail(self._span, type(error).__name__, str(error))
        context.detach(self._before)
        self._span.end()


def _fail(span: Span, kind: str, why: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, why)


def _described(
    queue: str, message: QueueMessage, incoming: Incoming | Unparseable, about: Mapping[str, Any]
) -> dict[str, str | int]:
    return {
        **_messaging("aws_sqs", "process", queue),
        "messaging.message.id": message.id,
        "autoprovisioner.message": getattr(incoming, "type", type(incoming).__name__),
        "autoprovisioner.receives": message.receive_count,
        **{f"autoprovisioner.{name}": str(value) for name, value in about.items()},
    }


def _messaging(system: str, operation: str, destination: str) -> dict[str, str]:
    """Return OpenTelemetry's attributes for a message on its way."""
    return {
        "messaging.system": system,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * 1e9)
