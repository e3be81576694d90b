"""What a launching server needs next. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from shared.cloud import GroupMember, Instance, LifecycleState
from shared.fleet import Fleet, LaunchPolicy
from shared.records import Attempt, FailedLaunch, Failures, Fallback, Launch

HOOK_LIFE_S = 172_800
"""AWS ends a hook after 48 hours, or a hundred times its timeout if that is sooner, whatever the heartbeats."""

HOOK_HEARTBEATS = 100
HOOK_MARGIN = 0.95
FROZEN_S = 300
"""How long a server waits between attempts while launches are frozen."""

FAILURES_KEPT = 100
LONGEST_LOOK_S = 600
"""An SQS message can be delayed by 900 s at most."""

PASSED = (LifecycleState.PENDING_PROCEED, LifecycleState.IN_SERVICE)
"""A member in one of these has left its launch hook with CONTINUE."""


@dataclass(frozen=True)
class Sight:
    """What there is to see of one launch. ``member`` and ``instance`` are None where AWS shows none."""

    now: datetime
    fleet: Fleet
    server: str
    member: GroupMember | None
    instance: Instance | None
    launch: Launch | None
    failures: Failures | None = None
    ahead: int = 0
    """How many members that are being launched have their turn before this one."""
    offered: str = ""
    """The image that the group launches from now; read only where launches failed before."""

    @property
    def waiting(self) -> bool:
        """Whether the group says that the server waits in its launch hook."""
        return self.member is not None and self.member.state == LifecycleState.PENDING_WAIT

    @property
    def passed(self) -> bool:
        """Whether the group says that the server has left its launch hook with CONTINUE."""
        return self.member is not None and self.member.state in PASSED


@dataclass(frozen=True)
class Nothing:
    """There is nothing to do, now or later."""

    reason: str


@dataclass(frozen=True)
class Probe:
    """The group shows no such member: ask the hook itself whether an action waits."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """AWS has to show more before anything can be done."""

    after_s: int
    reason: str


@dataclass(frozen=True)
class AwaitTurn:
    """Keep the hook open: as many as may are being provisioned."""

    after_s: int
    reason: str


@dataclass(frozen=True)
class Claim:
    """Write the launch down: from now on it is provisioned, not unclaimed."""

    image: str
    ordered: datetime
    reason: str


@dataclass(frozen=True)
class Run:
    """Take this attempt one step further."""

    launch: Launch
    name: str
    attempt: Attempt | None
    instance: Instance
    reason: str
    late: GiveUp | None = None
    """What follows where it still runs: its time is over."""


@dataclass(frozen=True)
class Finish:
    """Complete the hook with CONTINUE and say that the server is ready."""

    launch: Launch
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """Complete the hook with ABANDON and say so. ``cause`` tells the alert from others of the fleet."""

    launch: Launch
    cause: str
    reason: str
    step: str | None = None
    log_tail: str = ""


@dataclass(frozen=True)
class Judge:
    """Every attempt failed: see whether a release is to blame, then fall back or give up."""

    launch: Launch
    last: Attempt
    instance: Instance | None
    reason: str


@dataclass(frozen=True)
class FallBack:
    """Go on with the last good releases of these components."""

    launch: Launch
    fallbacks: tuple[Fallback, ...]


@dataclass(frozen=True)
class Hold:
    """Launches are frozen: keep the server waiting, and call a person."""

    launch: Launch
    after_s: int
    reason: str
    step: str | None = None


@dataclass(frozen=True)
class Close:
    """The launch ended without us: write that down."""

    launch: Launch
    in_service: bool
    reason: str


Action = Nothing | Probe | Wait | AwaitTurn | Claim | Run | Finish | Judge | GiveUp | Hold | Close


def decide(sight: Sight) -> Action:
    """Say what the launch needs next. Pure."""
    launch = sight.launch
    if launch is None:
        return _unclaimed(sight)
    if launch.result != "running":
        return Nothing(f"the launch of {sight.server} ended before: {launch.result}")
    last = launch.attempts[-1] if launch.attempts else None
    if last is not None and last.result == "ok":
        return Finish(launch, f"{last.attempt} ran the plan")
    if sight.passed and sight.member is not None:
        return Close(launch, in_service=True, reason=f"somebody else completed its hook: it is {sight.member.state}")
    given_up = _given_up(launch, last, sight)
    if given_up is not None:
        return given_up
    return _attempt(sight, launch, last) if sight.waiting else _left(sight, launch)


def judged(judge: Judge, now: Mapping[str, str], fallbacks: tuple[Fallback, ...]) -> Run | FallBack | GiveUp:
    """Say what follows when every attempt failed. Pure.

    ``now`` are the releases that would be planned with now, ``fallbacks`` what to go on with instead of those that are
    under suspicion.
    """
    launch, last = judge.launch, judge.last
    if judge.instance is not None and now != launch.releases:
        name = attempt_name(launch.server, len(launch.attempts) + 1)
        return Run(launch, name, None, judge.instance, "other releases were set since it failed")
    if judge.instance is not None and fallbacks:
        return FallBack(launch, fallbacks)
    tried = ", ".join(f"{each.component} {each.good}" for each in launch.fallbacks)
    also = f"; so it did with the last good releases ({tried}), so none is to blame" if tried else ""
    return GiveUp(launch, last.step or "command", f"{judge.reason}: {last.reason}{also}", last.step, last.log_tail)


def attempt_name(server: str, number: int) -> str:
    """Return the id of a server's attempt, the first being 1. Pure."""
    return f"{server}-{number}"


