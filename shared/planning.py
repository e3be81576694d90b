"""From a fleet's description and the releases it runs to the plan for one server. Pure.

What a step's fingerprint covers, all of it in ``make_plan``:

- its kind and name; not its timeout, and nothing of the server (address, attempt, URLs): one image serves all servers;
- ``run``: the script, its environment, and the files that it reads of each component in ``inputs``: those whose path
  matches one of the globs (``shared.outlines``), with mode, content and target, and the directory that the component is
  synced to;
- ``sync``: the release's manifest and the directory;
- ``check``: the URL before ``{address}`` is filled in;
- the fingerprints of the steps that it needs, with one exception: a ``run`` step that lists a component in ``inputs``
  does not inherit from that component's ``sync`` step, since every release would otherwise count in full. A component
  that a step needs but does not list is inherited, and so counts in full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shared.fleet import CheckStep, Fleet, RunStep, Step, SyncStep
from shared.outlines import Globs, Outline
from shared.plan import Content, Plan, PlannedStep

Ledger = Mapping[str, str]
"""The fingerprint of each step that is done on a server."""


def make_plan(
    fleet: Fleet,
    releases: Mapping[str, Outline],
    server: str,
    address: str,
    *,
    attempt: str,
    report_url: str,
    content_urls: Mapping[str, Content],
) -> Plan:
    """Return the plan for one server.

    ``releases`` and ``content_urls`` have an entry for each of ``fleet.components``, outlined for the globs of
    ``inputs_of``. Pure.

    Raises:
        KeyError: one of them is missing.
    """
    planner = _Planner(fleet, releases, address, content_urls)
    return Plan(
        fleet=fleet.fleet,
        server=server,
        attempt=attempt,
        address=address,
        report_url=report_url,
        steps=tuple(planner.planned(step) for step in fleet.plan),
    )


def inputs_of(fleet: Fleet, component: str) -> set[Globs]:
    """Return all that the fleet's steps read of a component and list as inputs. Pure."""
    return {step.inputs[component] for step in fleet.plan if isinstance(step, RunStep) and component in step.inputs}


def plan_digest(plan: Plan) -> str:
    """Return a digest of the work in a plan: the same for every server, attempt and set of URLs. Pure."""
    return _digest([plan.fleet, [[step.step, step.kind, step.fingerprint] for step in plan.steps]])


@dataclass(frozen=True)
class Explained:
    """Whether a step would run, and why or why not."""

    step: str
    runs: bool
    reason: str


def explain(plan: Plan, ledger: Ledger) -> tuple[Explained, ...]:
    """Return which steps of a plan would run on a server with this ledger. Pure."""
    return tuple(_explained(step, ledger.get(step.step)) for step in plan.steps)


def _explained(step: PlannedStep, done: str | None) -> Explained:
    if step.kind == "check":
        return Explained(step.step, runs=True, reason="checks always run")
    if done is None:
        return Explained(step.step, runs=True, reason="not done on this server yet")
    if done != step.fingerprint:
        return Explained(step.step, runs=True, reason=f"changed since it was done: {step.why}")
    return Explained(step.step, runs=False, reason="done, and nothing that it depends on has changed")


class _Planner:
    """Plans a fleet's steps one after the other, remembering fingerprints."""

    def __init__(
        self,
        fleet: Fleet,
        releases: Mapping[str, Outline],
        address: str,
        content_urls: Mapping[str, Content],
    ) -> None:
        self._releases = releases
        self._address = address
        self._content_urls = content_urls
        self._syncs = {step.step: step for step in fleet.plan if isinstance(step, SyncStep)}
        self._fingerprints: dict[str, str] = {}

    def planned(self, step: Step) -> PlannedStep:
        match step:
            case RunStep():
                planned = self._run(step)
            case SyncStep():
                planned = self._sync(step)
            case CheckStep():
                planned = self._check(step)
        self._fingerprints[step.step] = planned.fingerprint
        return planned

    def _run(self, step: RunStep) -> PlannedStep:
        read = {component: self._releases[component].inputs[globs] for component, globs in step.inputs.items()}
        needs = [need for need in step.needs if need not in self._syncs or self._syncs[need].sync not in step.inputs]
        inputs = {component: [self._directories(component), each.digest] for component, each in read.items()}
        on = [
            f"{each.files} files ({' '.join(step.inputs[name])}) of {name} {self._releases[name].version}"
            for name, each in read.items()
        ]
        return PlannedStep(
            step=step.step,
            kind="run",
            fingerprint=self._fingerprint(step, needs, [step.script, step.environment, inputs]),
            needs=step.needs,
            timeout_s=step.timeout,
            why=", ".join(["its script", *on, *needs]),
            script=step.script,
            environment=dict(step.environment),
        )

    def _sync(self, step: SyncStep) -> PlannedStep:
        release = self._releases[step.sync]
        return PlannedStep(
            step=step.step,
            kind="sync",
            fingerprint=self._fingerprint(step, step.needs, [step.sync, release.version, release.digest, step.to]),
            needs=step.needs,
            timeout_s=step.timeout,
            why=", ".join([f"release {step.sync} {release.version}", *step.needs]),
            component=step.sync,
            version=release.version,
            to=step.to,
            content=self._content_urls[step.sync],
        )

    def _check(self, step: CheckStep) -> PlannedStep:
        return PlannedStep(
            step=step.step,
            kind="check",
            fingerprint=self._fingerprint(step, step.needs, [step.check]),
            needs=step.needs,
            timeout_s=step.timeout,
            why="checks always run",
            url=step.check.replace("{address}", self._address),
        )

    def _fingerprint(self, step: Step, needs: Iterable[str], own: list[object]) -> str:
        return _digest([type(step).__name__, step.step, own, [[need, self._fingerprints[need]] for need in needs]])

    def _directories(self, component: str) -> list[str]:
        return [step.to for step in self._syncs.values() if step.sync == component]


def _digest(value: object) -> str:
    """Return the SHA-256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
