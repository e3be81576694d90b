"""What the ports to servers promise, asked of the adapters over HTTP and of the simulation's model of AWS.

The ports to documents and messages are in ``tests/wire/messaging``.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import pytest

from deploy.group import apply_group
from deploy.messaging import apply_messaging, service_environment
from localcloud.images import STOCK_PARAMETER
from shared.aws import Cloud, open_cloud
from shared.clock import SystemClock
from shared.cloud import (
    AlarmState,
    CommandState,
    CommandStatus,
    Denied,
    GroupMember,
    NotFound,
    Refused,
    Unavailable,
)
from shared.fleet import Fleet
from shared.ids import BAKE_TAG, FLEET_TAG, MANAGED_TAG, ROLE_TAG
from shared.names import LAUNCH_HOOK, RUN_DOCUMENT, TERMINATE_HOOK
from shared.plan import Plan, PlannedStep
from shared.settings import PREFIX
from tests.simulation.fleet import INCIDENT
from tests.simulation.machines import STOCK
from tests.wire.modelled import Model
from tests.wire.running import RunningCloud

T = TypeVar("T")
NOBODY = "i-0123456789abcdef0"
SLOW = b"import time; time.sleep(100)"
AGENT = b"import os\ndef command(given): print(given[0], open(given[1]).read(), os.environ['SERVER_ROOT'])\n"
PLAN = (
    Plan(
        fleet="web",
        server=NOBODY,
        attempt="a",
        address="10.0.0.1",
        report_url="https://s3.invalid/run/report?method=put",
        steps=(PlannedStep(step="long", kind="run", fingerprint="f", timeout_s=500),),
    )
    .model_dump_json()
    .encode()
)
"""The model runs it, and takes minutes of its own time; the real thing runs what stands in for the agent."""

TAGS = {MANAGED_TAG: "true", FLEET_TAG: "web", ROLE_TAG: "builder", BAKE_TAG: "web-20260131t020000"}


@dataclass(frozen=True)
class Settings:
    bucket: str
    topic_prefix: str
    queue_url: str | None = None
    dead_letter_url: str | None = None


@pytest.fixture(scope="module")
def environment(local_cloud: RunningCloud) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in local_cloud.environment.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def settings(environment: pytest.MonkeyPatch) -> Settings:
    asyncio.run(apply_messaging(say=lambda _: None))
    variables = asyncio.run(service_environment("registry"))
    ours = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items() if name.startswith(PREFIX)}
    return Settings(**ours)


FLEET = Fleet.model_validate(
    {
        "fleet": "web",
        "stock": STOCK_PARAMETER,
        "capacity": {"min": 0, "desired": 1, "max": 3},
        "plan": [{"step": "alive", "check": "http://{address}/"}],
        "health": {"url": "http://{address}/"},
    }
)


@dataclass(frozen=True)
class Plane:
    """Where AWS is for a test, with the fleet's group in it."""

    open: Callable[[], AbstractAsyncContextManager[Cloud]]
    stock: str
    alarm: Callable[[AlarmState], object]
    """Puts the fleet's alarm ``INCIDENT`` into a state."""


@contextmanager
def over_http(settings: Settings, local_cloud: RunningCloud) -> Iterator[Plane]:
    asyncio.run(apply_group(FLEET))
    cloudwatch = local_cloud.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=INCIDENT,
        MetricName="Incidents",
        Namespace="web",
        ComparisonOperator="GreaterThanThreshold",
        EvaluationPeriods=1,
        Period=60,
        Statistic="Sum",
        Threshold=0,
    )
    yield Plane(
        lambda: open_cloud(settings, "registry", SystemClock()),
        STOCK_PARAMETER,
        lambda state: cloudwatch.set_alarm_state(AlarmName=INCIDENT, StateValue=state, StateReason="a test"),
    )


@contextmanager
def modelled() -> Iterator[Plane]:
    model = Model()
    model.world.create(FLEET)
    try:
        yield Plane(lambda: nullcontext(model.open()), STOCK, model.set_alarm)
    finally:
        model.close()


