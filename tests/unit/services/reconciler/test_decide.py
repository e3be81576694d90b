from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reconciler import decide
from services.reconciler.decide import AnnounceUnclaimed, EndQuarantine, Hold, Nothing, Refuse, TakeOut, View
from shared.cloud import Group, GroupMember
from shared.ids import QUARANTINE_TAG
from shared.messages import ServerDisableRequested, ServerKillRequested
from shared.records import Disruption, FleetStatus, Pause
from tests.fakes import START
from tests.unit.services.making import WEB, fleet, group, instance, member, server


def view(
    seen: Group,
    *,
    sick: Sequence[int] = (),
    unknown: Sequence[int] = (),
    pause: Pause | None = None,
    claimed: Sequence[int] = (),
    now: datetime = START,
    policies: Mapping[str, Mapping[str, object]] | None = None,
    states: Mapping[int, str] | None = None,
    quarantined: Mapping[int, str] | None = None,
) -> View:
    ill, blind = {server(each) for each in sick}, {server(each) for each in unknown}
    numbers = {each.server: int(each.server[2:], 16) for each in seen.members}
    health = {
        each.server: each.server not in ill for each in seen.members if each.in_service and each.server not in blind
    }
    return View(
        fleet=fleet(policies),
        group=seen,
        instances={name: instance(number, (states or {}).get(number, "running")) for name, number in numbers.items()},
        quarantined=tuple(instance(each, tags={QUARANTINE_TAG: tag}) for each, tag in (quarantined or {}).items()),
        health=health,
        claimed=frozenset(server(each) for each in claimed),
        pause=pause,
        now=now,
    )


def in_service(*numbers: int, desired: int | None = None) -> Group:
    return group(*(member(number) for number in numbers), desired=desired)


def status(*disrupted: tuple[int, float]) -> FleetStatus:
    """A status with disruptions of these servers so many minutes ago."""
    disruptions = tuple(
        Disruption(server=server(number), at=START - timedelta(minutes=ago), by="ops") for number, ago in disrupted
    )
    return FleetStatus(state="converged", since=START, healthy=3, wanted=3, disruptions=disruptions)


def kill(number: int, by: str = "ops", time: datetime | None = START, source: str = "operator") -> ServerKillRequested:
    return ServerKillRequested(fleet=WEB, server=server(number), by=by, time=time, source=source)


CHAOTIC: Mapping[str, Mapping[str, object]] = {"chaos": {"enabled": True, "alarms": ("too-slow",)}}


def answer(seen: View, number: int = 1, **alarms: Literal["OK", "ALARM", "INSUFFICIENT_DATA"]) -> object:
    states = {name.replace("_", "-"): state for name, state in alarms.items()}
    return decide.answer(seen, kill(number, by="chaos", source="chaos"), states)


# What is said of the fleet


def test_a_fleet_with_all_wanted_servers_healthy_is_converged() -> None:
    assert decide.word(view(in_service(1, 2, 3))).state == "converged"


def test_a_server_that_ec2_is_taking_away_makes_the_fleet_degraded_and_is_named() -> None:
    said = decide.word(view(in_service(1, 2, 3), states={2: "shutting-down"}))
    assert (said.state, said.healthy, said.wanted) == ("degraded", 2, 3)
    assert server(2) in said.reason


@pytest.mark.fault(32)
def test_a_server_of_unknown_health_counts_as_healthy_in_what_is_said() -> None:
    assert decide.word(view(in_service(1, 2, 3), unknown=(1,))).state == "converged"


def test_the_time_of_a_state_is_kept_while_the_state_lasts() -> None:
    before = status()
    later = view(in_service(1, 2, desired=3), now=START + timedelta(hours=1))
    degraded = decide.status_after(later, before)
    assert (degraded.state, degraded.since) == ("degraded", later.now)
    still = decide.status_after(view(in_service(1, desired=3), now=START + timedelta(hours=2)), degraded)
    assert (still.healthy, still.since) == (1, later.now)


# Repair


def test_a_sick_server_is_marked_and_the_well_ones_are_left() -> None:
    (action,) = decide.sweep(view(in_service(1, 2, 3), sick=(2,)))
    assert isinstance(action, TakeOut)
    assert (action.server, action.how) == (server(2), "marked-unhealthy")


@pytest.mark.fault(32)
def test_unknown_health_is_not_sickness() -> None:
    assert decide.sweep(view(in_service(1, 2, 3), unknown=(2,))) == ()


@pytest.mark.fault(32)
def test_health_that_is_blind_altogether_is_held_and_told() -> None:
    held = decide.hold(view(in_service(1, 2, 3), unknown=(1, 2, 3)))
    assert held is not None
    assert held.cause == "health-blind"


