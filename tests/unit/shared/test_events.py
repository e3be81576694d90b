"""What reaches a queue is understood or refused, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import BODY_LIMIT, DEPTH_LIMIT, ObjectChanged, Several, Unparseable, parse
from shared.messages import ImageRollbackRequested, ServerKillRequested, Tick
from tests.unit.shared.payloads import ALARM_BY_SNS, SCHEDULED, SERVER, SHAPES, TEST_NOTIFICATION, event, wrapped

ROLLBACK = '{"type":"image.rollback.requested","fleet":"web"}'


def without(payload: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in payload.items() if each != name}


def reason_for(body: str) -> str:
    with pytest.raises(Unparseable) as caught:
        parse(body)
    return str(caught.value)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_aws_is_understood(shape: str) -> None:
    payload, meaning = SHAPES[shape]
    assert parse(json.dumps(payload)) == meaning


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_understood_in_an_envelope_of_sns(shape: str) -> None:
    payload, meaning = SHAPES[shape]
    subject = "Auto Scaling:  Lifecycle action 'TERMINATING' for instance i-05629ab7d9287e205 in progress."
    assert parse(wrapped(json.dumps(payload), subject)) == meaning


@pytest.mark.parametrize("shape", SHAPES)
def test_fields_that_aws_adds_are_passed_over(shape: str) -> None:
    payload, meaning = SHAPES[shape]
    assert parse(json.dumps(payload | {"AddedLater": {"deep": [1]}})) == meaning


def test_a_message_typed_by_hand_is_understood() -> None:
    message = parse(ROLLBACK)
    assert isinstance(message, ImageRollbackRequested)
    assert (message.fleet, message.to, message.source) == ("web", None, "operator")
    assert parse(json.dumps({"type": "tick", "fleet": "web", "id": "x"})) == Tick(fleet="web", id="x")
    kill = '{"type": "server.kill.requested", "fleet": "web", "server": "i-12345678"}'
    assert isinstance(parse(wrapped(kill)), ServerKillRequested)


def test_a_rule_that_fires_without_an_input_is_a_tick() -> None:
    assert parse(json.dumps(SCHEDULED)) == Tick(
        id=SCHEDULED["id"], time=datetime(2021, 1, 13, 0, 12, 37, 214000, tzinfo=UTC), source="aws.events"
    )


def test_a_notification_of_several_objects_is_taken_apart() -> None:
    [record] = SHAPES["object"][0]["Records"]
    records = [record | {"s3": record["s3"] | {"object": {"key": key, "size": 1024}}} for key in ("a", "b%2Fc", "d+e")]

    several = parse(json.dumps({"Records": records}))
    assert isinstance(several, Several)
    parts = [parse(body) for body in several.bodies]
    assert parts == [ObjectChanged("amzn-s3-demo-bucket", key) for key in ("a", "b/c", "d e")]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\ud800", "not JSON"),
        ('{"Event": "\\ud800"}', "not JSON"),
        ('"text"', "not a JSON object"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "(none)"),
        ('{"hello": 1}', "'hello'"),
        ('{"a": NaN}', "not JSON"),
        ('{"type": "fleet.explode"}', "type"),
        ('{"type": 7}', "type"),
        ('{"type": "image.rollback.requested"}', "fleet"),
        ('{"type": "image.rollback.requested", "fleet": "web", "shell": "rm"}', "shell"),
        ('{"type": "image.rollback.requested", "fleet": "web; rm -rf /"}', "fleet"),
        ('{"type": "image.rollback.requested", "fleet": "web\\n"}', "fleet"),
        ('{"type": "server.kill.requested", "fleet": "web", "server": "i-1234567"}', "server"),
        (wrapped(wrapped(ROLLBACK)), "no shape that we know"),
        (wrapped("no JSON"), "not JSON"),
        (wrapped("{}").replace("Notification", "SubscriptionConfirmation", 1), "SubscriptionConfirmation"),
        ('{"TopicArn": "arn", "Type": "Notification", "Message": {"type": "tick"}}', "Message is not text"),
        ('{"Records": []}', "Records"),
        ('{"Records": [{}, {}]}', "s3 is missing"),
        ('{"Records": [7]}', "Records"),
        ('{"Records": {}}', "Records"),
        ('{"Records": [{"s3": {"bucket": {"name": "b"}}}]}', "object"),
        ('{"Event": "autoscaling:PARTY"}', "Event"),
        ('{"LifecycleTransition": "autoscaling:EC2_INSTANCE_RESTING"}', "LifecycleTransition"),
        (json.dumps(ALARM_BY_SNS | {"NewStateValue": "FINE"}), "NewStateValue"),
        (json.dumps(event("aws.ec2", "EC2 Instance Party", {})), "EC2 Instance Party"),
        (json.dumps(event("me", "EC2 Instance Launch Successful", {})), "'me'"),
        (json.dumps(event("aws.ec2", "EC2 Instance State-change Notification", {"state": "pending"})), "instance-id"),
        (json.dumps(SCHEDULED | {"time": "today"}), "time"),
    ],
)
def test_what_is_none_of_the_shapes_is_refused_with_a_reason(body: str, reason: str) -> None:
    assert reason in reason_for(body)


@pytest.mark.fault(40)
@pytest.mark.parametrize("server", ["", "i-xyz", f"{SERVER}\n", f" {SERVER}", "i-0598C7D356EBA48D7", 7, None, [SERVER]])
def test_an_id_that_cannot_be_is_refused(server: object) -> None:
    detail = {"instance-id": server, "state": "running"}
    assert "instance-id" in reason_for(json.dumps(event("aws.ec2", "EC2 Instance State-change Notification", detail)))


NAMED: dict[str, dict[str, str]] = {
    "server.kill.requested": {"server": SERVER},
    "server.disable.requested": {"server": SERVER},
    "image.pin.requested": {"image": "ami-12345678"},
    "image.rollback.requested": {"to": "ami-12345678"},
    "release.set.requested": {"component": "monolith", "version": "2"},
    "release.undo.requested": {"component": "monolith"},
    "image.bake.requested": {},
    "image.retirement.requested": {},
}
"""Requests, and their fields that become part of names, keys or calls, the fleet aside."""

NAMING = st.sampled_from([(kind, field) for kind, fields in NAMED.items() for field in ("fleet", *fields)])
SHELL = st.sampled_from([*" '\"`$\\;|&<>(){}*?!#~/\n\r\t\x00", "$(id)", "../", "é"])


@pytest.mark.fault(40)
@given(
    st.sampled_from([(kind, field) for kind, fields in NAMED.items() for field in ("fleet", *fields)]), SHELL, st.data()
)
def test_no_field_that_names_something_admits_a_character_that_means_something_to_a_shell(
    named: tuple[str, str], harmful: str, data: st.DataObject
) -> None:
    kind, field = named
    body = {"type": kind, "fleet": "web", **NAMED[kind]}
    assert parse(json.dumps(body))
    at = data.draw(st.integers(0, len(body[field])))
    assert reason_for(json.dumps(body | {field: body[field][:at] + harmful + body[field][at:]}))


@pytest.mark.parametrize("shape", ["launch, direct", "alarm by SNS", "invocation by SNS"])
def test_a_field_that_is_missing_is_named(shape: str) -> None:
    payload, _ = SHAPES[shape]
    missing = {"launch, direct": "LifecycleActionToken", "alarm by SNS": "NewStateValue", "invocation by SNS": "status"}
    assert missing[shape] in reason_for(json.dumps(without(payload, missing[shape])))


def test_a_body_that_is_too_long_is_refused_unread() -> None:
    padding = BODY_LIMIT - len(json.dumps(TEST_NOTIFICATION | {"x": ""}))
    assert parse(json.dumps(TEST_NOTIFICATION | {"x": "a" * padding}))
    assert "bytes" in reason_for(json.dumps(TEST_NOTIFICATION | {"x": "a" * (padding + 1)}))


def test_a_body_that_is_nested_too_deep_is_refused() -> None:
    deep: object = 1
    for _ in range(DEPTH_LIMIT - 1):
        deep = [deep]
    assert parse(json.dumps(TEST_NOTIFICATION | {"x": deep}))
    assert "deep" in reason_for(json.dumps(TEST_NOTIFICATION | {"x": [deep]}))
    assert reason_for('{"x":' * 20_000 + "1" + "}" * 20_000)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert parse(json.dumps(TEST_NOTIFICATION | {"x": [[] for _ in range(500)]}))


def test_reasons_are_short() -> None:
    assert len(reason_for(json.dumps({"x" * 100_000: 1, **{f"{n:0200d}": 1 for n in range(50)}}))) < 1000
    assert len(reason_for(json.dumps({"type": "tick", "y" * 100_000: 1}))) < 1000


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(SERVER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WHOLE = [payload for payload, _ in SHAPES.values()] + [
    SCHEDULED,
    json.loads(ROLLBACK),
    json.loads(wrapped(ROLLBACK)),
    {"type": "server.ready", "fleet": "web", "server": SERVER, "image": "ami-12345678", "seconds": 1.5},
]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A known payload with a few places replaced, removed or added, at any depth."""
    payload: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(WHOLE))))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = payload
        while isinstance(at, dict) and at:
            name = draw(st.sampled_from(sorted(at)))
            if isinstance(at[name], dict) and draw(st.booleans()):
                at = at[name]
                continue
            match draw(st.sampled_from(["replace", "remove", "add"])):
                case "replace":
                    at[name] = draw(ANYTHING)
                case "remove":
                    del at[name]
                case _:
                    at[draw(st.text(max_size=8))] = draw(ANYTHING)
            break
    return payload


def parses_or_refuses(body: str) -> None:
    reason = "none needed"
    try:
        parse(body)
    except Unparseable as error:
        reason = str(error)
    assert 0 < len(reason) < 1000


@pytest.mark.fault(14)
@given(mutated())
def test_mutations_are_understood_or_refused(payload: dict[str, Any]) -> None:
    parses_or_refuses(json.dumps(payload))
    parses_or_refuses(wrapped(json.dumps(payload)))


@pytest.mark.fault(14)
@given(st.sampled_from(WHOLE), st.data())
def test_bodies_cut_or_overwritten_anywhere_are_understood_or_refused(
    payload: dict[str, Any], data: st.DataObject
) -> None:
    body = json.dumps(payload)
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 20)))
    parses_or_refuses(body[:start] + data.draw(st.text(max_size=5)) + body[end:])


@pytest.mark.fault(14)
@given(st.text() | st.text(alphabet='{}[]",:\\u0dtype1e+-. '))
def test_any_text_is_understood_or_refused(body: str) -> None:
    parses_or_refuses(body)