@pytest.fixture(scope="module", params=["http", "model"])
def plane(request: pytest.FixtureRequest) -> Iterator[Plane]:
    over = [request.getfixturevalue(each) for each in ("settings", "local_cloud") if request.param == "http"]
    with over_http(*over) if over else modelled() as opened:
        yield opened


real = pytest.mark.parametrize("plane", ["http"], indirect=True)
"""For what the model leaves out on purpose: processes, disks, and fields of EC2 that no service looks at."""


@pytest.fixture
async def cloud(plane: Plane) -> AsyncIterator[Cloud]:
    async with plane.open() as opened:
        yield opened


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], object]) -> T:
    async with asyncio.timeout(20):
        while not good(seen := await look()):  # noqa: ASYNC110  the local cloud has no event to wait for
            await asyncio.sleep(0.1)
    return seen


# Groups


async def waiting(cloud: Cloud) -> str:
    """Return a server that waits in the launch hook."""
    group = await until(
        lambda: cloud.groups.describe("web"),
        lambda group: [member for member in group.members if member.state == "Pending:Wait"],
    )
    return next(member.server for member in group.members if member.state == "Pending:Wait")


async def seen_as(cloud: Cloud, server: str) -> GroupMember | None:
    return (await cloud.groups.describe("web")).member(server)


async def test_a_group_is_seen_as_it_was_described(cloud: Cloud) -> None:
    group = await cloud.groups.describe("web")
    assert (group.minimum, group.desired, group.maximum, group.managed) == (0, 1, 3, True)
    with pytest.raises(NotFound):
        await cloud.groups.describe("nobodys")


@pytest.mark.fault(20, 23)
async def test_a_hook_is_completed_once_and_the_server_detached_once(cloud: Cloud) -> None:
    server = await waiting(cloud)
    assert await cloud.groups.heartbeat("web", server, LAUNCH_HOOK)
    assert not await cloud.groups.heartbeat("web", server, TERMINATE_HOOK)
    assert await cloud.groups.complete("web", server, LAUNCH_HOOK, "CONTINUE")
    assert not await cloud.groups.complete("web", server, LAUNCH_HOOK, "CONTINUE")
    member = await until(lambda: seen_as(cloud, server), lambda member: member and member.in_service)
    assert member
    assert member.healthy
    await cloud.groups.detach("web", server)
    await cloud.groups.detach("web", server)
    gone = await until(lambda: cloud.groups.describe("web"), lambda group: group.member(server) is None)
    assert gone.desired == 1
    await cloud.servers.terminate(server)


@pytest.mark.parametrize("how", ["terminate", "mark_unhealthy"])
async def test_a_server_taken_out_is_replaced_after_its_hook(cloud: Cloud, how: str) -> None:
    server = await waiting(cloud)
    await cloud.groups.complete("web", server, LAUNCH_HOOK, "CONTINUE")
    await getattr(cloud.groups, how)("web", server)
    await until(lambda: cloud.groups.complete("web", server, TERMINATE_HOOK, "CONTINUE"), bool)
    assert await waiting(cloud) != server


async def test_a_server_of_no_group_is_not_found(cloud: Cloud) -> None:
    with pytest.raises(NotFound):
        await cloud.groups.terminate("web", NOBODY)
    with pytest.raises(NotFound):
        await cloud.groups.mark_unhealthy("web", NOBODY)


async def test_a_launch_that_is_abandoned_is_replaced_and_one_that_is_kept_alive_stays(cloud: Cloud) -> None:
    server = await waiting(cloud)
    for _ in range(3):
        assert await cloud.groups.heartbeat("web", server, LAUNCH_HOOK)
    assert not await cloud.groups.complete("web", NOBODY, LAUNCH_HOOK, "CONTINUE")
    assert await cloud.groups.complete("web", server, LAUNCH_HOOK, "ABANDON")
    assert not await cloud.groups.heartbeat("web", server, LAUNCH_HOOK)
    await until(lambda: cloud.groups.complete("web", server, TERMINATE_HOOK, "CONTINUE"), bool)
    assert await waiting(cloud) != server
    with pytest.raises(Refused):
        await cloud.groups.complete("nobodys", server, LAUNCH_HOOK, "CONTINUE")