@pytest.mark.fault(31)
def test_when_more_than_the_breakers_share_looks_sick_nobody_is_touched_and_a_person_is_called() -> None:
    seen = view(in_service(1, 2, 3), sick=(1, 2))
    held = decide.hold(seen)
    assert held is not None
    assert held.cause == "too-many-sick"
    assert decide.sweep(seen) == ()


def test_a_fleet_of_one_is_repaired_though_its_one_server_is_all_of_it() -> None:
    assert len(decide.sweep(view(in_service(1), sick=(1,)))) == 1


def test_a_sick_server_that_the_group_is_replacing_already_is_not_marked_again() -> None:
    seen = group(member(1), member(2), member(3, healthy=False))
    assert decide.sweep(view(seen, sick=(3,))) == ()


def test_a_dead_server_is_left_to_the_group() -> None:
    assert decide.sweep(view(in_service(1, 2, 3), sick=(2,), states={2: "terminated"})) == ()


@pytest.mark.fault(30)
def test_an_empty_group_asks_for_nothing() -> None:
    assert decide.sweep(view(group(desired=0))) == ()
    assert decide.hold(view(group(desired=0))) is None


def test_a_group_without_our_tag_is_left_alone_whatever_is_wrong_with_it() -> None:
    seen = view(
        group(member(1), member(2), member(3), member(4, "Pending:Wait"), managed=False),
        sick=(1,),
        quarantined={9: "2020-01-01T00:00:00+00:00"},
    )
    held = decide.hold(seen)
    assert held is not None
    assert held.cause == "group-unmanaged"
    assert decide.sweep(seen) == ()
    assert isinstance(decide.answer(seen, kill(1), {}), Refuse)


@pytest.mark.fault(35)
def test_a_pause_of_automation_stops_repair_and_the_end_of_quarantine() -> None:
    pause = Pause(what="automation", by="ann")
    old = {9: "2020-01-01T00:00:00+00:00"}
    assert decide.sweep(view(in_service(1, 2, 3), sick=(1,), pause=pause, quarantined=old)) == ()


def test_a_pause_that_is_over_or_of_chaos_alone_does_not_stop_repair() -> None:
    over = Pause(what="automation", by="ann", until=START - timedelta(seconds=1))
    assert len(decide.sweep(view(in_service(1, 2, 3), sick=(1,), pause=over))) == 1
    assert len(decide.sweep(view(in_service(1, 2, 3), sick=(1,), pause=Pause(what="chaos", by="ann")))) == 1


# Launches that nobody took up


@pytest.mark.fault(13)
def test_a_launch_that_nobody_took_up_is_announced_and_a_claimed_or_a_young_one_is_not() -> None:
    launched = START - timedelta(hours=1)
    waiting = group(member(1, "Pending:Wait"), member(2, "Pending:Wait"))
    (action,) = decide.sweep(view(waiting, claimed=(2,), now=launched + timedelta(minutes=3)))
    assert isinstance(action, AnnounceUnclaimed)
    assert action.server == server(1)
    early = view(group(member(1, "Pending:Wait")), now=launched + timedelta(seconds=30))
    assert decide.sweep(early) == ()


@pytest.mark.fault(44)
def test_an_outage_of_the_provisioner_does_not_leave_it_a_message_for_each_sweep() -> None:
    assert decide.sweep(view(group(member(1, "Pending:Wait")), now=START - timedelta(minutes=56))) == ()


# Quarantine


def test_a_server_kept_aside_long_enough_is_terminated_and_a_younger_one_is_kept() -> None:
    tags = {8: (START - timedelta(hours=72)).isoformat(), 9: (START - timedelta(hours=71)).isoformat()}
    (action,) = decide.sweep(view(in_service(1), quarantined=tags))
    assert isinstance(action, EndQuarantine)
    assert action.server == server(8)


def test_a_quarantine_tag_that_is_no_time_keeps_the_server() -> None:
    assert decide.sweep(view(in_service(1), quarantined={8: "yesterday", 9: ""})) == ()


def test_a_member_of_the_group_is_never_terminated_for_its_quarantine_tag() -> None:
    assert decide.sweep(view(in_service(1), quarantined={1: "2020-01-01T00:00:00+00:00"})) == ()


# Requests


def test_a_kill_request_for_a_server_in_service_is_granted() -> None:
    granted = decide.answer(view(in_service(1, 2, 3)), kill(2), {})
    assert isinstance(granted, TakeOut)
    assert (granted.server, granted.how, granted.by) == (server(2), "terminated", "ops")


