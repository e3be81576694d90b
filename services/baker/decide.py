"""What a bake needs next. Pure.

A bake's id is its fleet and the second in which it was asked for, so the same request again means the same bake. Its
record says how far it is; ``ended`` is set last, when nothing of it is left to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from shared.cloud import Image, Instance
from shared.fleet import CheckStep, Fleet
from shared.moments import utc
from shared.outcome import TOLD_S
from shared.records import Attempt, Bake, Fallback

STALE = timedelta(days=1)
"""A request this old has been overtaken by a nightly bake."""

UNRECORDED = timedelta(minutes=10)
"""So long a claim without a record may belong to a baker that is about to write the record."""

CONNECTS_WITHIN = timedelta(minutes=20)
"""A server that is not connected to Systems Manager by then hardly ever comes."""

MOST_LOST = 2
"""Servers of a bake that others are launched in the place of; past that more than bad luck is behind it."""

LIFE_SHARE = 0.9
"""Of the hours after which the janitor reaps builders: a bake gives up before its builder is taken from it."""

DEAD = ("shutting-down", "terminated", "stopping", "stopped")

Role = Literal["builder", "prover"]


@dataclass(frozen=True)
class Sight:
    """What there is to see of one bake. None where nothing is known, or nothing is seen yet."""

    now: datetime
    fleet: Fleet
    bake: Bake
    builder: Instance | None
    image: Image | None
    prover: Instance | None
    overtaken_by: str | None = None
    """The fleet's latest bake, where that is another one and this one has no builder."""


@dataclass(frozen=True)
class Nothing:
    """The bake has ended."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """AWS has to get on first."""

    after_s: int
    reason: str


@dataclass(frozen=True)
class ChooseStock:
    """Find out which image the fleet's stock image is now, and write it down."""

    reason: str


@dataclass(frozen=True)
class Launch:
    """Launch the builder or the prover."""

    role: Role
    image: str
    reason: str


@dataclass(frozen=True)
class Run:
    """Take the plan on this server one step further."""

    role: Role
    instance: Instance
    attempt: Attempt | None
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """Make an image of the builder."""

    server: str
    reason: str


@dataclass(frozen=True)
class Prove:
    """Tag the image as proven."""

    image: str
    reason: str


@dataclass(frozen=True)
class Fail:
    """Write down that the bake failed."""

    reason: str
    step: str | None = None
    log_tail: str = ""


@dataclass(frozen=True)
class Judge:
    """The plan failed on the builder: see whether a release is to blame."""

    attempt: Attempt


@dataclass(frozen=True)
class TryAgain:
    """Run the plan once more on the same builder: one failure may be an accident."""

    attempt: Attempt


@dataclass(frozen=True)
class FallBack:
    """Begin again on a fresh server from the stock image, with the last good releases of these components."""

    builder: str
    fallbacks: tuple[Fallback, ...]
    attempt: Attempt


@dataclass(frozen=True)
class Replace:
    """Give this server up, and launch another in its place."""

    role: Role
    server: str
    reason: str


@dataclass(frozen=True)
class Settle:
    """The result is written down: clean up, say so, and end."""

    reason: str


Action = Nothing | Wait | ChooseStock | Launch | Run | Replace | Judge | Snapshot | Prove | Fail | Settle


def decide(sight: Sight) -> Action:
    """Say what the bake needs next. Pure."""
    bake = sight.bake
    if bake.ended is not None:
        return Nothing(f"bake {bake.bake} ended before: {bake.stage}")
    if bake.stage in {"ready", "failed"}:
        return Settle(f"bake {bake.bake} is {bake.stage}")
    limit = timedelta(hours=sight.fleet.policies.retention.builder_hours) * LIFE_SHARE
    if sight.now - bake.requested > limit:
        return Fail(f"it was not done in {limit}, at stage {bake.stage}")
    if bake.image is not None:
        return _imaged(sight, bake.image)
    if bake.provision is not None and bake.provision.result != "running":
        return _provisioned(bake, bake.provision)
    return _building(sight)


def bake_id(fleet: str, asked: datetime) -> str:
    """Return the id of the bake that was asked for at that time. Pure."""
    return f"{fleet}-{utc(asked):%Y%m%dt%H%M%S}"


def recent(bakes: Iterable[str], now: datetime) -> int:
    """Count the bakes that were asked for in the last 24 hours, by their ids. Pure."""
    since = f"{utc(now) - timedelta(days=1):%Y%m%dt%H%M%S}"
    return sum(bake.rsplit("-", 1)[-1] > since for bake in bakes)