async def test_a_member_that_is_taken_out_twice_leaves_once(cloud: Cloud) -> None:
    server = await waiting(cloud)
    await cloud.groups.complete("web", server, LAUNCH_HOOK, "CONTINUE")
    await until(lambda: seen_as(cloud, server), lambda member: member and member.in_service)
    await cloud.groups.terminate("web", server)
    await cloud.groups.terminate("web", server)
    await cloud.groups.mark_unhealthy("web", server)
    await until(lambda: cloud.groups.complete("web", server, TERMINATE_HOOK, "CONTINUE"), bool)
    group = await until(lambda: cloud.groups.describe("web"), lambda group: group.member(server) is None)
    assert group.desired == 1


# Servers, commands, images


@pytest.fixture
async def stock(cloud: Cloud, plane: Plane) -> str:
    return await cloud.servers.stock_image(plane.stock)


@pytest.fixture
async def builder(cloud: Cloud, stock: str) -> str:
    """A server outside the group whose agent answers; the same one in every test, since the token is the same."""
    server = await cloud.servers.launch("a-bake's-token" * 10, stock, "web", TAGS)
    await until(lambda: cloud.commands.online(server), bool)
    return server


@pytest.mark.fault(25)
async def test_the_same_token_launches_the_same_server(cloud: Cloud, stock: str, builder: str) -> None:
    assert await cloud.servers.launch("a-bake's-token" * 10, stock, "web", TAGS) == builder
    await cloud.servers.tag(builder, {"more": "of it"})
    seen = await cloud.servers.instances([builder, NOBODY])
    assert set(seen) == {builder}
    assert (seen[builder].state, seen[builder].image) == ("running", stock)
    assert seen[builder].tags.items() >= {**TAGS, "more": "of it"}.items()
    assert builder in [each.server for each in await cloud.servers.tagged(TAGS)]
    assert await cloud.servers.tagged({**TAGS, BAKE_TAG: "another"}) == []


async def test_stock_images_are_ids_or_parameters_that_hold_one(cloud: Cloud, stock: str) -> None:
    assert await cloud.servers.stock_image(stock) == stock
    with pytest.raises(NotFound):
        await cloud.servers.stock_image("/nobodys/parameter")


@pytest.mark.fault(25)
async def test_a_token_that_was_used_for_another_image_or_other_tags_is_refused(
    cloud: Cloud, stock: str, builder: str
) -> None:
    with pytest.raises(Refused):
        await cloud.servers.launch("a-bake's-token" * 10, stock, "web", {**TAGS, BAKE_TAG: "another"})
    assert [each.server for each in await cloud.servers.tagged(TAGS)] == [builder]


async def test_what_is_not_there_is_not_found(cloud: Cloud, stock: str) -> None:
    nothing = "ami-0123456789abcdef0"
    with pytest.raises(NotFound):
        await cloud.servers.launch("for-nothing", nothing, "web", TAGS)
    with pytest.raises(NotFound):
        await cloud.servers.terminate(NOBODY)
    with pytest.raises(NotFound):
        await cloud.servers.tag(NOBODY, TAGS)
    with pytest.raises(NotFound):
        await cloud.servers.create_image(NOBODY, "web-of-nobody", TAGS)
    assert await cloud.servers.image(nothing) is None
    assert await cloud.servers.instances([]) == {}
    with pytest.raises(ValueError, match="no tags"):
        await cloud.servers.tagged({})
    with pytest.raises(NotFound):
        await cloud.servers.set_template_image("nobodys", stock)


async def test_a_server_that_is_terminated_twice_is_gone_once_and_told_as_terminated_for_a_while(
    cloud: Cloud, stock: str
) -> None:
    tags = {**TAGS, BAKE_TAG: "short-lived"}
    server = await cloud.servers.launch("short-lived", stock, "web", tags)
    await until(lambda: cloud.commands.online(server), bool)
    await cloud.servers.terminate(server)
    await cloud.servers.terminate(server)
    await until(lambda: cloud.servers.tagged(tags), lambda found: not found)
    seen = await cloud.servers.instances([server])
    assert seen[server].state == "terminated"
    assert not await cloud.commands.online(server)


