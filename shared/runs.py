"""Running a fleet's plan on one server: launches and bakes do it alike.

An attempt is first written down (by conditional write: whoever wins sends), then sent, then watched. SendCommand is not
idempotent, so the attempt's id travels as the command's comment, and a command whose reply was lost is found by it.
The plan's SHA-256 is written down with the attempt: a plan that is another when it is sent, or fetched, is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

import structlog
from pydantic import ValidationError

from shared import names
from shared.clock import Clock
from shared.cloud import CommandsPort, CommandState, CommandStatus, Conflict, Instance, ObjectsPort
from shared.documents import CorruptDocument
from shared.fleet import Fleet
from shared.outcome import TOLD_S, patience_s
from shared.outlines import Outline
from shared.plan import Content, Plan
from shared.planning import inputs_of, make_plan, plan_digest
from shared.records import Attempt, Report, StepResult, report_key, run_prefix
from shared.releases import UnknownRelease, content, outline

log = structlog.get_logger()

AGENT = Path(__file__).parent.parent / "agent" / "agent.py"
"""The agent's one file, which is sent as it is."""

URL_LIFE_S = 6 * 3600
"""Longer than any run is worth waiting for, and within the twelve hours of a role's credentials."""

UNSENT_S = 15
"""So long whoever wrote an attempt down may take to send it; afterwards another may."""

LOST_S = 300
"""So long AWS may take to show a command that was sent (GetCommandInvocation is eventually consistent)."""

PICK_UP_S = 600
"""So long a connected server may take to begin; the document bounds the run itself."""

TAIL = 4000
"""Characters of a command's output that are kept where the agent left no report."""


@dataclass(frozen=True)
class Progress:
    """How an attempt stands. ``lost``: neither AWS nor the agent can say, and will not any more."""

    state: Literal["running", "ok", "failed", "lost"]
    step: str | None = None
    reason: str = ""
    log_tail: str = ""
    steps: tuple[StepResult, ...] = ()


@dataclass(frozen=True)
class Pause:
    """Nothing to do for now: the server is ``offline``, the plan is ``running``, or another is ``sending`` it."""

    kind: Literal["offline", "running", "sending"]
    why: str

    def look_s(self, waited_s: float, running_s: int = TOLD_S) -> int:
        """Return how soon to look again at a server waited for so long; ``running_s`` while its plan runs. Pure."""
        if self.kind == "offline":
            return patience_s(waited_s)
        return running_s if self.kind == "running" else 2


class NoPlan(Exception):
    """No plan can be made for the fleet; the message is a sentence that says what is missing.

    ``component`` is the one whose release is missing or unreadable; None when no release is set, or for anything else.
    """

    def __init__(self, reason: str, component: str | None = None) -> None:
        super().__init__(reason)
        self.component = component


class Ledger(Protocol):
    """Where attempts are written down."""

    async def save(self, old: Attempt | None, new: Attempt) -> bool:
        """Replace ``old`` (None: nothing of this attempt) by ``new``; False when something else is there now."""
        ...


