"""A launch is one trace, from the lifecycle event to the list of members, across queues, topics and services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.group import apply_group
from deploy.messaging import apply_messaging
from shared.names import ServiceName
from tests.wire.collector import Collected, CollectedSpan, collector
from tests.wire.running import RunningCloud, service_running, until
from tests.wire.services.test_launch_and_bake import APP, App

PROVISIONER, REGISTRY = "process autoprovisioner-provisioner", "process autoprovisioner-registry"


@dataclass
class Launched:
    """A server that was launched, and what was told of it. The services have ended."""

    server: str
    record: dict[str, Any]
    collected: Collected
    logs: Path

    @property
    def spans(self) -> dict[str, CollectedSpan]:
        """The launch's trace, by span id."""
        trace = self.record["trace"].split("-")[1]
        return {each.span: each for each in self.collected.spans if each.trace == trace}

    def named(self, name: str, about: str | None = None) -> list[CollectedSpan]:
        spans = [each for each in self.spans.values() if each.name == name]
        return [each for each in spans if about in {None, each.attributes.get("autoprovisioner.message")}]

    def above(self, span: CollectedSpan) -> list[str]:
        """The names from the span's parent up to the root."""
        return [] if not span.parent else [self.spans[span.parent].name, *self.above(self.spans[span.parent])]

    def lines(self, service: ServiceName, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.logs / f"{service}.log").read_text().splitlines()]
        return [line for line in lines if line["event"] == event and line.get("server") == self.server]


@pytest.fixture(scope="module")
def launched(local_cloud: RunningCloud) -> Iterator[Launched]:
    names: tuple[ServiceName, ...] = ("provisioner", "registry")
    with collector() as collected, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collected.endpoint)
        for name, value in local_cloud.environment.items():
            patch.setenv(name, value)
        asyncio.run(apply_messaging(say=lambda _: None))
        app = App(local_cloud)
        with ExitStack() as stack:
            for service in names:
                stack.enter_context(service_running(service, local_cloud.state))
            asyncio.run(apply_group(APP))
            until(lambda: app.at_work(1), 40)
            (server,) = app.serving()
            record = until(lambda: ended(app, server))
        yield Launched(server, record, collected, local_cloud.state)


def ended(app: App, server: str) -> dict[str, Any]:
    record = app.document(f"servers/{server}")
    return record if record["ended"] else {}


def test_the_lifecycle_event_begins_the_trace_and_everything_in_it_hangs_together(launched: Launched) -> None:
    [root] = [span for span in launched.spans.values() if not span.parent]
    assert (root.name, root.attributes["autoprovisioner.message"]) == (PROVISIONER, "LifecycleAction")
    assert root.attributes["autoprovisioner.server"] == launched.server
    assert root.span == launched.record["trace"].split("-")[2]
    assert all(launched.above(span)[-1:] == [PROVISIONER] for span in launched.spans.values() if span.parent)


def test_the_news_that_the_server_is_ready_and_its_membership_are_in_the_same_trace(launched: Launched) -> None:
    ready = launched.named(REGISTRY, "server.ready")[0]
    assert ready.service == "registry"
    assert launched.above(ready)[0] == "send autoprovisioner-events"
    membership = [span for span in launched.named("send autoprovisioner-events") if span.service == "registry"]
    assert REGISTRY in launched.above(membership[0])


def test_what_aws_says_without_a_trace_is_linked_to_it(launched: Launched) -> None:
    going_on = {link for span in launched.named("go on with launch") for link in span.links}
    told = {each.span for each in launched.collected.spans if is_about_the_command(each)}
    assert going_on & told


def is_about_the_command(span: CollectedSpan) -> bool:
    return span.attributes.get("autoprovisioner.message") == "CommandChanged"


def test_every_step_of_the_plan_is_a_span_with_the_servers_own_times(launched: Launched) -> None:
    [attempt] = launched.record["attempts"]
    assert [step["step"] for step in attempt["steps"]] == ["serve", "flaky", "alive"]
    for step in attempt["steps"]:
        [span] = launched.named(f"step {step['step']}")
        assert launched.above(span) == ["attempt", "launch", PROVISIONER]
        assert (span.ended - span.began) / 1e9 == pytest.approx(step["seconds"], abs=0.001)
        assert span.attributes["autoprovisioner.result"] == "done"


def test_log_lines_of_the_launch_carry_its_trace(launched: Launched) -> None:
    trace = launched.record["trace"].split("-")[1]
    assert {line["trace_id"] for line in launched.lines("provisioner", "plan sent")} == {trace}
    ready = [line for line in launched.lines("provisioner", "done") if "is ready after" in line["why"]]
    assert {line["trace_id"] for line in ready} == {trace}
    assert trace in {line["trace_id"] for line in launched.lines("registry", "done")}


def test_measurements_arrive_by_the_end(launched: Launched) -> None:
    assert {"messaging.process.duration", "messaging.client.consumed.messages"} <= launched.collected.metrics
    assert {"autoprovisioner.launches", "autoprovisioner.launch.duration"} <= launched.collected.metrics
