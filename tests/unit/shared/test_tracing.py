"""One trace holds a launch together; without an exporter there are still ids, and nothing is loaded."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import SpanKind, StatusCode

from services.provisioner.handler import Provisioner
from services.provisioner.updates import Updates
from shared import metrics
from shared.audit import Audits
from shared.aws.errors import translated
from shared.aws.publisher import Publisher
from shared.aws.queues import Queue
from shared.cloud import NotFound, QueueMessage
from shared.consumer import Consumer
from shared.documents import Documents
from shared.events import CommandChanged, Incoming, LifecycleAction, parse
from shared.messages import LaunchUnclaimed, ServerKillRequested, ServerProvisionFailed, ServerReady
from shared.names import LAUNCH_HOOK
from shared.outcome import Done, LookAgain, Outcome, Reject, Retry
from shared.records import Launch, StepResult, launch_key
from shared.runs import Runs
from shared.telemetry import configure_logs
from shared.tracing import TRACEPARENT, Handling, carried, joined, traceparent
from tests.fakes import START, FakeClock, FakeObjects
from tests.unit.fleetworld import FIRST, FleetWorld, done
from tests.unit.shared.virtual import SteppedClock, VirtualQueue, kill
from tests.unit.spans import Recorded, ids, parent, recording

BROUGHT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
OTHER = "00-" + "c" * 32 + "-" + "d" * 16 + "-01"
QUEUE = "autoprovisioner-provisioner"


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture
def logs() -> Iterator[None]:
    configure_logs("json", "provisioner", FakeClock())
    yield
    structlog.reset_defaults()


def message(traceparent: str | None = None, body: str = "") -> QueueMessage:
    return QueueMessage("m1", body or kill(1), "r1", 2, {TRACEPARENT: traceparent} if traceparent else {})


def handled(received: QueueMessage) -> Any:
    return Handling(QUEUE, received, parse(received.body), FakeClock())


def test_a_message_is_handled_in_the_trace_that_it_brings(recorded: Recorded) -> None:
    with handled(message(BROUGHT)) as handling:
        handling.answered(Done("it is so"))
    span = recorded.named(f"process {QUEUE}")
    assert (ids(span)[0], parent(span), span.kind) == ("a" * 32, "b" * 16, SpanKind.CONSUMER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "aws_sqs",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": QUEUE,
        "messaging.message.id": "m1",
        "autoprovisioner.message": "server.kill.requested",
        "autoprovisioner.receives": 2,
        "autoprovisioner.fleet": "web",
        "autoprovisioner.server": "i-00000001",
        "autoprovisioner.outcome": "Done",
        "autoprovisioner.why": "it is so",
    }
    assert span.status.status_code == StatusCode.UNSET


@pytest.mark.parametrize("brought", [None, "", "nonsense", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", "0" * 5000])
def test_a_message_that_brings_no_trace_begins_one(recorded: Recorded, brought: str | None) -> None:
    with handled(QueueMessage("m", kill(1), "r", 1, {} if brought is None else {TRACEPARENT: brought})):
        pass
    [span] = recorded.all()
    assert span.parent is None


@pytest.mark.parametrize(("outcome", "error"), [(Retry("not yet"), "Retry"), (Reject("never"), "Reject")])
def test_what_went_wrong_is_an_error_with_a_type(recorded: Recorded, outcome: Outcome, error: str) -> None:
    with handled(message()) as handling:
        handling.answered(outcome)
    [span] = recorded.all()
    assert (span.attributes or {})["error.type"] == error
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, outcome.why)


def test_what_is_sent_carries_the_context_and_what_brings_one_keeps_it() -> None:
    assert carried({"a": "1"}) == {"a": "1"}
    with handled(message()):
        here = traceparent()
        assert here is not None
        assert carried({"a": "1"}) == {"a": "1", TRACEPARENT: here}
        assert carried({TRACEPARENT: BROUGHT}) == {TRACEPARENT: BROUGHT}
        ten = {f"a{number}": "1" for number in range(10)}
        assert carried(ten) == ten
    with handled(message(BROUGHT)):
        assert (traceparent() or "").startswith("00-" + "a" * 32)


class Client:
    """SQS and SNS: says what was sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    async def send_message(self, **request: Any) -> None:
        self.sent.append(request)

    async def publish(self, **request: Any) -> None:
        self.sent.append(request)

    async def __call__(self) -> Any:
        return self

    def traceparents(self) -> list[str]:
        return [each["MessageAttributes"][TRACEPARENT]["StringValue"] for each in self.sent]