async def run_plan(
    cloud: Cloud, server: str, comment: str, *, agent: bytes = AGENT, document: str = RUN_DOCUMENT, **changed: str
) -> str:
    await cloud.objects.put("run/agent.py", agent)
    await cloud.objects.put("run/plan.json", PLAN)
    parameters = {
        "AgentUrl": await cloud.objects.presign_get("run/agent.py", 600),
        "AgentSha256": hashlib.sha256(agent).hexdigest(),
        "PlanUrl": await cloud.objects.presign_get("run/plan.json", 600),
        "PlanSha256": hashlib.sha256(PLAN).hexdigest(),
    }
    return await cloud.commands.send(server, document, {**parameters, **changed}, comment, 60)


@real
async def test_a_plan_runs_on_a_server_and_leaves_nothing_of_itself(
    cloud: Cloud, builder: str, local_cloud: RunningCloud
) -> None:
    command = await run_plan(cloud, builder, "attempt-1")
    status = await until(lambda: cloud.commands.status(builder, command), ended)
    assert (status.state, status.code) == (CommandState.SUCCEEDED, 0)
    word, plan, root = status.output.split()
    assert (word, plan) == ("run", PLAN.decode())
    assert root.startswith(str(local_cloud.state))
    assert not list(local_cloud.state.glob("instances/*/root/var/lib/autoprovisioner/run.*"))


@real
async def test_an_agent_that_a_server_has_is_not_fetched_again_unless_it_is_damaged(
    cloud: Cloud, builder: str, local_cloud: RunningCloud
) -> None:
    async def outcome(comment: str, url: str | None = None) -> CommandState:
        changed = {"AgentUrl": url} if url else {}
        command = await run_plan(cloud, builder, comment, agent=AGENT, document=RUN_DOCUMENT, **changed)
        return (await until(lambda: cloud.commands.status(builder, command), ended)).state

    nowhere = await cloud.objects.presign_get("run/nothing", 600)
    assert await outcome("kept-1") == CommandState.SUCCEEDED
    assert await outcome("kept-2", nowhere) == CommandState.SUCCEEDED
    [agent] = local_cloud.state.glob(f"instances/{builder}/**/agents/*/agent.py")
    agent.write_bytes(AGENT[:-5])
    assert await outcome("kept-3", nowhere) == CommandState.FAILED
    assert await outcome("kept-4") == CommandState.SUCCEEDED
    assert agent.read_bytes() == AGENT


def ended(status: CommandStatus) -> bool:
    return status.state != CommandState.RUNNING


@real
@pytest.mark.parametrize(("parameter", "what"), [("PlanSha256", "the plan"), ("AgentSha256", "the agent")])
async def test_what_was_tampered_with_is_named_and_nothing_runs(
    cloud: Cloud, builder: str, parameter: str, what: str
) -> None:
    changed = {parameter: "0" * 64}
    command = await run_plan(cloud, builder, f"attempt-{parameter}", agent=AGENT, document=RUN_DOCUMENT, **changed)
    status = await until(lambda: cloud.commands.status(builder, command), ended)
    assert status.state == CommandState.FAILED
    assert status.errors.strip() == f"{what} has another digest than {'0' * 64}, so nothing was run"
    assert status.output == ""


@real
@pytest.mark.fault(40)
async def test_what_is_no_url_never_reaches_the_server(cloud: Cloud, builder: str) -> None:
    with pytest.raises(Refused):
        await run_plan(cloud, builder, "attempt-3", PlanUrl="http://x/'; touch /tmp/x; '")
    assert await cloud.commands.find(builder, "attempt-3") is None


async def test_a_command_is_found_by_its_comment(cloud: Cloud, builder: str) -> None:
    command = await run_plan(cloud, builder, "attempt-4")
    assert await until(lambda: cloud.commands.find(builder, "attempt-4"), bool) == command
    assert (await cloud.commands.status(NOBODY, command)).state == CommandState.UNKNOWN
    await cloud.commands.cancel(builder, command)
    with pytest.raises(NotFound):
        await run_plan(cloud, NOBODY, "attempt-5")
    assert not await cloud.commands.online(NOBODY)


