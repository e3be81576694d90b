from __future__ import annotations

from typing import Literal

import pytest

from services.janitor.decide import View
from services.janitor.expiry import Expired, Records, expired
from shared.records import (
    Attempt,
    Bake,
    Baking,
    Launch,
    Pause,
    Pointer,
    Update,
    audit_key,
    bake_key,
    launch_key,
    update_key,
)
from tests.fakes import START
from tests.unit.services.janitor.test_decide import ago, view
from tests.unit.services.making import WEB, group, image, image_id, instance, member, server

OLD, YOUNG = 91.0, 89.0
"""Days, where ninety are kept."""


def launch(number: int, days: float, *, ended: bool = True) -> Launch:
    at = ago(days)
    attempt = Attempt(attempt=f"{server(number)}-1", began=at, plan_digest="")
    return Launch(
        fleet=WEB,
        server=server(number),
        image=image_id(1),
        claimed=ago(200),
        attempts=(attempt,),
        result="ready" if ended else "running",
        ended=at if ended else None,
    )


def update(number: int, days: float) -> Update:
    at = ago(days)
    return Update(
        fleet=WEB, server=server(number), rollout=1, began=at, releases={}, before={}, result="updated", ended=at
    )


def bake(number: int, days: float | None, stage: Literal["ready", "failed", "proof"] = "ready") -> Bake:
    ended = None if days is None else ago(days)
    name, made = f"web-20260101t{number:06d}", None if stage == "failed" else image_id(number)
    return Bake(bake=name, fleet=WEB, stage=stage, requested=ago(200), ended=ended, by="schedule", image=made)


def records(
    *launches: Launch, updates: tuple[Update, ...] = (), latest: Baking | None = None, audits: tuple[str, ...] = ()
) -> Records:
    return Records(launches, updates, latest, audits)


def keys(seen: View, kept: Records) -> tuple[str, ...]:
    found = expired(seen, kept)
    return found.keys if found is not None else ()


@pytest.mark.parametrize("ended", [True, False])
def test_a_launch_is_kept_for_ninety_days_after_it_was_last_heard_of(ended: bool) -> None:
    """One that never ended died with its server."""
    found = expired(view([]), records(launch(1, OLD, ended=ended), launch(2, YOUNG, ended=ended)))
    assert found == Expired(
        (server(1),), (launch_key(WEB, server(1)),), "servers 1, bakes 0, audits 0, from before 2025-12-04"
    )


def test_the_records_of_a_server_that_is_there_are_kept_however_old() -> None:
    kept = records(launch(1, OLD), updates=(update(1, OLD),))
    assert keys(view([], instances=[instance(1)]), kept) == ()
    assert keys(view([]), kept) == (launch_key(WEB, server(1)), update_key(WEB, server(1)))


def test_an_old_launch_is_kept_with_a_young_update_of_the_same_server() -> None:
    assert keys(view([]), records(launch(1, OLD), updates=(update(1, YOUNG),))) == ()


def test_an_old_bake_goes_once_its_image_is_gone_or_where_it_made_none() -> None:
    seen = view([image(1)], bakes=[bake(1, OLD), bake(2, OLD), bake(3, OLD, "failed"), bake(4, YOUNG, "failed")])
    found = expired(seen, records())
    assert found is not None
    assert found.owners == (bake(2, OLD).bake, bake(3, OLD).bake)
    assert found.keys == tuple(bake_key(WEB, owner) for owner in found.owners)


def test_a_bake_that_runs_or_is_the_latest_or_the_pointers_is_kept() -> None:
    latest, pointed = bake(2, OLD, "failed"), bake(3, OLD)
    made = image(9)
    points_at = Pointer(image=made.image, bake=pointed.bake, since=START, by="ann")
    seen = view([made], points_at=points_at, bakes=[bake(1, None, "proof"), latest, pointed])
    assert keys(seen, records(latest=Baking(bake=latest.bake, claimed=ago(OLD)))) == ()


def test_audits_go_by_the_day_in_their_keys() -> None:
    old, same, young = (audit_key(WEB, ago(days), "terminate", server(1)) for days in (OLD, 90, YOUNG))
    assert keys(view([]), records(audits=(old, same, young))) == (old,)


def test_nothing_goes_while_automation_is_paused_or_the_view_is_not_whole() -> None:
    kept, member_unseen = records(launch(1, OLD)), group(member(7))
    pause = Pause(what="automation", by="ann")
    assert keys(view([], pause=pause), kept) == ()
    assert keys(view([], seen=member_unseen), kept) == ()
    assert keys(view([], points_at=Pointer(image=image_id(1), since=START, by="ann")), kept) == ()


@pytest.mark.parametrize("days", [20, 400])
def test_how_long_is_the_policys(days: int) -> None:
    kept = records(launch(1, days - 1), launch(2, days + 1))
    seen = view([], retention={"records_days": days})
    assert keys(seen, kept) == (launch_key(WEB, server(2)),)
