"""Where a launch's time went, from EC2's order to the first request that the server answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.records import Attempt, Launch, StepResult


@dataclass(frozen=True)
class Phase:
    """A stretch of a launch that is no step of the plan.

    ``hook``: from EC2's order until the launch was taken up; ``boot``: until the server answered Systems Manager and
    the plan was sent; ``delivery``: until the agent began its first step; ``report``: from its last step until its
    end was noticed; ``admission``: until the hook was completed; ``traffic``: until the server was on the list.
    """

    name: str
    began: datetime
    ended: datetime

    @property
    def seconds(self) -> float:
        """How long it took. Two clocks may be part of it, ours and the server's: never less than nothing."""
        return max(0.0, (self.ended - self.began).total_seconds())


def phases(launch: Launch, member_since: datetime | None = None) -> tuple[Phase, ...]:
    """Return the phases that the launch has come through, in order; those of an attempt again for each. Pure."""
    return tuple(_phases(launch, member_since))


def waiting_s(step: StepResult) -> float:
    """Return how long a step neither computed nor ended: on the network, the disk, or others. Pure.

    Steps that compute in several processes at once may have no waiting at all.
    """
    return max(0.0, step.seconds - step.cpu_seconds)


def ran(steps: Iterable[StepResult]) -> tuple[datetime, datetime] | None:
    """Return when the first step began and the last one ended, which may be side by side; None: none ran. Pure."""
    times = [(each.began, each.began + timedelta(seconds=each.seconds)) for each in steps if each.began]
    return (min(began for began, _ in times), max(ended for _, ended in times)) if times else None


def from_image(launch: Launch) -> bool:
    """Whether the server brought a ledger along: its first attempt found something done. Pure."""
    return bool(launch.attempts) and any(step.result == "skipped" for step in launch.attempts[0].steps)


def _phases(launch: Launch, member_since: datetime | None) -> Iterator[Phase]:
    if launch.ordered is not None:
        yield Phase("hook", launch.ordered, launch.claimed)
    if launch.attempts:
        yield Phase("boot", launch.claimed, launch.attempts[0].began)
    for attempt in launch.attempts:
        yield from _around_steps(attempt)
    last = launch.attempts[-1] if launch.attempts else None
    if launch.ended is not None and last is not None and last.ended is not None:
        yield Phase("admission", last.ended, launch.ended)
    if launch.ended is not None and member_since is not None:
        yield Phase("traffic", launch.ended, member_since)


def _around_steps(attempt: Attempt) -> Iterator[Phase]:
    between = ran(attempt.steps)
    if between is None:
        return
    yield Phase("delivery", attempt.began, between[0])
    if attempt.ended is not None:
        yield Phase("report", between[1], attempt.ended)