async def test_a_cancelled_command_ends_as_cancelled_and_one_that_is_unknown_is_not_found(
    cloud: Cloud, builder: str
) -> None:
    command = await run_plan(cloud, builder, "attempt-6", agent=SLOW)
    assert (await cloud.commands.status(builder, command)).state == CommandState.RUNNING
    await cloud.commands.cancel(builder, command)
    status = await until(lambda: cloud.commands.status(builder, command), ended)
    assert status.state == CommandState.CANCELLED
    await cloud.commands.cancel(builder, command)
    unknown = "01234567-89ab-4cde-8f01-23456789abcd"
    assert (await cloud.commands.status(builder, unknown)).state == CommandState.UNKNOWN
    with pytest.raises(NotFound):
        await cloud.commands.cancel(builder, unknown)
    with pytest.raises(NotFound):
        await run_plan(cloud, builder, "attempt-7", document="nobodys-document")


@pytest.mark.fault(26)
async def test_an_image_name_makes_one_image(cloud: Cloud, builder: str) -> None:
    made = await cloud.servers.create_image(builder, "web-1", TAGS)
    assert await cloud.servers.create_image(builder, "web-1", TAGS) == made
    with pytest.raises(Refused):
        await cloud.servers.create_image(builder, "web-1", {**TAGS, BAKE_TAG: "another"})
    image = await until(lambda: cloud.servers.image(made), lambda image: image and image.state == "available")
    assert image
    assert image.tags.items() >= TAGS.items()
    assert image.snapshots
    assert [each.image for each in await cloud.servers.images("web")] == [made]
    assert await cloud.servers.images("another") == []
    await cloud.servers.deregister(image)
    await cloud.servers.deregister(image)
    assert await cloud.servers.image(made) is None


@real
async def test_a_template_follows_an_image_and_keeps_the_rest(
    cloud: Cloud, stock: str, local_cloud: RunningCloud
) -> None:
    other = "ami-0123456789abcdef0"
    [first] = [each for each in await cloud.servers.templates("web") if each.default]
    number = await cloud.servers.set_template_image("web", other)
    assert await cloud.servers.set_template_image("web", other) == number
    assert {each.image for each in await cloud.servers.templates("web") if each.default} == {other}
    described = local_cloud.client("ec2").describe_launch_template_versions(
        LaunchTemplateName="web", Versions=[str(number)]
    )
    data = described["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert data["InstanceType"] == "m7i.large"
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert await cloud.servers.set_template_image("web", stock) == first.version
    with pytest.raises(NotFound):
        await cloud.servers.templates("nobodys")


# Faults


async def test_nobody_at_the_address_is_unavailable(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    async with open_cloud(settings, "ops", SystemClock()) as cloud:
        with pytest.raises(Unavailable):
            await cloud.commands.online(NOBODY)
        assert await cloud.health.probe("http://127.0.0.1:1/", 1) is False


@pytest.mark.fault(42)
async def test_missing_credentials_are_denied(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    async with open_cloud(settings, "ops", SystemClock()) as cloud:
        with pytest.raises(Denied):
            await cloud.groups.describe("web")


# Alarms


async def states(plane: Plane, cloud: Cloud, names: Sequence[str], state: AlarmState) -> Mapping[str, AlarmState]:
    """Ask right after the alarm was put into a state: it stays in it until it is evaluated."""
    await asyncio.to_thread(plane.alarm, state)
    return await cloud.alarms.states(names)


@pytest.mark.parametrize("state", ["ALARM", "INSUFFICIENT_DATA", "OK"])
@pytest.mark.parametrize("others", [1, 150])
async def test_each_alarm_has_the_state_that_it_is_in_and_one_that_does_not_exist_has_no_data(
    plane: Plane, cloud: Cloud, state: AlarmState, others: int
) -> None:
    nobodys = [f"nobodys-{number}" for number in range(others)]
    expected = {**dict.fromkeys(nobodys, "INSUFFICIENT_DATA"), INCIDENT: state}
    await until(lambda: states(plane, cloud, [*nobodys, INCIDENT], state), lambda found: found == expected)


async def test_of_no_alarms_there_are_no_states(cloud: Cloud) -> None:
    assert await cloud.alarms.states([]) == {}
