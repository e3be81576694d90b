from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from threading import Event, Thread
from typing import Any

import pytest

from localcloud.elsewhere import Elsewhere

HAPPENED = {
    "source": "aws.ec2",
    "detail-type": "EC2 Instance State-change Notification",
    "time": "2026-11-23T12:00:00Z",
    "resources": ["arn:aws:ec2:us-east-1:000000000000:instance/i-1"],
    "detail": {"state": "running"},
}


class Endpoint(HTTPServer):
    """Refuses as often as it is told to, then takes everything."""

    def __init__(self, port: int, *refusals: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.refusals = list(refusals)
        self.heard: Queue[Any] = Queue()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Endpoint)
        self.server.heard.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.refusals.pop(0) if self.server.refusals else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def listening(port: int, *refusals: int) -> Iterator[Endpoint]:
    with Endpoint(port, *refusals) as endpoint:
        thread = Thread(target=endpoint.serve_forever)
        thread.start()
        yield endpoint
        endpoint.shutdown()
        thread.join()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def elsewhere(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    over = Event()
    made = Elsewhere(f"http://127.0.0.1:{port}")
    made.start(over)
    yield made
    over.set()


def test_an_event_waits_until_the_endpoint_answers(
    elsewhere: Elsewhere, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.publish(HAPPENED)
    while "could not deliver yet" not in caplog.text:
        Event().wait(0.05)

    with listening(port) as endpoint:
        [entry] = endpoint.heard.get(timeout=10)["Entries"]

    assert entry["Source"] == "aws.ec2"
    assert json.loads(entry["Detail"]) == {"state": "running"}
    assert entry["Resources"] == HAPPENED["resources"]


def test_what_fails_over_there_is_sent_again_and_what_is_refused_is_not(elsewhere: Elsewhere, port: int) -> None:
    with listening(port, 500, 200, 400) as endpoint:
        for state in ("pending", "running", "stopping"):
            elsewhere.publish({**HAPPENED, "detail": {"state": state}})
        heard = [json.loads(endpoint.heard.get(timeout=10)["Entries"][0]["Detail"])["state"] for _ in range(4)]

    assert heard == ["pending", "pending", "running", "stopping"]
    assert endpoint.heard.empty()
