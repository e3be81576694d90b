"""What a server in service that is brought up to date needs next. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.cloud import GroupMember, Instance
from shared.fleet import Fleet
from shared.outcome import patience_s
from shared.records import Attempt, Launch, Leaver, Rollout, Taken, Update

Result = Literal["updated", "undone", "failed", "left"]


@dataclass(frozen=True)
class Sight:
    """What there is to see of a server that a rollout took. ``update`` is the one of this very rollout, if it began."""

    now: datetime
    fleet: Fleet
    server: str
    rollout: Rollout | None
    member: GroupMember | None
    instance: Instance | None
    launch: Launch | None
    update: Update | None
    leaver: Leaver | None

    @property
    def taken(self) -> Taken | None:
        """The grant, if there is one."""
        taken = self.rollout.taken if self.rollout else ()
        return next((each for each in taken if each.server == self.server and each.granted is not None), None)


@dataclass(frozen=True)
class Nothing:
    """There is nothing to do."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """Somebody else comes first, or the server drains."""

    after_s: int
    reason: str


@dataclass(frozen=True)
class Claim:
    """Write down what the server is brought to, and what it ran before."""

    update: Update


@dataclass(frozen=True)
class Run:
    """Take this attempt one step further."""

    update: Update
    name: str
    attempt: Attempt | None
    instance: Instance
    late: End | None = None
    """What follows where it still runs: its time is over."""


@dataclass(frozen=True)
class TurnBack:
    """Bring the server back to what it ran before."""

    update: Update
    step: str | None
    reason: str
    log_tail: str = ""


@dataclass(frozen=True)
class End:
    """Say how it ended, and write it down."""

    update: Update
    result: Result
    reason: str


Action = Nothing | Wait | Claim | Run | TurnBack | End


def decide(sight: Sight) -> Action:
    """Say what the server needs next. Pure."""
    update = sight.update
    if update is None:
        return _unclaimed(sight)
    if update.result != "running":
        return Nothing(f"{sight.server} ended before: {update.result}")
    if sight.member is None or not sight.member.in_service:
        return End(update, "left", f"it left the fleet while it was brought up to date: {_state(sight)}")
    last = update.attempts[-1] if update.attempts else None
    if last is not None and last.result == "ok":
        return _went_well(update)
    limit = sight.fleet.policies.launch.deadline
    if (sight.now - (update.turned_at or update.began)).total_seconds() >= limit:
        return _late(sight, update, last, f"it was not done in {limit:.0f} s")
    return _draining(sight) if last is None and update.turned is None else _next(sight, update, last)


def releases_for(update: Update) -> dict[str, str]:
    """Return the releases that the next attempt brings. Pure."""
    return update.before if update.turned is not None else update.releases


def _unclaimed(sight: Sight) -> Action:
    taken, rollout, launch = sight.taken, sight.rollout, sight.launch
    if taken is None or rollout is None:
        return Nothing(f"no rollout takes {sight.server}")
    if launch is None or launch.result != "ready":
        return Nothing(f"{sight.server} was not launched by us, or is not ready")
    known = {name: version for name, version in launch.releases.items() if name in sight.fleet.components}
    return Claim(
        Update(
            fleet=sight.fleet.fleet,
            server=sight.server,
            rollout=taken.rollout,
            began=sight.now,
            releases={**known, **rollout.releases},
            before=known,
        )
    )


def _state(sight: Sight) -> str:
    return sight.member.state if sight.member else "it is not in the group"


def _went_well(update: Update) -> End:
    if update.turned is None:
        return End(update, "updated", "its plan ran, and it is healthy")
    return End(update, "undone", update.reason)


def _late(sight: Sight, update: Update, last: Attempt | None, why: str) -> Action:
    """What failed on the way there goes back all the same, which has as much time again."""
    if update.turned is None and last is not None and last.result == "failed":
        return TurnBack(update, last.step, f"{why}: {last.reason}", last.log_tail)
    return _overdue(sight, _too_late(update, last, why), last)


def _too_late(update: Update, last: Attempt | None, why: str) -> End:
    """Past the deadline: a server that nothing was done to stays as it is, any other is in an unknown state."""
    if last is None:
        return End(update, "undone", f"{why}: {update.reason or 'nobody led traffic away from it'}")
    return End(update, "failed", f"{why}: {update.reason or last.reason or last.result}")


def _overdue(sight: Sight, late: End, last: Attempt | None) -> Run | End:
    """Look once more at what was sent: it may have ended in time, with nobody there to see it."""
    if last is None or not last.under_way or sight.instance is None:
        return late
    return Run(late.update, last.attempt, last, sight.instance, late)


def _draining(sight: Sight) -> Action:
    """Wait until the server is off the list and has drained, if the fleet's policy wants that."""
    assert sight.update is not None, "it was claimed"
    if sight.fleet.policies.rollout.drain:
        leaver = sight.leaver
        if leaver is None or not leaver.told:
            waited = (sight.now - sight.update.began).total_seconds()
            return Wait(patience_s(waited), f"{sight.server} has yet to be announced as gone")
        left = sight.fleet.policies.drain.seconds - (sight.now - leaver.announced).total_seconds()
        if left > 0:
            return Wait(max(1, round(left + 0.5)), f"{sight.server} drains for {left:.0f} s more")
    return _next(sight, sight.update, None)


def _next(sight: Sight, update: Update, last: Attempt | None) -> Action:
    if sight.instance is None or not sight.instance.address:
        return Wait(2, f"EC2 does not show {sight.server}")
    if last is not None and last.result == "running":
        return Run(update, last.attempt, last, sight.instance)
    tried = len(update.attempts) - (update.turned or 0)
    if tried >= sight.fleet.policies.launch.attempts and last is not None:
        if update.turned is None:
            return TurnBack(update, last.step, last.reason, last.log_tail)
        return End(update, "failed", f"{update.reason}; and the way back failed: {last.reason}")
    name = f"{sight.server}-r{update.rollout}-{len(update.attempts) + 1}"
    return Run(update, name, None, sight.instance)
