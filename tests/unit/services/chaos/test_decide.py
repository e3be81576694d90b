from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chaos import decide
from services.chaos.decide import Kill, Leave, View
from shared.cloud import AlarmState, Group
from shared.fleet import ChaosPolicy
from shared.records import Disruption, FleetStatus, Pause
from tests.fakes import START
from tests.unit.services.making import fleet, group, member, server

WEB_OF_THREE = group(member(1), member(2), member(3))


def status(state: Literal["converged", "degraded"] = "converged", killed: int = 0, by: str = "chaos") -> FleetStatus:
    disruptions = tuple(Disruption(server=server(9), at=START - timedelta(hours=2), by=by) for _ in range(killed))
    return FleetStatus(state=state, since=START, healthy=3, wanted=3, disruptions=disruptions)


def view(
    seen: Group = WEB_OF_THREE,
    *,
    chaos: Mapping[str, object] | None = None,
    pause: Pause | None = None,
    alarms: Mapping[str, AlarmState] | None = None,
    last: FleetStatus | None = status(),  # noqa: B008  frozen
    now: datetime = START,
) -> View:
    policy = {"enabled": True, **(chaos or {})}
    return View(fleet({"chaos": policy}), seen, pause, alarms or {}, last, now)


def consider(seen: View, *, coin: float = 0.0, pick: float = 0.0, asked: bool = False) -> Kill | Leave:
    return decide.consider(seen, coin, pick, asked=asked)


UNSAFE = {
    "no opt-in": view(chaos={"enabled": False}),
    "not ours": view(group(member(1), member(2), member(3), managed=False)),
    "paused": view(pause=Pause(what="chaos", by="ann")),
    "automation paused": view(pause=Pause(what="automation", by="ann", until=START + timedelta(seconds=1))),
    "alarm fires": view(chaos={"alarms": ["slow"]}, alarms={"slow": "ALARM"}),
    "alarm unknown": view(chaos={"alarms": ["slow"]}, alarms={"slow": "INSUFFICIENT_DATA"}),
    "alarm missing": view(chaos={"alarms": ["slow"]}),
    "one short": view(group(member(1), member(2), desired=3)),
    "one too many": view(group(member(1), member(2), desired=1)),
    "one pending": view(group(member(1), member(2), member(3, "Pending:Wait"), desired=2)),
    "one leaving": view(group(member(1), member(2), member(3, "Terminating:Wait"), desired=2)),
    "one unhealthy": view(group(member(1), member(2), member(3, healthy=False))),
    "degraded": view(last=status("degraded")),
    "never looked at": view(last=None),
    "launches suspended": view(group(member(1), member(2), suspended=("Launch",))),
}


@pytest.mark.parametrize("asked", [False, True], ids=["scheduled", "asked"])
@pytest.mark.parametrize("why", UNSAFE)
@pytest.mark.fault(35, 36)
def test_nobody_is_killed_when_a_check_says_no_even_on_request(why: str, asked: bool) -> None:
    assert isinstance(consider(UNSAFE[why], asked=asked), Leave)


def test_a_fleet_at_strength_may_lose_one_when_the_coin_says_so() -> None:
    assert isinstance(consider(view(chaos={"alarms": ["slow"]}, alarms={"slow": "OK"})), Kill)


def test_a_pause_that_is_over_is_none() -> None:
    assert isinstance(consider(view(pause=Pause(what="chaos", by="ann", until=START))), Kill)


@pytest.mark.fault(30)
def test_an_empty_fleet_has_no_victim() -> None:
    assert isinstance(consider(view(group())), Leave)


@pytest.mark.parametrize(
    ("now", "allowed"),
    [
        (START.replace(hour=8, minute=59), False),
        (START.replace(hour=9), True),
        (START.replace(hour=16, minute=59), True),
        (START.replace(hour=17), False),
        (START + timedelta(days=3), False),
        (START + timedelta(days=5), True),
    ],
)
def test_kills_happen_in_the_working_hours_only_unless_asked_for(now: datetime, allowed: bool) -> None:
    assert isinstance(consider(view(now=now)), Kill) is allowed
    assert isinstance(consider(view(now=now), asked=True), Kill)


def test_hours_may_span_midnight() -> None:
    night = {"hours": (22, 4)}
    assert isinstance(consider(view(chaos=night, now=START.replace(hour=1))), Kill)
    assert isinstance(consider(view(chaos=night, now=START.replace(hour=3))), Kill)
    assert isinstance(consider(view(chaos=night, now=START.replace(hour=4))), Leave)
    assert isinstance(consider(view(chaos=night, now=START.replace(hour=12))), Leave)


def test_the_coin_decides_unless_somebody_asks() -> None:
    chance = decide.probability(ChaosPolicy())
    assert isinstance(consider(view(), coin=chance), Leave)
    assert isinstance(consider(view(), coin=chance - 1e-9), Kill)
    assert isinstance(consider(view(), coin=0.999, asked=True), Kill)


def test_a_day_has_as_many_kills_as_the_policy_says_on_average() -> None:
    for kills, hours in ((1.0, (9, 17)), (4.0, (0, 0)), (0.2, (22, 4))):
        policy = ChaosPolicy(kills_per_day=kills, hours=hours)
        ticks = decide.working_hours(policy) * 4
        assert decide.probability(policy) * ticks == pytest.approx(kills)