def attempt_name(bake: Bake, role: Role) -> str:
    """Return what the next attempt on this server is called: each has a plan of its own. Pure."""
    before = len(bake.lost) + (len(bake.failed) if role == "builder" else 0)
    return f"{bake.bake}-{role}-{before + 1}" if before else f"{bake.bake}-{role}"


def unconnected(bake: Bake, run: Run, now: datetime) -> Replace | Fail | None:
    """Say what follows while a server is not connected to Systems Manager; None: it is waited for. Pure."""
    instance = run.instance
    if now - instance.launched <= CONNECTS_WITHIN:
        return None
    why = f"the {run.role} {instance.server} did not connect to Systems Manager within {CONNECTS_WITHIN}"
    see = f"see whether {instance.image} has the SSM agent, and its instance profile AmazonSSMManagedInstanceCore"
    return _lost(bake, run.role, instance.server, f"{why}; {see}")


def ran_again(fleet: Fleet, proof: Attempt) -> tuple[str, ...]:
    """Return the steps that a server from the image should have found done, and did not report as skipped. Pure."""
    skipped = {step.step for step in proof.steps if step.result == "skipped"}
    return tuple(step.step for step in fleet.plan if not isinstance(step, CheckStep) and step.step not in skipped)


def _building(sight: Sight) -> Action:
    bake = sight.bake
    if bake.builder is None and sight.overtaken_by is not None:
        return Fail(f"bake {sight.overtaken_by} took its place before it had a builder")
    if bake.stock is None:
        return ChooseStock("a bake begins with the stock image, never with yesterday's")
    if bake.builder is None:
        return Launch("builder", bake.stock, "there is no builder yet")
    return _running(bake, "builder", sight.builder, bake.provision)


def judged(bake: Bake, judge: Judge, fallbacks: tuple[Fallback, ...], attempts: int) -> TryAgain | FallBack | Fail:
    """Say what follows when the plan failed on the builder. Pure.

    ``fallbacks`` is what to go on with instead of the releases under suspicion, ``attempts`` how many each gets.
    """
    failed = judge.attempt
    tried = len(bake.failed) + 1 - max((each.after for each in bake.fallbacks), default=0)
    if fallbacks and bake.builder is not None:
        return TryAgain(failed) if tried < attempts else FallBack(bake.builder, fallbacks, failed)
    good = ", ".join(f"{each.component} {each.good}" for each in bake.fallbacks)
    also = f"; so it did with the last good releases ({good}), so none is to blame" if good else ""
    return Fail(failed.reason + also, failed.step, failed.log_tail)


def _provisioned(bake: Bake, provision: Attempt) -> Action:
    if provision.result == "failed":
        return Judge(provision)
    assert bake.builder is not None, "a plan ran, so there was a builder"
    return Snapshot(bake.builder, "the full plan has run")


def _imaged(sight: Sight, image: str) -> Action:
    if sight.image is None:
        return Wait(2, f"EC2 does not show {image} yet")
    if sight.image.state == "pending":
        return Wait(TOLD_S, f"{image} is being made")
    if sight.image.state != "available":
        return Fail(f"EC2 made no image of the builder: {image} is {sight.image.state}: {sight.image.reason}")
    bake = sight.bake
    if bake.prover is None:
        return Launch("prover", image, f"{image} is available, and unproven")
    if bake.proof is None or bake.proof.result == "running":
        return _running(bake, "prover", sight.prover, bake.proof)
    return _judged(sight.fleet, bake.proof, image)


def _judged(fleet: Fleet, proof: Attempt, image: str) -> Action:
    if proof.result == "failed":
        return Fail(f"the proof launch failed: {proof.reason}", proof.step, proof.log_tail)
    again = ran_again(fleet, proof)
    if again:
        return Fail(
            f"the proof launch did not find everything done: {', '.join(again)} ran again or was not reported", again[0]
        )
    return Prove(image, "a server from the image had nothing left to do and is healthy")


def _running(bake: Bake, role: Role, instance: Instance | None, attempt: Attempt | None) -> Action:
    if instance is None:
        return Wait(2, f"EC2 does not show the {role} yet")
    if instance.state in DEAD:
        step = attempt.step if attempt else None
        return _lost(bake, role, instance.server, f"the {role} {instance.server} is {instance.state}", step)
    if instance.state != "running" or not instance.address:
        return Wait(1, f"the {role} {instance.server} is {instance.state}")
    return Run(role, instance, attempt, f"the {role} {instance.server} is running")


def _lost(bake: Bake, role: Role, server: str, reason: str, step: str | None = None) -> Replace | Fail:
    if len(bake.lost) < MOST_LOST:
        return Replace(role, server, reason)
    return Fail(f"{reason}; before it {' and '.join(bake.lost)} were lost", step)