def give_up_after_s(policy: LaunchPolicy) -> float:
    """Return how long a launch may take: the fleet's deadline, or a little less than the hook can live. Pure."""
    return min(policy.deadline, HOOK_MARGIN * min(HOOK_LIFE_S, HOOK_HEARTBEATS * policy.heartbeat))


def beat_s(policy: LaunchPolicy) -> int:
    """Return how often the hook's timeout is restarted: three times in its length. Pure."""
    return max(1, min(policy.heartbeat // 3, LONGEST_LOOK_S))


def _unclaimed(sight: Sight) -> Action:
    if sight.member is None:
        return Probe(f"{sight.server} is not in {sight.fleet.fleet}")
    if not sight.waiting:
        return Nothing(f"{sight.server} does not wait in its launch hook: {sight.member.state}")
    if sight.instance is None or not sight.instance.address:
        return Wait(1, f"EC2 does not show {sight.server} with an address yet")
    policy = sight.fleet.policies.launch
    if sight.ahead >= policy.at_once:
        return AwaitTurn(beat_s(policy), f"{sight.server} waits for its turn: {sight.ahead} before it")
    return Claim(sight.instance.image, sight.instance.launched, f"{sight.server} waits in its launch hook")


def frozen(launch: Launch, sight: Sight) -> bool:
    """Whether launching another server like this one is known to be in vain. Pure."""
    known = sight.failures.of(launch.image, launch.releases) if sight.failures else ()
    others = {each.server for each in known} - {launch.server}
    return len(others) >= sight.fleet.policies.launch.tries and sight.offered == launch.image


def with_failure(old: Failures | None, launch: Launch, now: datetime) -> Failures:
    """Return the failures with this launch among them, once. Pure."""
    before = old or Failures()
    others = tuple(each for each in before.launches if each.server != launch.server)
    failed = FailedLaunch(server=launch.server, image=launch.image, releases=launch.releases, at=now)
    return before.model_copy(update={"launches": (*others, failed)[-FAILURES_KEPT:]})


def _held(launch: Launch, last: Attempt, sight: Sight) -> Hold | None:
    """Say how long the server waits before it tries again; None: now."""
    waited = (sight.now - (last.ended or last.began)).total_seconds()
    if waited >= FROZEN_S:
        return None
    tries = sight.fleet.policies.launch.tries
    reason = (
        f"{tries} launches in a row failed with {launch.image} and the same releases: {launch.server} is kept waiting "
        f"instead of being replaced by another like it, and tries again every {FROZEN_S} s; {last.reason}"
    )
    return Hold(launch, max(1, min(FROZEN_S - int(waited), beat_s(sight.fleet.policies.launch))), reason, last.step)


def _given_up(launch: Launch, last: Attempt | None, sight: Sight) -> Run | Judge | GiveUp | Hold | None:
    policy = sight.fleet.policies.launch
    limit = give_up_after_s(policy)
    elapsed = (sight.now - launch.claimed).total_seconds()
    tried = len(launch.attempts) - max((each.after for each in launch.fallbacks), default=0)
    if last is not None and last.result == "failed" and tried >= policy.attempts:
        if elapsed < limit and frozen(launch, sight):
            return _held(launch, last, sight)
        in_time = sight.instance if sight.waiting and elapsed < limit else None
        return Judge(launch, last, in_time, f"attempt {tried} of {policy.attempts} failed")
    if elapsed < limit:
        return None
    if last is None:
        return GiveUp(launch, "boot", f"it never answered Systems Manager in {elapsed:.0f} s (limit {limit:.0f} s)")
    said = f"; attempt {len(launch.attempts)}: {last.reason or last.result}"
    late = GiveUp(
        launch, "deadline", f"it was not ready in {elapsed:.0f} s (limit {limit:.0f} s){said}", last.step, last.log_tail
    )
    return _overdue(sight, late, last)


def _overdue(sight: Sight, late: GiveUp, last: Attempt) -> Run | GiveUp:
    """Look once more at what was sent: it may have ended in time, with nobody there to see it."""
    if not sight.waiting or not last.under_way or sight.instance is None:
        return late
    return Run(late.launch, last.attempt, last, sight.instance, "its time is over", late)


def _left(sight: Sight, launch: Launch) -> Action:
    if sight.member is None:
        return Close(launch, in_service=False, reason="the server left the group before its plan had run")
    state = sight.member.state
    if state == LifecycleState.PENDING:
        return Wait(1, f"{sight.server} is {state}, before its hook")
    return Close(launch, in_service=False, reason=f"its launch ended before its plan had run: it is {state}")


def _attempt(sight: Sight, launch: Launch, last: Attempt | None) -> Action:
    tried = len(launch.attempts)
    if sight.instance is None or not sight.instance.address:
        return Wait(1, f"EC2 does not show {sight.server}")
    if last is not None and last.result == "running":
        return Run(launch, last.attempt, last, sight.instance, f"attempt {tried} is under way")
    why = f"attempt {tried} failed: {last.reason}" if last else "nothing was tried yet"
    return Run(launch, attempt_name(sight.server, tried + 1), None, sight.instance, why)