def test_enough_for_a_day_is_enough_and_kills_of_others_do_not_count() -> None:
    assert isinstance(consider(view(last=status(killed=1))), Leave)
    assert isinstance(consider(view(last=status(killed=1, by="ops"))), Kill)
    assert isinstance(consider(view(chaos={"kills_per_day": 2}, last=status(killed=1))), Kill)
    assert isinstance(consider(view(last=status(killed=1), now=START + timedelta(hours=21))), Leave)


@given(pick=st.floats(0, 1, exclude_max=True), size=st.integers(1, 20))
def test_the_victim_is_in_service_and_follows_from_the_draw_alone(pick: float, size: int) -> None:
    forwards = group(*(member(number) for number in range(size)))
    backwards = group(*(member(number) for number in reversed(range(size))))
    chosen = consider(view(forwards), pick=pick)
    assert isinstance(chosen, Kill)
    assert forwards.member(chosen.server) is not None
    assert consider(view(backwards), pick=pick) == chosen


@pytest.mark.fault(30)
@given(
    states=st.lists(st.sampled_from(["Pending", "Pending:Wait", "Terminating:Wait", "Standby"]), max_size=5),
    desired=st.integers(0, 5),
    pick=st.floats(0, 1, exclude_max=True),
    asked=st.booleans(),
)
def test_where_nobody_is_in_service_there_is_no_victim(
    states: list[str], desired: int, pick: float, asked: bool
) -> None:
    seen = group(*(member(number, state) for number, state in enumerate(states)), desired=desired)
    assert isinstance(consider(view(seen), pick=pick, asked=asked), Leave)


def test_every_server_can_be_drawn() -> None:
    drawn = {consider(view(), pick=pick) for pick in (0.1, 0.5, 0.9)}
    assert len(drawn) == 3


def test_the_probability_is_spread_over_the_ticks_that_the_template_schedules() -> None:
    template = (Path(__file__).parents[4] / "deploy" / "messaging.yaml").read_text()
    rate = re.search(r"Name: autoprovisioner-chaos-tick\n.*?rate\((\d+) minutes\)", template, re.DOTALL)
    assert rate is not None
    assert timedelta(minutes=int(rate[1])) == decide.TICK


def test_who_is_killed_and_why_is_said() -> None:
    assert consider(view(), pick=0.5) == Kill(server(2), "drawn from 3 servers, by the daily coin")
    assert consider(view(), pick=0.0, asked=True) == Kill(server(1), "drawn from 3 servers, on request")


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (view(chaos={"enabled": False}), "the fleet web has not opted in"),
        (view(group(member(1), managed=False)), "the group web lacks our ownership tag"),
        (
            view(chaos={"alarms": ["slow", "lost", "full"]}, alarms={"slow": "ALARM", "full": "OK"}),
            "an incident may be under way: slow is ALARM, lost is unknown",
        ),
        (view(group(member(1), desired=2)), "not at strength: 1 of 2 in service, 1 in the group"),
        (view(last=None), "the reconciler calls the fleet nothing yet"),
        (view(last=status("degraded")), "the reconciler calls the fleet degraded"),
        (
            view(group(member(1), member(2), member(3), suspended=("Terminate", "Launch"))),
            "processes of the group are suspended: Launch, Terminate",
        ),
        (view(group()), "nobody is in service"),
    ],
)
def test_why_a_kill_is_unsafe_is_said(seen: View, why: str) -> None:
    assert consider(seen, asked=True) == Leave(why)


def test_why_it_is_not_the_time_for_a_kill_is_said() -> None:
    assert consider(view(now=START.replace(hour=3))) == Leave("not between 9 and 17 o'clock UTC of a working day")
    assert consider(view(last=status(killed=1))) == Leave("1 killed within a day already")
    assert consider(view(), coin=0.99) == Leave("the coin says no, at 3% a tick")


def test_kills_count_for_a_day() -> None:
    """The kill was two hours before noon."""
    assert isinstance(consider(view(last=status(killed=1), now=START + timedelta(hours=22))), Leave | Kill)
    seen = status(killed=1)
    a_day_old = seen.model_copy(
        update={"disruptions": (seen.disruptions[0].model_copy(update={"at": START - timedelta(days=1)}),)}
    )
    assert isinstance(consider(view(last=a_day_old)), Kill)
    younger = seen.model_copy(
        update={"disruptions": (seen.disruptions[0].model_copy(update={"at": START - timedelta(hours=23.9)}),)}
    )
    assert isinstance(consider(view(last=younger)), Leave)


def test_a_part_of_a_kill_a_day_is_one_kill_on_some_days() -> None:
    assert isinstance(consider(view(chaos={"kills_per_day": 0.2}, last=status(killed=1))), Leave)
    assert isinstance(consider(view(chaos={"kills_per_day": 1.5}, last=status(killed=1))), Kill)


def test_the_chance_of_a_tick_never_exceeds_one() -> None:
    assert decide.probability(ChaosPolicy(kills_per_day=24, hours=(9, 10))) == 1.0
    assert decide.working_hours(ChaosPolicy(hours=(0, 0))) == 24
    assert decide.working_hours(ChaosPolicy(hours=(22, 4))) == 6