async def test_the_receiver_of_what_is_sent_goes_on_from_the_sending(recorded: Recorded) -> None:
    client = Client()
    queue = Queue(client, "http://sqs/0/ours", "http://sqs/0/ours-dead")
    with handled(message(BROUGHT)):
        await queue.send("body", 1, {})
        await queue.send_dead("body", {"reason": "why"})
        ready = ServerReady(fleet="web", server="i-00000001", image="ami-00000001", seconds=1)
        await Publisher(client, "arn:aws:sns:x:1:autoprovisioner-", "p", FakeClock()).publish(ready)
    sends = [recorded.named(f"send {name}") for name in ("ours", "ours-dead", "autoprovisioner-events")]
    assert client.traceparents() == [f"00-{'a' * 32}-{ids(span)[1]}-01" for span in sends]
    assert {span.kind for span in sends} == {SpanKind.PRODUCER}
    assert {parent(span) for span in sends} == {ids(recorded.named(f"process {QUEUE}"))[1]}
    systems = [(span.attributes or {})["messaging.system"] for span in sends]
    assert systems == ["aws_sqs", "aws_sqs", "aws.sns"]


class Groups:
    @translated
    async def describe(self) -> None:
        raise NotFound("no such group")


async def test_calls_to_aws_are_spans_below_the_message_and_none_elsewhere(recorded: Recorded) -> None:
    with pytest.raises(NotFound):
        await Groups().describe()
    assert recorded.all() == []
    with handled(message()), pytest.raises(NotFound):
        await Groups().describe()
    span = recorded.named("Groups.describe")
    assert parent(span) == ids(recorded.named(f"process {QUEUE}"))[1]
    assert (span.kind, (span.attributes or {})["error.type"]) == (SpanKind.CLIENT, "NotFound")


def test_what_belongs_to_another_trace_goes_on_there_and_is_linked(recorded: Recorded) -> None:
    with handled(message(BROUGHT)) as handling:
        with joined(OTHER, "go on"):
            assert (traceparent() or "").startswith("00-" + "c" * 32)
        assert (traceparent() or "").startswith("00-" + "a" * 32)
        handling.answered(Done("it is so"))
        assert (traceparent() or "").startswith("00-" + "c" * 32), "it belongs to the trace that was joined"
    assert traceparent() is None
    there, here = recorded.named("go on"), recorded.named(f"process {QUEUE}")
    assert (ids(there)[0], parent(there)) == ("c" * 32, "d" * 16)
    assert [link.context for link in there.links] == [here.context]
    assert [link.context for link in here.links] == [there.context]


def test_a_sweep_that_joins_several_traces_belongs_to_none_of_them(recorded: Recorded) -> None:
    with handled(message(BROUGHT)) as handling:
        for each in (OTHER, OTHER.replace("c", "e")):
            with joined(each, "go on"):
                pass
        handling.answered(Done("swept"))
        assert (traceparent() or "").startswith("00-" + "a" * 32)


@pytest.mark.parametrize("trace_of", [None, "nonsense", BROUGHT])
def test_no_trace_and_the_same_trace_change_nothing(recorded: Recorded, trace_of: str | None) -> None:
    with handled(message(BROUGHT)):
        before = traceparent()
        with joined(trace_of, "go on"):
            assert traceparent() == before
    assert len(recorded.all()) == 1


