"""How long each step takes in a fleet's launches and bakes, and when one has become much slower than it used to be.

Pure but for ``Pacing``. A step's history has the latest runs, and before them those that say what is usual. One slow
run is chance (a noisy neighbour, a large release); a step is slow when the median of the latest is. While it is, what
is slow does not become usual: the alert stands until the step is quick again, or the history is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Literal

from shared.alerts import Alerts
from shared.clock import Clock
from shared.documents import Documents
from shared.records import Pace, Paces, StepResult, Took, paces_key

LATEST = 3
USUAL = 20
ENOUGH = 5
"""Fewer runs before the latest say nothing of what is usual."""

TIMES = 2.0
MORE_S = 5.0
"""Slow is ``TIMES`` the usual and ``MORE_S`` above it: what takes a moment is not worth a person's time."""

Kind = Literal["launch", "bake"]


@dataclass(frozen=True)
class Slow:
    """A step that has become slow: medians of the latest runs, and of those before."""

    step: str
    latest: Took
    usual: Took
    before: int
    """How many runs say what is usual."""

    def sentence(self, kind: Kind) -> str:
        """Say it, with what may tell why: more work on the processor, more bytes, or neither (so: waiting)."""
        now, then = self.latest, self.usual
        return (
            f"step {self.step} of a {kind} takes {now.seconds:.1f} s, {then.seconds:.1f} s was usual (medians of the "
            f"last {LATEST} runs and of {self.before} before); CPU {now.cpu_seconds:.1f} s, usually "
            f"{then.cpu_seconds:.1f}; moved {now.bytes / 1e6:.1f} MB, usually {then.bytes / 1e6:.1f}"
        )


def with_run(old: Paces | None, run: str, at: datetime, steps: Iterable[StepResult]) -> Paces | None:
    """Return the history with what a run took for the steps that it did; None when there is nothing new. Pure."""
    before = old or Paces()
    took = {each.step: _took(each, run, at) for each in steps if each.result == "done"}
    new = {step: each for step, each in took.items() if not _knows(before.steps.get(step), run)}
    added = {step: _with_one(before.steps.get(step, Pace()), each) for step, each in new.items()}
    return before.model_copy(update={"steps": {**before.steps, **added}}) if added else None


def slow(step: str, pace: Pace) -> Slow | None:
    """Say whether a step has become much slower than it used to be. Pure."""
    if len(pace.latest) < LATEST or len(pace.usual) < ENOUGH:
        return None
    latest, usual = _median(pace.latest), _median(pace.usual)
    if latest.seconds < max(TIMES * usual.seconds, usual.seconds + MORE_S):
        return None
    return Slow(step, latest, usual, len(pace.usual))


def _took(step: StepResult, run: str, at: datetime) -> Took:
    return Took(run=run, at=at, seconds=step.seconds, cpu_seconds=step.cpu_seconds, bytes=step.bytes)


def _knows(pace: Pace | None, run: str) -> bool:
    return pace is not None and any(each.run == run for each in (*pace.usual, *pace.latest))


def _with_one(pace: Pace, took: Took) -> Pace:
    latest = (*pace.latest, took)
    kept = Pace(usual=pace.usual, latest=latest[-LATEST:])
    if len(latest) <= LATEST or slow("", kept):
        return kept
    return Pace(usual=(*pace.usual, latest[0])[-USUAL:], latest=kept.latest)


def _median(runs: tuple[Took, ...]) -> Took:
    """Return the median of each figure."""

    def middle(figure: Callable[[Took], float]) -> float:
        return median(figure(each) for each in runs)

    figures = {"seconds": middle(lambda each: each.seconds), "cpu_seconds": middle(lambda each: each.cpu_seconds)}
    return runs[-1].model_copy(update=figures | {"bytes": round(middle(lambda each: each.bytes))})


class Pacing:
    """Keeps the histories, and tells of steps that have become slow. May be repeated; a run counts once."""

    def __init__(self, documents: Documents, alerts: Alerts, clock: Clock) -> None:
        self._documents = documents
        self._alerts = alerts
        self._clock = clock

    async def note(self, fleet: str, kind: Kind, run: str, steps: Iterable[StepResult]) -> None:
        """Add what a run took; raise an alert for each step that has become slow, clear those of quick ones.

        Raises CloudError and CorruptDocument.
        """
        key, now, results = paces_key(fleet, kind), self._clock.now(), tuple(steps)
        written = await self._documents.change(Paces, key, lambda old: with_run(old, run, now, results))
        paces = written.document or Paces()
        found = [slow(step, pace) for step, pace in paces.steps.items()]
        slows = {_cause(kind, each.step): each for each in found if each is not None}
        for cause, each in slows.items():
            command = f"python -m ops launch pace {fleet}"
            await self._alerts.raise_alert(fleet, cause, each.sentence(kind), command, step=each.step)
        await self._alerts.clear_where(fleet, lambda cause: cause not in slows, _cause(kind, ""))


def _cause(kind: Kind, step: str) -> str:
    return f"slow-{kind}-{step}"