def test_a_disable_request_detaches() -> None:
    request = ServerDisableRequested(fleet=WEB, server=server(2), by="ann", reason="odd noises")
    granted = decide.answer(view(in_service(1, 2, 3)), request, {})
    assert isinstance(granted, TakeOut)
    assert (granted.how, granted.reason) == ("detached", "odd noises")


@pytest.mark.fault(10)
def test_a_request_for_a_server_that_is_leaving_or_gone_is_nothing_to_do() -> None:
    seen = view(group(member(1), member(2, "Terminating:Wait"), member(3, healthy=False), member(4, "Detaching")))
    for number in (2, 3, 4, 5):
        assert isinstance(decide.answer(seen, kill(number), {}), Nothing)


def test_a_request_for_a_server_that_is_not_in_service_yet_is_refused() -> None:
    assert isinstance(decide.answer(view(group(member(1), member(2, "Pending:Wait"))), kill(2), {}), Refuse)


def test_while_many_are_sick_a_person_may_remove_a_sick_server_but_not_a_well_one() -> None:
    seen = view(in_service(1, 2, 3, 4), sick=(1, 2, 3))
    assert isinstance(decide.answer(seen, kill(1), {}), TakeOut)
    assert isinstance(decide.answer(seen, kill(4), {}), Refuse)


@pytest.mark.fault(35)
def test_a_pause_of_automation_stops_all_and_a_pause_of_chaos_stops_chaos() -> None:
    automation = view(in_service(1, 2, 3), pause=Pause(what="automation", by="ann", reason="audit"))
    refused = decide.answer(automation, kill(1), {})
    assert isinstance(refused, Refuse)
    assert "ann" in refused.reason
    assert "audit" in refused.reason
    chaos = view(in_service(1, 2, 3), pause=Pause(what="chaos", by="ann"), policies=CHAOTIC)
    assert isinstance(decide.answer(chaos, kill(1), {}), TakeOut)
    assert isinstance(answer(chaos, too_slow="OK"), Refuse)


def test_chaos_is_granted_when_all_is_well() -> None:
    assert isinstance(answer(view(in_service(1, 2, 3), policies=CHAOTIC), too_slow="OK"), TakeOut)


def test_chaos_needs_the_fleets_opt_in() -> None:
    assert isinstance(answer(view(in_service(1, 2, 3)), too_slow="OK"), Refuse)


@pytest.mark.fault(36)
def test_chaos_is_refused_while_an_alarm_fires_or_is_unknown() -> None:
    seen = view(in_service(1, 2, 3), policies=CHAOTIC)
    assert isinstance(answer(seen, too_slow="ALARM"), Refuse)
    assert isinstance(answer(seen, too_slow="INSUFFICIENT_DATA"), Refuse)
    assert isinstance(answer(seen), Refuse)


@pytest.mark.fault(36)
def test_chaos_is_refused_while_the_fleet_is_not_at_strength() -> None:
    for seen in (in_service(1, 2, desired=3), group(member(1), member(2), member(3, "Pending"), desired=2)):
        assert isinstance(answer(view(seen, policies=CHAOTIC), too_slow="OK"), Refuse)
    blind = view(in_service(1, 2, 3), unknown=(3,), policies=CHAOTIC)
    assert isinstance(answer(blind, too_slow="OK"), Refuse)


@pytest.mark.fault(12)
def test_a_chaos_request_that_comes_hours_late_or_has_no_time_is_refused() -> None:
    seen = view(in_service(1, 2, 3), policies=CHAOTIC)
    for time in (START - timedelta(hours=3), None):
        assert isinstance(decide.answer(seen, kill(1, by="chaos", time=time), {"too-slow": "OK"}), Refuse)


@pytest.mark.fault(15)
def test_a_request_from_chaos_under_another_name_is_still_from_chaos() -> None:
    assert isinstance(decide.answer(view(in_service(1, 2, 3)), kill(1, by="ops", source="chaos"), {}), Refuse)


# The budget


def test_a_kill_within_the_budget_is_recorded_once() -> None:
    seen, action = view(in_service(1, 2, 3)), TakeOut(server(1), "terminated", "ops", "why not")
    charged = decide.charged(seen, status(), action)
    assert charged is not None
    assert [each.server for each in charged.disruptions] == [server(1)]
    assert decide.charged(seen, charged, action) is None
    assert decide.budget_refusal(seen, charged, server(1)) is None


@pytest.mark.fault(33)
def test_nobody_is_taken_when_that_would_leave_fewer_than_the_floor() -> None:
    policies = {"disruption": {"floor": 2, "unavailable": 3}}
    assert decide.budget_refusal(view(in_service(1, 2, 3), policies=policies), status(), server(1)) is None
    assert decide.budget_refusal(view(in_service(1, 2), policies=policies), status(), server(1)) is not None