class Runs:
    """Sends plans to servers and tells how they fare. All calls raise CloudError, and may be repeated."""

    def __init__(self, commands: CommandsPort, objects: ObjectsPort, clock: Clock, agent: Path) -> None:
        self._commands = commands
        self._objects = objects
        self._clock = clock
        self._agent = agent.read_bytes()

    async def advance(
        self,
        fleet: Fleet,
        server: Instance,
        name: str,
        attempt: Attempt | None,
        *,
        ledger: Ledger,
        releases: Mapping[str, str],
    ) -> Pause | None:
        """Take the attempt ``name`` one step further; None: what is written down is another now, so look at it.

        ``releases`` are the components' versions to plan with.

        Raises:
            NoPlan: a release is missing or unreadable.
        """
        if attempt is None:
            return await self._begin(fleet, server, name, ledger, releases)
        if attempt.command is None:
            return await self._resume(fleet, server, attempt, ledger)
        progress = await self.progress(fleet.fleet, server.server, attempt)
        if progress.state == "running":
            return Pause("running", f"{attempt.attempt} is running{f' {progress.step}' if progress.step else ''}")
        await ledger.save(attempt, concluded(attempt, progress, self._clock.now()))
        return None

    async def progress(self, fleet: str, server: str, attempt: Attempt) -> Progress:
        """Return how an attempt stands: the agent's last word where there is one, else the command's own."""
        report = await self._report(fleet, attempt.attempt)
        status = CommandStatus(CommandState.UNKNOWN)
        if attempt.command is not None:
            status = await self._commands.status(server, attempt.command)
        return judge(status, report, (self._clock.now() - attempt.began).total_seconds())

    async def releases(self, fleet: str, attempt: str) -> dict[str, str]:
        """Return the releases that the attempt's plan brings; none when there is no plan."""
        stored = await self._objects.get(_plan_key(fleet, attempt))
        steps = Plan.model_validate_json(stored.body).steps if stored else ()
        return {step.component: step.version for step in steps if step.kind == "sync"}

    async def fingerprints(self, fleet: Fleet, releases: Mapping[str, str]) -> dict[str, str]:
        """Return each step's fingerprint with these releases: steps that differ depend on what differs.

        Raises:
            NoPlan: as ``advance``.
        """
        published = {each: await self._release(fleet, each, releases) for each in fleet.components}
        nowhere = {each: Content(manifest_url="", manifest_sha256="") for each in published}
        plan = make_plan(fleet, published, "", "", attempt="", report_url="", content_urls=nowhere)
        return {step.step: step.fingerprint for step in plan.steps}

    async def _begin(
        self, fleet: Fleet, server: Instance, name: str, ledger: Ledger, releases: Mapping[str, str]
    ) -> Pause | None:
        """Plan while the server boots; write the attempt down and send it once the server answers."""
        body = await self._planned(fleet, server, name, releases)
        if not await self._commands.online(server.server):
            return Pause("offline", f"{server.server} is not connected to Systems Manager yet")
        digest = plan_digest(Plan.model_validate_json(body))
        attempt = Attempt(attempt=name, began=self._clock.now(), plan_digest=digest, plan_sha256=_digest(body))
        if not await ledger.save(None, attempt):
            return None
        return await self._send(fleet.fleet, server.server, attempt, ledger)

    async def _resume(self, fleet: Fleet, server: Instance, attempt: Attempt, ledger: Ledger) -> Pause | None:
        """Adopt a command whose reply was lost; send it when whoever meant to has had the time."""
        found = await self._commands.find(server.server, attempt.attempt)
        if found is not None:
            await ledger.save(attempt, attempt.model_copy(update={"command": found}))
            return None
        now = self._clock.now()
        if now < attempt.began + timedelta(seconds=UNSENT_S):
            return Pause("sending", f"{attempt.attempt} is written down and about to be sent")
        taken = attempt.model_copy(update={"began": now})
        if not await ledger.save(attempt, taken):
            return None
        return await self._send(fleet.fleet, server.server, taken, ledger)

    async def _send(self, fleet: str, server: str, attempt: Attempt, ledger: Ledger) -> Pause | None:
        """Send the plan that was written down; the attempt fails when that is gone or another by now."""
        key = _plan_key(fleet, attempt.attempt)
        stored = await self._objects.get(key)
        found = _digest(stored.body) if stored is not None else None
        if found is None or found != (attempt.plan_sha256 or found):
            how = "was deleted" if found is None else "was changed"
            reason = f"the plan {how} in {key} after the attempt was written down, so it was not sent"
            log.warning("plan refused", fleet=fleet, server=server, attempt=attempt.attempt, reason=reason)
            await ledger.save(attempt, concluded(attempt, Progress("failed", reason=reason), self._clock.now()))
            return None
        parameters = await self._parameters(key, found)
        command = await self._commands.send(
            server, names.RUN_DOCUMENT, parameters, comment=attempt.attempt, timeout_s=PICK_UP_S
        )
        log.info("plan sent", fleet=fleet, server=server, attempt=attempt.attempt, command=command)
        await ledger.save(attempt, attempt.model_copy(update={"command": command}))
        return Pause("running", f"{attempt.attempt} was sent")

    async def _parameters(self, plan_key: str, plan_sha256: str) -> dict[str, str]:
        agent_sha256 = _digest(self._agent)
        agent_key = f"agents/{agent_sha256}"
        await self._put_once(agent_key, self._agent)
        return {
            "AgentUrl": await self._objects.presign_get(agent_key, URL_LIFE_S),
            "AgentSha256": agent_sha256,
            "PlanUrl": await self._objects.presign_get(plan_key, URL_LIFE_S),
            "PlanSha256": plan_sha256,
        }

    async def _planned(self, fleet: Fleet, server: Instance, name: str, releases: Mapping[str, str]) -> bytes:
        """Return the attempt's plan, made once: a second sender sends the very same bytes."""
        key = _plan_key(fleet.fleet, name)
        stored = await self._objects.get(key)
        if stored is not None:
            return stored.body
        published = {each: await self._release(fleet, each, releases) for each in fleet.components}
        plan = make_plan(
            fleet,
            published,
            server.server,
            server.address,
            attempt=name,
            report_url=await self._objects.presign_put(report_key(fleet.fleet, name), URL_LIFE_S),
            content_urls={
                each: await content(self._objects, release, URL_LIFE_S) for each, release in published.items()
            },
        )
        return await self._put_once(key, plan.model_dump_json().encode())

    async def _release(self, fleet: Fleet, component: str, releases: Mapping[str, str]) -> Outline:
        version = releases.get(component)
        if version is None:
            raise NoPlan(f"no release of {component} is set for {fleet.fleet}")
        try:
            return await outline(self._objects, component, version, inputs_of(fleet, component))
        except UnknownRelease as error:
            raise NoPlan(str(error), component) from error
        except CorruptDocument as error:
            raise NoPlan(f"the manifest of {component} {version} cannot be read", component) from error

    async def _put_once(self, key: str, body: bytes) -> bytes:
        """Write where nothing is; return what is there, which is another's when that was quicker."""
        try:
            await self._objects.put(key, body, absent=True)
        except Conflict:
            stored = await self._objects.get(key)
            if stored is None:
                raise
            return stored.body
        return body

    async def _report(self, fleet: str, attempt: str) -> Report | None:
        stored = await self._objects.get(report_key(fleet, attempt))
        return read_report(stored.body, attempt) if stored else None


