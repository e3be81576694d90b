"""Traces and metrics over OTLP/HTTP: OpenTelemetry's SDK, loaded only where its own variables name an endpoint."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shared import metrics, tracing
from shared.clock import Clock
from shared.telemetry import Signal

SCOPE = "autoprovisioner"

FLUSH_S = 2.0
"""So long a stop waits for the collector at most: handlers had up to 20 s before it, and ECS kills after 30."""

Shutdown = Callable[[], None]


def start_exporting(service: str, signals: Collection[Signal], clock: Clock) -> Shutdown:
    """Export what ``shared.tracing`` and ``shared.metrics`` record; return what flushes it, within ``FLUSH_S``.

    The SDK reads endpoints, headers, sampling and intervals from OpenTelemetry's own variables.
    """
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # a lost batch is one line, not one a try
    resource = Resource.create({"service.namespace": SCOPE, "service.name": service})
    shutdowns: list[Shutdown] = []
    if "traces" in signals:
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        tracing.record_with(tracers.get_tracer(SCOPE))
        shutdowns.append(tracers.shutdown)
    if "metrics" in signals:
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        metrics.measure_with(meters.get_meter(SCOPE))
        shutdowns.append(meters.shutdown)
    return lambda: _flush(shutdowns, clock)


def _flush(shutdowns: list[Shutdown], clock: Clock) -> None:
    """Send what is left. The SDK's own shut-down may take half a minute, so it is left behind in threads."""
    threads = [threading.Thread(target=shutdown, daemon=True) for shutdown in shutdowns]
    for thread in threads:
        thread.start()
    deadline = clock.monotonic() + FLUSH_S
    for thread in threads:
        thread.join(max(0.0, deadline - clock.monotonic()))