@pytest.mark.fault(5)
def test_the_floor_counts_those_already_taken_out_as_gone_though_they_are_still_seen() -> None:
    policies = {"disruption": {"floor": 2, "unavailable": 3}}
    assert decide.budget_refusal(view(in_service(1, 2, 3), policies=policies), status((1, 0)), server(2)) is not None


def test_a_server_of_unknown_health_does_not_hold_up_the_floor() -> None:
    policies = {"disruption": {"floor": 2, "unavailable": 3}}
    seen = view(in_service(1, 2, 3), unknown=(3,), policies=policies)
    assert decide.budget_refusal(seen, status(), server(1)) is not None


def test_taking_a_sick_server_costs_no_healthy_one() -> None:
    policies = {"disruption": {"floor": 3}}
    assert decide.budget_refusal(view(in_service(1, 2), sick=(2,), policies=policies), status(), server(2)) is None


def test_while_a_server_is_missing_because_of_us_no_other_is_taken_and_nobody_is_called() -> None:
    refusal = decide.budget_refusal(view(in_service(2, 3, desired=3)), status((1, 5)), server(2))
    assert refusal is not None
    assert refusal.passing


def test_a_server_that_died_by_itself_does_not_count_as_missing_because_of_us() -> None:
    assert decide.budget_refusal(view(in_service(2, 3, desired=3)), status(), server(2)) is None


def test_a_disruption_that_was_made_good_counts_no_more_against_those_at_once() -> None:
    assert decide.budget_refusal(view(in_service(2, 3, 4)), status((1, 5)), server(2)) is None


@pytest.mark.fault(5)
def test_a_disruption_recorded_but_not_seen_yet_counts_as_missing() -> None:
    refusal = decide.budget_refusal(view(in_service(1, 2, 3)), status((1, 0)), server(2))
    assert refusal is not None


@pytest.mark.fault(33)
def test_the_hourly_cap_holds_whoever_asks_and_calls_a_person() -> None:
    policies = {"disruption": {"hourly": 2}}
    seen = view(in_service(5, 6, 7), policies=policies)
    refusal = decide.budget_refusal(seen, status((1, 59), (2, 10)), server(5))
    assert refusal is not None
    assert not refusal.passing
    assert decide.budget_refusal(seen, status((1, 61), (2, 10)), server(5)) is None


def test_nobody_is_taken_from_a_group_that_would_not_launch_another() -> None:
    seen = group(member(1), member(2), member(3), suspended=("Launch",))
    assert decide.budget_refusal(view(seen), status(), server(1)) is not None


def test_a_server_that_is_taken_out_again_on_its_way_counts_from_then() -> None:
    seen = view(in_service(1, 2, 3), sick=[1])
    action = TakeOut(server(1), "marked-unhealthy", "reconciler", "its update failed")
    before = status((1, 40), (1, 90))
    assert decide.charged(seen, status((1, 1)), action) is None
    charged = decide.charged(seen, before, action)
    assert charged is not None
    assert charged.disruptions == status((1, 0), (1, 90)).disruptions
    assert decide.charged(seen, charged, action) is None


@pytest.mark.parametrize("minutes", [0, 40])
def test_a_server_that_is_taken_out_for_good_is_no_more_the_rollouts(minutes: int) -> None:
    """Found by thirty days of seed 42: its update ended well, it counted as back, and another was taken besides."""
    seen = view(in_service(1, 2, 3))
    (one,) = status((1, minutes)).disruptions
    before = status().model_copy(update={"disruptions": (one.model_copy(update={"by": decide.ROLLOUT}),)})
    charged = decide.charged(seen, before, TakeOut(server(1), "detached", "cleo", "odd noises"))
    assert charged is not None
    (now,) = charged.disruptions
    assert (now.by, now.reason, now.at, now.over) == ("cleo", "odd noises", START, None)
    assert decide.charged(seen, charged, TakeOut(server(1), "detached", "cleo", "odd noises")) is None


def test_a_rollout_takes_no_disruption_over_from_others() -> None:
    seen, update = view(in_service(1, 2, 3)), decide.BringUpToDate(server(1), decide.ROLLOUT, "rollout 1")
    charged = decide.charged(seen, status((1, 40)), update)
    assert charged is not None
    assert [each.by for each in charged.disruptions] == ["ops"]


def test_disruptions_older_than_a_day_are_forgotten_when_another_is_recorded() -> None:
    charged = decide.charged(
        view(in_service(1, 2, 3)), status((8, 60 * 25), (9, 60 * 23)), TakeOut(server(1), "terminated", "ops", "")
    )
    assert charged is not None
    assert [each.server for each in charged.disruptions] == [server(9), server(1)]


