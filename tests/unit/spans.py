"""The spans that a test's subject records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import tracing


class Recorded:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self, *names: str) -> list[ReadableSpan]:
        """Return those with one of these names, or all."""
        return [span for span in self._exporter.get_finished_spans() if not names or span.name in names]

    def named(self, name: str) -> ReadableSpan:
        """Return the only one of this name."""
        [span] = self.all(name)
        return span


@contextmanager
def recording() -> Iterator[Recorded]:
    """Record every span that is made inside."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.record_with(provider.get_tracer("test"))
    try:
        yield Recorded(exporter)
    finally:
        tracing.record_with(None)


def ids(span: ReadableSpan) -> tuple[str, str]:
    """Return trace and span id in hex."""
    assert span.context is not None
    return trace.format_trace_id(span.context.trace_id), trace.format_span_id(span.context.span_id)


def parent(span: ReadableSpan) -> str:
    """Return the parent's span id, "" for a root."""
    return trace.format_span_id(span.parent.span_id) if span.parent else ""