def read_report(body: bytes, attempt: str) -> Report | None:
    """Return the agent's report; None when it cannot be read or is another attempt's. Pure."""
    try:
        report = Report.model_validate_json(body)
    except ValidationError:
        return None
    return report if report.attempt == attempt else None


def judge(status: CommandStatus, report: Report | None, age_s: float) -> Progress:
    """Say how an attempt stands that was sent ``age_s`` seconds ago. Pure.

    The agent's final word counts; without one, the command's own end does.
    """
    if report is not None and report.state != "running":
        return _reported(report)
    if status.state == CommandState.SUCCEEDED:
        return Progress("ok", steps=report.steps if report else ())
    if status.state == CommandState.RUNNING:
        return Progress("running", step=report.step if report else None, steps=report.steps if report else ())
    if status.state == CommandState.UNKNOWN:
        if age_s < LOST_S:
            return Progress("running", step=report.step if report else None)
        return Progress("lost", step=report.step if report else None, reason="Systems Manager knows no such command")
    return _ended(status, report)


def concluded(attempt: Attempt, progress: Progress, now: datetime) -> Attempt:
    """Return the attempt as it ended. Pure."""
    return attempt.model_copy(
        update={
            "ended": now,
            "result": "ok" if progress.state == "ok" else "failed",
            "step": progress.step,
            "reason": progress.reason,
            "log_tail": progress.log_tail,
            "steps": progress.steps,
        }
    )


def _reported(report: Report) -> Progress:
    if report.state == "ok":
        return Progress("ok", steps=report.steps)
    failures = [step for step in report.steps if step.result == "failed"]
    failed = next((step for step in failures if step.step == report.step), failures[0] if failures else None)
    return Progress(
        "failed",
        step=report.step or (failed.step if failed else None),
        reason=report.reason or (failed.reason if failed else "") or "the agent gave no reason",
        log_tail=failed.log_tail if failed else "",
        steps=report.steps,
    )


def _ended(status: CommandStatus, report: Report | None) -> Progress:
    """Return how a command failed whose agent had no last word: it was killed, cut off, or never began."""
    at_work = [step.step for step in report.steps if step.result == "running"] if report else []
    blamed = at_work or ([report.step] if report and report.step else [])
    where = f" in step {' and '.join(blamed)}" if blamed else ""
    detail = f": {status.detail}" if status.detail else ""
    return Progress(
        "failed",
        step=report.step if report else None,
        reason=f"the command ended {status.state.value} with code {status.code}{where}{detail}",
        log_tail=f"{status.output}\n{status.errors}".strip()[-TAIL:],
        steps=report.steps if report else (),
    )


def _plan_key(fleet: str, attempt: str) -> str:
    return run_prefix(fleet, attempt) + "plan.json"


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