members = st.lists(
    st.sampled_from(["InService", "InService", "InService", "Pending:Wait", "Terminating:Wait", "Standby"]),
    min_size=1,
    max_size=8,
)


@pytest.mark.fault(15)
@given(
    states=members,
    target=st.integers(0, 9),
    by=st.sampled_from(["ann", "chaos", "reconciler", "registry", "root"]),
    source=st.sampled_from(["operator", "chaos", "reconciler", "registry"]),
    managed=st.booleans(),
    disabled=st.booleans(),
)
def test_whoever_asks_for_what_only_a_server_that_aws_shows_in_service_in_a_group_of_ours_is_taken_out(
    states: list[str], target: int, by: str, source: str, managed: bool, disabled: bool
) -> None:
    seen = view(group(*(member(number, state) for number, state in enumerate(states)), managed=managed))
    kind = ServerDisableRequested if disabled else ServerKillRequested
    request = kind(fleet=WEB, server=server(target), by=by, source=source, time=START)
    if isinstance(decide.answer(seen, request, {}), TakeOut):
        assert managed
        assert states[target] == "InService"
        assert "chaos" not in (by, source)  # the fleet has not opted in


@pytest.mark.fault(30)
@given(
    states=st.lists(st.sampled_from(["Pending", "Pending:Wait", "Terminating:Wait", "Standby", "Detached", "New"])),
    desired=st.integers(0, 9),
)
def test_where_nobody_is_in_service_nobody_is_taken_out(states: list[str], desired: int) -> None:
    seen = view(group(*(member(number, state) for number, state in enumerate(states)), desired=desired))
    assert not [each for each in decide.sweep(seen) if isinstance(each, TakeOut)]
    answers = [decide.answer(seen, kill(number), {}) for number in range(len(states) + 1)]
    assert not [each for each in answers if isinstance(each, TakeOut)]


@pytest.mark.fault(33)
@given(
    states=members,
    desired=st.integers(0, 10),
    sick=st.sets(st.integers(0, 7), max_size=2),
    unknown=st.sets(st.integers(0, 7), max_size=2),
    past=st.lists(st.tuples(st.integers(0, 12), st.floats(0, 120)), max_size=6),
    targets=st.lists(st.integers(0, 7), max_size=30),
    floor=st.integers(0, 4),
    unavailable=st.integers(1, 4),
    hourly=st.integers(1, 5),
)
def test_invariants_4_and_5_whatever_is_asked_the_floor_the_share_and_the_cap_hold(
    states: list[str],
    desired: int,
    sick: set[int],
    unknown: set[int],
    past: list[tuple[int, float]],
    targets: list[int],
    floor: int,
    unavailable: int,
    hourly: int,
) -> None:
    """Requests in any number and order, decided one after another with a view that does not move."""
    policies = {"disruption": {"floor": floor, "unavailable": unavailable, "hourly": hourly}}
    seen_members: list[GroupMember] = [member(number, state) for number, state in enumerate(states)]
    seen = view(
        group(*seen_members, desired=desired), sick=sorted(sick), unknown=sorted(unknown - sick), policies=policies
    )
    before = status(*past)
    now = before
    for number in targets:
        granted = decide.answer(seen, kill(number), {})
        if isinstance(granted, TakeOut):
            now = decide.charged(seen, now, granted) or now
    old = {each.server for each in before.disruptions if each.at > START - timedelta(hours=1)}
    new = {each.server for each in now.disruptions if each.at > START - timedelta(hours=1)} - old
    well = seen.well - old
    assert not new & seen.well or len(well - new) >= floor
    assert len(old) + len(new) <= hourly or not new
    assert not new or len((old | new) & seen.staying) <= unavailable
    assert new <= {each.server for each in seen_members if each.in_service}


LOOK = "aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names web"


def test_why_a_fleet_is_held_is_said_with_what_to_type() -> None:
    unmanaged = Hold("group-unmanaged", "the group web lacks our ownership tag: it is left alone", LOOK)
    assert decide.hold(view(group(member(1), managed=False))) == unmanaged
    blind = "no health page of the 2 servers in service gives an answer: health is blind"
    url = "curl -v http://{address}/health"
    assert decide.hold(view(in_service(1, 2), unknown=[1, 2])) == Hold("health-blind", blind, url)
    sick = f"3 of 4 servers in service look sick at once: {server(1)}, {server(2)}, {server(3)}"
    assert decide.hold(view(in_service(1, 2, 3, 4), sick=[1, 2, 3])) == Hold("too-many-sick", sick, LOOK)
    assert decide.hold(view(in_service(1, 2, 3, 4), sick=[1, 2])) is None
    assert decide.hold(view(in_service(1, 2), sick=[1])) is None
    assert decide.hold(view(in_service(1, 2), sick=[1, 2])) is not None