def test_without_an_exporter_log_lines_can_be_joined(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger()
    log.info("idle")
    with handled(message(BROUGHT)):
        log.info("brought")
    with handled(message()) as handling:
        log.info("own")
        with joined(OTHER, "go on"):
            log.info("joined")
        handling.answered(Done("so"))
        log.info("answered")
    idle, brought, own, other, answered = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "trace_id" not in idle
    assert brought["trace_id"] == "a" * 32
    assert len(own["trace_id"]) == 32
    assert own["trace_id"] not in {"a" * 32, "0" * 32}
    assert other["trace_id"] == answered["trace_id"] == "c" * 32
    assert len({line["span_id"] for line in (brought, own, other)}) == 3


async def consume(*bodies: str, handler: Any) -> None:
    """Let a consumer work for a minute."""
    clock = SteppedClock()
    queue = VirtualQueue(clock)
    queue.put(*bodies)
    consumer = Consumer(queue, handler, clock, random.Random(1), queue_name=QUEUE)
    running = asyncio.create_task(consumer.run())
    await clock.pass_time(60)
    consumer.stop()
    await clock.pass_time(1)
    await running


async def test_the_consumer_makes_a_span_of_every_message(recorded: Recorded) -> None:
    async def handler(incoming: Incoming) -> Outcome:
        if isinstance(incoming, ServerKillRequested) and incoming.server == "i-00000002":
            raise NotFound("no such server")
        return Done("it is so")

    await consume(kill(1), kill(2), "poison", handler=handler)
    spans = recorded.all()
    assert {span.name for span in spans} == {f"process {QUEUE}"}
    errors = {(span.attributes or {}).get("error.type") for span in spans}
    assert errors == {None, "NotFound", "Reject"}
    assert len({ids(span)[0] for span in spans}) == len(spans), "each in a trace of its own"


@pytest.fixture
def counted() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    metrics.measure_with(MeterProvider([reader], shutdown_on_exit=False).get_meter("test"))
    yield reader
    metrics.measure_with(None)


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    found = data.resource_metrics[0].scope_metrics[0].metrics
    return {metric.name: list(metric.data.data_points) for metric in found}


async def test_messages_are_counted_and_timed(counted: InMemoryMetricReader) -> None:
    async def handler(incoming: Incoming) -> Outcome:
        return Done("it is so")

    await consume(kill(1), kill(2), "poison", handler=handler)
    seen = points(counted)
    consumed = {point.attributes.get("error.type"): point.value for point in seen["messaging.client.consumed.messages"]}
    assert consumed == {None: 2, "Reject": 1}
    assert sum(point.count for point in seen["messaging.process.duration"]) == 3
    assert seen["messaging.process.duration"][0].attributes["messaging.destination.name"] == QUEUE


async def test_what_is_taken_out_is_counted(counted: InMemoryMetricReader) -> None:
    audits = Audits(Documents(FakeObjects()), FakeClock(), "reconciler")
    await audits.write("web", "terminate", "i-00000001", "chaos", "daily kill")
    [point] = points(counted)["autoprovisioner.disruptions"]
    assert (point.value, point.attributes["autoprovisioner.action"]) == (1, "terminate")


async def test_what_is_published_is_counted(counted: InMemoryMetricReader) -> None:
    publisher = Publisher(Client(), "arn:aws:sns:x:1:autoprovisioner-", "p", FakeClock())
    await publisher.publish(ServerReady(fleet="web", server="i-00000001", image="ami-00000001", seconds=42))
    await publisher.publish(ServerProvisionFailed(fleet="web", server="i-00000002", reason="boot"))
    seen = points(counted)
    launches = {point.attributes["autoprovisioner.result"]: point.value for point in seen["autoprovisioner.launches"]}
    assert launches == {"ready": 1, "failed": 1}
    assert seen["autoprovisioner.launch.duration"][0].sum == 42


class Launching:
    """A launch that several messages take further; each is handled as the consumer does it."""

    def __init__(self, world: FleetWorld, agent: Path) -> None:
        self.world = world
        self.agent = agent

    async def hears(self, incoming: Incoming, brought: str | None = None) -> Outcome:
        world = self.world
        runs = Runs(world.commands, world.objects, world.clock, self.agent)
        documents = Documents(world.objects)
        updates = Updates(
            groups=world.groups,
            servers=world.servers,
            documents=documents,
            components=world.components,
            runs=runs,
            publisher=world.publisher,
            clock=world.clock,
        )
        provisioner = Provisioner(
            groups=world.groups,
            servers=world.servers,
            documents=documents,
            updates=updates,
            fleets=world.fleets,
            components=world.components,
            runs=runs,
            publisher=world.publisher,
            alerts=world.alerts,
            clock=world.clock,
        )
        with Handling(QUEUE, message(brought), incoming, world.clock) as handled:
            outcome = await provisioner.handle(incoming)
            handled.answered(outcome)
        return outcome

    async def record(self) -> Launch:
        found = await self.world.documents.get(Launch, launch_key("web", FIRST))
        assert found is not None
        return found


@pytest.fixture
async def launching(tmp_path: Path) -> Launching:
    agent = tmp_path / "agent.py"
    agent.write_text("pass\n")
    world = FleetWorld()
    await world.release("1")
    world.server()
    return Launching(world, agent)


ACTION = LifecycleAction("web", FIRST, LAUNCH_HOOK, "token", "launching")


async def test_a_launch_is_one_trace_with_a_span_for_every_step(recorded: Recorded, launching: Launching) -> None:
    world = launching.world
    began = START + timedelta(seconds=2)
    steps = (
        StepResult(step="code", result="done", began=began, seconds=3.5, bytes=7, requests=2),
        StepResult(step="compile", result="skipped"),
        StepResult(step="health", result="failed", began=began + timedelta(seconds=4), seconds=1, reason="exit 1"),
    )
    assert isinstance(await launching.hears(ACTION), LookAgain)
    world.clock.step(20)
    world.report(world.commands.sent[0], "ok", steps)
    assert isinstance(await launching.hears(CommandChanged(world.commands.sent[0].command, FIRST, "Success")), Done)

    first = recorded.all()[0]
    assert ((await launching.record()).trace or "").split("-")[1:3] == list(ids(first))
    assert {ids(span)[0] for span in recorded.all("go on with launch")} == {ids(first)[0]}
    whole, attempt = recorded.named("launch"), recorded.named("attempt")
    told = [recorded.named(f"step {name}") for name in ("code", "compile", "health")]
    assert {ids(span)[0] for span in (whole, attempt, *told)} == {ids(first)[0]}
    assert (parent(whole), parent(attempt)) == (ids(first)[1], ids(whole)[1])
    assert {parent(span) for span in told} == {ids(attempt)[1]}
    code, compile_, health = told
    assert (code.start_time, code.end_time) == (nanoseconds(began), nanoseconds(began) + 3_500_000_000)
    assert compile_.start_time == compile_.end_time == code.end_time
    assert (code.attributes or {})["autoprovisioner.bytes"] == 7
    assert (code.attributes or {})["autoprovisioner.requests"] == 2
    assert health.status.description == "exit 1"


async def test_a_launch_is_told_by_the_one_process_that_ended_it(recorded: Recorded, launching: Launching) -> None:
    world = launching.world
    await launching.hears(ACTION)
    world.report(world.commands.sent[0], "ok", done("code", "compile", "health"))

    def another_ends_it() -> None:
        key = launch_key("web", FIRST)
        world.objects.bodies[key] = world.objects.bodies[key].replace(b'"result": "running"', b'"result": "ready"')

    world.publisher.meanwhile("publish", another_ends_it)
    await launching.hears(ACTION)
    assert (await launching.record()).result == "ready"
    assert recorded.all("launch") == []


async def test_a_launch_goes_on_in_the_trace_that_its_unclaimed_message_brought(
    recorded: Recorded, launching: Launching
) -> None:
    await launching.hears(LaunchUnclaimed(fleet="web", server=FIRST), BROUGHT)
    assert ((await launching.record()).trace or "").startswith("00-" + "a" * 32)


def nanoseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000_000
