"""Launches and bakes that have ended, as spans: what was tried, and every step with the server's own clock readings."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from opentelemetry.trace import Span

from shared.phases import phases, waiting_s
from shared.records import Attempt, Bake, Launch, StepResult
from shared.tracing import told


def trace_launch(launch: Launch) -> None:
    """Record a launch that has ended, in its own trace: the launch, its attempts, their steps."""
    about = {"autoprovisioner.fleet": launch.fleet, "autoprovisioner.server": launch.server}
    about |= {"autoprovisioner.image": launch.image, "autoprovisioner.result": launch.result}
    ended = launch.ended or launch.claimed
    error = launch.reason if launch.result == "failed" else None
    whole = told("launch", launch.trace, launch.claimed, ended, about, error)
    for phase in phases(launch):
        told(phase.name, whole, phase.began, max(phase.began, phase.ended), {})
    _trace_attempts(whole, launch.attempts, ended)


def trace_bake(bake: Bake) -> None:
    """Record a bake that has ended, in its own trace: the bake, its full run and its proof, their steps."""
    about = {"autoprovisioner.fleet": bake.fleet, "autoprovisioner.bake": bake.bake}
    about |= {"autoprovisioner.image": bake.image or "", "autoprovisioner.result": bake.stage}
    ended = bake.ended or bake.requested
    whole = told("bake", bake.trace, bake.requested, ended, about, bake.failure if bake.stage == "failed" else None)
    _trace_attempts(whole, [*bake.failed, *(each for each in (bake.provision, bake.proof) if each is not None)], ended)


def _trace_attempts(whole: Span, attempts: Iterable[Attempt], ended: datetime) -> None:
    for attempt in attempts:
        about = {"autoprovisioner.attempt": attempt.attempt, "autoprovisioner.result": attempt.result}
        about |= {"autoprovisioner.command": attempt.command or ""}
        error = attempt.reason if attempt.result == "failed" else None
        span = told("attempt", whole, attempt.began, attempt.ended or ended, about, error)
        at = attempt.began
        for step in attempt.steps:
            at = _trace_step(span, step, at)


def _trace_step(attempt: Span, step: StepResult, at: datetime) -> datetime:
    """Record a step; one that was skipped took no time and has none, so it is put ``at`` the end of the one before."""
    began = step.began or at
    ended = began + timedelta(seconds=step.seconds)
    about = {
        "autoprovisioner.result": step.result,
        "autoprovisioner.cpu_seconds": step.cpu_seconds,
        "autoprovisioner.waiting_seconds": round(waiting_s(step), 3),
        "autoprovisioner.bytes": step.bytes,
        "autoprovisioner.requests": step.requests,
    }
    told(f"step {step.step}", attempt, began, ended, about, step.reason if step.result == "failed" else None)
    return ended