def test_servers_that_are_updated_are_not_asked_how_they_are_and_do_not_make_the_fleet_look_blind() -> None:
    seen = view(in_service(1, 2), unknown=[1])
    assert decide.hold(replace(seen, updating=frozenset({server(1)}))) is None
    assert decide.hold(replace(view(in_service(1), unknown=[1]), updating=frozenset({server(1)}))) is None


def test_no_more_than_twenty_servers_are_named() -> None:
    numbers = range(1, 31)
    held = decide.hold(view(in_service(*numbers), sick=list(numbers)))
    assert held
    assert held.reason.endswith(f": {', '.join(server(number) for number in range(1, 21))}")
    worded = decide.word(view(in_service(*numbers), sick=list(numbers)))
    assert worded.reason.count("fails its health check") == 20


def test_what_a_fleet_lacks_is_said_server_by_server() -> None:
    seen = view(
        group(member(1), member(2), member(3), member(4, "Pending:Wait"), desired=4), sick=[1], states={2: "stopping"}
    )
    told = f"1 of 4 healthy: {server(1)} fails its health check; {server(2)} is going; {server(4)} is Pending:Wait"
    assert decide.word(seen) == decide.Word("degraded", 1, 4, told)
    none = decide.Word("degraded", 0, 1, "0 of 1 healthy: the group has yet to launch")
    assert decide.word(view(group(desired=1))) == none
    assert decide.word(view(in_service(1))) == decide.Word("converged", 1, 1, "1 of 1 healthy")
    over = decide.word(view(in_service(1, 2, desired=1)))
    assert (over.state, over.healthy, over.wanted) == ("converged", 2, 1)


def test_a_first_look_has_everything_and_another_keeps_what_it_does_not_say() -> None:
    first = decide.status_after(view(in_service(1)), None)
    assert first == FleetStatus(state="converged", since=START, healthy=1, wanted=1)
    old = status((9, 5)).model_copy(update={"since": START - timedelta(hours=1)})
    again = decide.status_after(view(in_service(1, 2, 3)), old)
    assert again == old
    worse = decide.status_after(view(in_service(1, 2, desired=5)), old)
    assert worse == old.model_copy(update={"state": "degraded", "since": START, "healthy": 2, "wanted": 5})


def test_what_a_sweep_asks_for_and_why() -> None:
    seen = view(
        group(member(1), member(2), member(3, "Pending:Wait"), desired=3),
        sick=[1],
        now=START,
        quarantined={8: (START - timedelta(hours=80)).isoformat()},
    )
    waiting = instance(3, launched=START - timedelta(seconds=31))
    seen = replace(seen, instances={**seen.instances, server(3): waiting})
    since = f"{START - timedelta(hours=80):%Y-%m-%d %H:%M} UTC"
    assert decide.sweep(seen) == (
        AnnounceUnclaimed(server(3), "waits since 31 s and nobody took it up"),
        TakeOut(server(1), "marked-unhealthy", "reconciler", "its health page failed every time it was asked"),
        EndQuarantine(server(8), f"kept aside since {since}"),
    )


def test_a_server_that_can_be_brought_neither_forward_nor_back_is_replaced_and_why_is_said() -> None:
    seen = replace(view(in_service(1, 2, 3)), failed=frozenset({server(2), server(9)}))
    why = "it could be brought neither up to date nor back to what it ran before"
    assert decide.sweep(seen) == (TakeOut(server(2), "marked-unhealthy", "reconciler", why),)


@pytest.mark.parametrize(("age", "told"), [(30, False), (30.5, True), (180, True), (180.5, False)])
def test_an_unclaimed_launch_is_told_between_half_a_minute_and_three_minutes(age: float, told: bool) -> None:
    seen = view(group(member(1, "Pending:Wait")))
    waiting = {server(1): instance(1, launched=START - timedelta(seconds=age))}
    assert bool(decide.sweep(replace(seen, instances=waiting))) is told
    assert not decide.sweep(replace(seen, instances={}))


def test_a_launch_that_waits_for_its_turn_is_not_unclaimed() -> None:
    seen = view(group(member(1, "Pending:Wait"), member(2, "Pending:Wait"), member(3)))
    waiting = {server(number): instance(number, launched=START - timedelta(seconds=60)) for number in (1, 2)}
    one_at_once = replace(seen, instances=waiting, fleet=fleet({"launch": {"at_once": 1}}))
    assert [each.server for each in decide.sweep(one_at_once) if isinstance(each, AnnounceUnclaimed)] == [server(1)]


