"""Telemetry is exported where the environment says so, is not even loaded otherwise, and never holds up a stop."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shared.exporting import FLUSH_S
from shared.telemetry import wanted_signals

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("environment", "signals"),
    [
        ({}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ("traces", "metrics")),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ("traces",)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, ("metrics",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, ()),
    ],
)
def test_what_has_an_endpoint_is_exported(environment: Mapping[str, str], signals: tuple[str, ...]) -> None:
    assert wanted_signals(environment) == signals


def test_a_service_does_not_load_what_it_does_not_export_with() -> None:
    code = "import sys, services.provisioner.__main__; print([n for n in sys.modules if 'otel' in n or '.sdk' in n])"
    code += "; print('opentelemetry.trace' in sys.modules, 'opentelemetry.metrics' in sys.modules)"
    found = subprocess.run((sys.executable, "-c", code), cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\nTrue False\n"


LAST_WORDS = """
import os, time
from shared import metrics, tracing
from shared.clock import SystemClock
from shared.telemetry import exporting
clock = SystemClock()
with exporting("provisioner", os.environ, clock):
    tracing.told("something", None, clock.now(), clock.now(), {})
    metrics.disrupted("web", "terminate")
    print(time.time(), flush=True)
"""


def last_words(endpoint: str) -> float:
    """Run a process that has something left to tell; return the seconds that its end took."""
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    command = (sys.executable, "-c", LAST_WORDS)
    told = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return time.time() - float(told.stdout)


def test_a_dead_collector_does_not_hold_up_a_stop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as takes_connections_and_says_nothing:
        took = last_words(f"http://127.0.0.1:{takes_connections_and_says_nothing.getsockname()[1]}")
    assert FLUSH_S <= took < FLUSH_S + 3


def test_what_is_left_is_sent_before_the_end() -> None:
    with collector() as (endpoint, paths):
        last_words(endpoint)
    assert sorted(paths) == ["/v1/metrics", "/v1/traces"]


@contextmanager
def collector() -> Iterator[tuple[str, list[str]]]:
    """A collector that notes where something was sent to."""
    paths: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
