"""Log lines are JSON, say what they are about, and are never lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from shared.cloud import QueueMessage
from shared.messages import ServerKillRequested
from shared.telemetry import configure_logs
from shared.tracing import Handling
from tests.fakes import START, FakeClock


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def configure(log_format: Literal["json", "console"]) -> None:
    configure_logs(log_format, "chaos", FakeClock())


def test_a_line_says_when_who_and_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    request = ServerKillRequested(fleet="web", server="i-12345678")
    with Handling("work", QueueMessage("m1", "", "r1"), request, FakeClock()):
        structlog.get_logger().info("done", why="it is so")
    structlog.get_logger().info("idle")
    inside, outside = lines(capsys)
    trace, span = str(inside.pop("trace_id")), str(inside.pop("span_id"))
    assert (len(trace), len(span)) == (32, 16)
    assert inside == {
        "time": START.isoformat(timespec="milliseconds"),
        "level": "info",
        "service": "chaos",
        "message": "m1",
        "fleet": "web",
        "server": "i-12345678",
        "event": "done",
        "why": "it is so",
    }
    assert "fleet" not in outside


def test_a_traceback_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    try:
        {"fine": 1}["oops"]
    except KeyError:
        structlog.get_logger().exception("failed")
    [line] = lines(capsys)
    assert "KeyError: 'oops'" in str(line["exception"])


def test_what_json_cannot_hold_is_logged_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    structlog.get_logger().info("odd", text="\ud800", number=2**80, thing=object)
    [line] = lines(capsys)
    assert line["number"] == 2**80


def test_libraries_warn_in_the_same_form_and_are_otherwise_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    logging.getLogger("botocore").info("chatter")
    logging.getLogger("botocore").warning("credentials expire in %s s", 60)
    [line] = lines(capsys)
    assert (line["event"], line["level"], line["service"]) == ("credentials expire in 60 s", "warning", "chaos")


def test_people_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console")
    structlog.get_logger().info("done", why="it is so")
    out = capsys.readouterr().out
    assert "done" in out
    assert "why='it is so'" in out