@pytest.mark.parametrize(("hours", "ends"), [(71.99, False), (72, True)])
def test_quarantine_ends_with_its_last_hour(hours: float, ends: bool) -> None:
    tag = (START - timedelta(hours=hours)).isoformat()
    assert bool(decide.sweep(view(in_service(1), quarantined={8: tag}))) is ends


def test_what_a_request_comes_to_is_said() -> None:
    three = view(in_service(1, 2, 3))
    assert decide.answer(three, kill(1), {}) == TakeOut(server(1), "terminated", "ops", "no reason given")
    disable = ServerDisableRequested(fleet=WEB, server=server(2), by="cleo", reason="odd noises")
    assert decide.answer(three, disable, {}) == TakeOut(server(2), "detached", "cleo", "odd noises")
    assert decide.answer(three, kill(9), {}) == Nothing(f"{server(9)} is not in the group web (any more)")
    for state in ("Terminating", "Terminating:Wait", "Detaching"):
        leaving = decide.answer(view(group(member(1, state), member(2))), kill(1), {})
        assert leaving == Nothing(f"{server(1)} is leaving already")
    lost = decide.answer(view(in_service(1, 2), states={1: "shutting-down"}), kill(1), {})
    assert lost == Nothing(f"{server(1)} is leaving already")
    unwell = decide.answer(view(group(member(1, healthy=False), member(2))), kill(1), {})
    assert unwell == Nothing(f"{server(1)} is leaving already")
    pending = Refuse(f"{server(1)} is Pending: only a server in service can be taken out")
    assert decide.answer(view(group(member(1, "Pending"), member(2))), kill(1), {}) == pending


def test_while_automation_is_paused_a_request_is_refused_with_the_pauses_sentence() -> None:
    pause = Pause(what="automation", by="eve", reason="maintenance")
    refused = decide.answer(view(in_service(1, 2), pause=pause), kill(1), {})
    assert isinstance(refused, Refuse)
    assert refused.reason.endswith(f"; {server(1)} stays")
    assert "eve" in refused.reason


def test_a_pause_holds_a_request_back_until_it_is_over() -> None:
    pause = Pause(what="automation", by="eve", until=START + timedelta(minutes=1))
    assert isinstance(decide.answer(view(in_service(1, 2), pause=pause), kill(1), {}), Refuse)
    over = Pause(what="automation", by="eve", until=START)
    assert isinstance(decide.answer(view(in_service(1, 2), pause=over), kill(1), {}), TakeOut)


def test_why_chaos_is_refused_is_said() -> None:
    chaotic = view(in_service(1, 2), policies=CHAOTIC)

    def refusal(seen: View = chaotic, **more: Any) -> str | None:
        return decide.chaos_refusal(seen, kill(1, by="chaos", **more), {"too-slow": "OK"})

    assert refusal() is None
    assert refusal(view(in_service(1, 2))) == "the fleet web has not opted in to chaos"
    stale = "the chaos request is undated or stale"
    assert refusal(time=None) == stale
    assert refusal(time=START - timedelta(minutes=10, seconds=1)) == stale
    assert refusal(time=START + timedelta(minutes=10, seconds=1)) == stale
    assert refusal(time=START - timedelta(minutes=10)) is None
    assert decide.chaos_refusal(chaotic, kill(1), {}) == "the alarm too-slow is unknown"
    assert decide.chaos_refusal(chaotic, kill(1), {"too-slow": "ALARM"}) == "the alarm too-slow is ALARM"
    short = "the fleet is not at strength: 2 of 3 known to be healthy"
    assert refusal(view(in_service(1, 2, desired=3), policies=CHAOTIC)) == short
    unsettled = view(group(member(1), member(2), member(3, "Pending"), desired=2), policies=CHAOTIC)
    assert refusal(unsettled) == "the fleet is not at strength: 2 of 2 known to be healthy"
    unknown = "the fleet is not at strength: 1 of 2 known to be healthy"
    assert refusal(view(in_service(1, 2), unknown=[1], policies=CHAOTIC)) == unknown


def test_a_persons_request_waits_while_health_is_blind_and_chaos_does_not() -> None:
    blind = view(in_service(1, 2), unknown=[1, 2])
    assert (
        decide.unknown(blind, kill(1)) == "no health page of the 2 servers in service gives an answer: health is blind"
    )
    assert decide.unknown(blind, kill(1, by="chaos")) is None
    assert decide.unknown(view(in_service(1, 2)), kill(1)) is None
    assert decide.unknown(view(group(member(1), managed=False)), kill(1)) is None


def test_what_the_budget_says_no_to_is_said() -> None:
    three = in_service(1, 2, 3)
    suspended = group(member(1), suspended=("Terminate", "Launch", "AlarmNotification"))
    nothing = f"the group's process Launch, Terminate is suspended: nothing would replace {server(1)}"
    assert decide.budget_refusal(view(suspended), None, server(1)) == Refuse(nothing)
    hourly = {"disruption": {"hourly": 2, "floor": 0, "unavailable": 9}}
    spent = Refuse("2 servers were taken out within the hour; the policy allows 2")
    assert decide.budget_refusal(view(three, policies=hourly), status((8, 5), (9, 5)), server(1)) == spent
    floor = {"disruption": {"floor": 3}}
    low = Refuse(f"without {server(1)} 2 healthy servers would be left; the floor is 3")
    assert decide.budget_refusal(view(three, policies=floor), None, server(1)) == low
    away = Refuse("1 servers are missing because of us; the policy allows 1", passing=True)
    assert decide.budget_refusal(view(in_service(2, 3, desired=3)), status((1, 5)), server(2)) == away


def test_a_server_that_was_taken_out_and_is_back_counts_towards_the_hour_and_a_second_time_for_itself() -> None:
    policies = {"disruption": {"hourly": 1, "floor": 0}}
    back = status((1, 5)).disruptions[0].model_copy(update={"over": START})
    seen = status().model_copy(update={"disruptions": (back,)})
    assert decide.budget_refusal(view(in_service(1, 2), policies=policies), seen, server(1)) is not None
    out = status((1, 5))
    assert decide.budget_refusal(view(in_service(1, 2), policies=policies), out, server(1)) is None


def test_servers_that_are_updated_count_as_away_and_one_of_them_is_taken_out_without_counting_itself() -> None:
    seen = replace(view(in_service(1, 2, 3)), updating=frozenset({server(1)}))
    refused = decide.budget_refusal(seen, None, server(2))
    assert refused == Refuse("1 servers are missing because of us; the policy allows 1", passing=True)
    assert decide.budget_refusal(seen, None, server(1)) is None
    low = replace(view(in_service(1, 2, 3), policies={"disruption": {"floor": 2}}), updating=frozenset({server(1)}))
    assert decide.budget_refusal(low, None, server(2)) == Refuse(
        f"without {server(2)} 1 healthy servers would be left; the floor is 2"
    )


def test_a_server_that_failed_its_way_back_may_go_below_the_floor() -> None:
    floor = {"disruption": {"floor": 3}}
    seen = replace(view(in_service(1, 2, 3), policies=floor), failed=frozenset({server(1)}))
    assert decide.budget_refusal(seen, None, server(1)) is None


def test_a_disruption_is_recorded_with_who_and_why_unless_it_is_there_or_not_allowed() -> None:
    action = TakeOut(server(1), "terminated", "ann", "practice")
    three = view(in_service(1, 2, 3))
    first = decide.charged(three, None, action)
    new = Disruption(server=server(1), at=START, by="ann", reason="practice")
    assert first == FleetStatus(state="converged", since=START, healthy=3, wanted=3, disruptions=(new,))
    assert decide.charged(three, first, action) is None
    assert decide.charged(view(in_service(1), policies={"disruption": {"floor": 1}}), None, action) is None
    day_old = status((8, 60 * 24), (9, 60 * 24 - 1))
    kept = decide.charged(three, day_old, action)
    assert kept
    assert [each.server for each in kept.disruptions] == [server(9), server(1)]


def test_a_disruption_counts_for_an_hour_and_only_while_it_is_not_over() -> None:
    action = TakeOut(server(1), "terminated", "ann", "practice")
    three = view(in_service(1, 2, 3), policies={"disruption": {"unavailable": 2}})
    over = status((1, 5)).disruptions[0].model_copy(update={"over": START})
    ended = status().model_copy(update={"disruptions": (over,)})
    for before, entries in ((status((1, 59.9)), 1), (status((1, 60)), 2), (status((2, 5)), 2), (ended, 2)):
        after = decide.charged(three, before, action)
        assert after is not None
        assert len(after.disruptions) == entries


def test_an_instance_that_ends_or_stops_is_not_counted_and_one_that_ec2_does_not_show_is() -> None:
    seen = view(in_service(1, 2, 3, 4), states={1: "stopping", 2: "terminated", 3: "pending"})
    assert seen.staying == {server(3), server(4)}
    unseen = replace(seen, instances={})
    assert unseen.staying == {server(number) for number in (1, 2, 3, 4)}
    assert view(in_service(1, 2, desired=5)).missing == 3
    assert view(in_service(1, 2, desired=1)).missing == 0
