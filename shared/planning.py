"""From a fleet's description and the releases it runs to the plan for one server. Pure.

What a step's fingerprint covers, all of it in its ``parts``:

- its kind and name;
- ``run``: the script's text, each variable of its environment, its user, and the files that it reads of each component
  in ``inputs``: those whose path matches one of the globs (``shared.outlines``), with mode, content and target, and the
  directory that the component is synced to;
- ``sync``: the release's version and manifest, and the directory;
- ``check``: the URL before ``{address}`` is filled in;
- the fingerprints of the steps that it needs, with one exception: a ``run`` step that lists a component in ``inputs``
  does not inherit from that component's ``sync`` step, since every release would otherwise count in full. A component
  that a step needs but does not list is inherited, and so counts in full.

Left out on purpose: what changes how a step runs but not what it leaves behind (``timeout``, ``retry``, the plan's
order, ``parallel``), where the script's text is kept, and everything of the server (address, attempt, URLs, the rest of
the agent's environment), since one image serves all servers.

The parts are kept with each step's result, on the server and in our records. Texts are kept as they are where people
know them (versions, directories, users), all else as digests: an environment may hold secrets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from shared.fleet import CheckStep, Fleet, Retry, RunStep, Step, SyncStep
from shared.outlines import Globs, Outline
from shared.plan import Content, Plan, PlannedStep, Tries
from shared.records import StepResult

DIGITS = 32
"""Hexadecimal digits of a digest in ``parts``: 128 bits are too many for two texts to agree by chance."""

Parts = Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """A step that was done: its fingerprint then, and what that was made of."""

    fingerprint: str
    parts: Parts = field(default_factory=dict)


Ledger = Mapping[str, Done]
"""The steps that are done on a server, or in an image."""


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
        parallel=fleet.parallel,
        steps=tuple(planner.planned(step) for step in fleet.plan),
    )


def inputs_of(fleet: Fleet, component: str) -> set[Globs]:
    """Return all that the fleet's steps read of a component and list as inputs. Pure."""
    return {step.inputs[component] for step in fleet.plan if isinstance(step, RunStep) and component in step.inputs}


def plan_digest(plan: Plan) -> str:
    """Return a digest of the work in a plan: the same for every server, attempt and set of URLs. Pure."""
    text = json.dumps([plan.fleet, [[step.step, step.kind, step.fingerprint] for step in plan.steps]])
    return hashlib.sha256(text.encode()).hexdigest()


def ledger_of(steps: Iterable[StepResult]) -> dict[str, Done]:
    """Return the ledger of a server which reported these steps, as its image brings it along. Pure."""
    return {step.step: Done(step.fingerprint, step.parts) for step in steps if step.result in {"done", "skipped"}}


@dataclass(frozen=True)
class Explained:
    """Whether a step would run, and why or why not: one or several reasons."""

    step: str
    runs: bool
    reasons: tuple[str, ...]


def explain(plan: Plan, ledger: Ledger) -> tuple[Explained, ...]:
    """Return which steps of a plan would run on a server with this ledger. Pure."""
    return tuple(_explained(step, ledger.get(step.step)) for step in plan.steps)


def _explained(step: PlannedStep, done: Done | None) -> Explained:
    if step.kind == "check":
        return Explained(step.step, runs=True, reasons=("checks always run",))
    if done is None:
        return Explained(step.step, runs=True, reasons=("it was not done yet",))
    if done.fingerprint != step.fingerprint:
        return Explained(step.step, runs=True, reasons=tuple(differences(done.parts, step.parts)))
    return Explained(step.step, runs=False, reasons=("nothing that it depends on has changed",))


def differences(old: Parts, new: Parts) -> Iterator[str]:
    """Say what has changed, in a few words for each part. Pure."""
    if not old:
        yield "something that it depends on has changed; what, was not recorded"
        return
    for name in sorted({*old, *new}, key=lambda name: (name not in new, [*new, *old].index(name))):
        if old.get(name) != new.get(name):
            yield _difference(name, old.get(name), new.get(name))


def _difference(name: str, old: str | None, new: str | None) -> str:
    """Say how a part differs; None where there is none."""
    kind, _, what = name.partition(" ")
    how = "changed" if old and new else "is new" if new else "is gone"
    if kind == "release":
        return _release_difference(old, new)
    if kind == "files":
        return _files_difference(what, old, new)
    words = {
        "environment": f"its environment's {what} {how}",
        "needs": f"{what}, which it needs, {how}" if old and new else f"that it needs {what} {how}",
        "user": f"its user {old or 'root'} -> {new or 'root'}",
        "directory": f"its directory{what and f' of {what}'} {old or 'none'} -> {new or 'none'}",
    }
    return words.get(kind, f"its {name} {how}")


def _files_difference(component: str, old: str | None, new: str | None) -> str:
    if not old or not new:
        return f"its list of inputs of {component} is {'new' if new else 'gone'}"
    before, after = (text.partition(" ")[2] for text in (old, new))
    counts = f" ({before} -> {after})" if before != after else ""
    return f"its input files of {component} changed{counts}"


def _release_difference(old: str | None, new: str | None) -> str:
    component, before, _ = (old or "- none -").split(" ", 2)
    other, after, _ = (new or "- none -").split(" ", 2)
    if (component, before) == (other, after):
        return f"release {other} {after} is stored in another form"
    return f"release {other} {before} -> {after}" if component == other else f"release {component} -> {other} {after}"


class _Identity(TypedDict):
    parts: dict[str, str]
    fingerprint: str


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
        parts = {"script": _digest(step.script)}
        parts |= {f"environment {name}": _digest(value) for name, value in step.environment.items()}
        parts |= {"user": step.user} if step.user else {}
        parts |= {f"files {component}": f"{each.digest[:DIGITS]} {each.files}" for component, each in read.items()}
        parts |= {f"directory {component}": ", ".join(self._directories(component)) for component in read}
        on = [
            f"{each.files} files ({' '.join(step.inputs[name])}) of {name} {self._releases[name].version}"
            for name, each in read.items()
        ]
        return PlannedStep(
            step=step.step,
            kind="run",
            **self._identity(step, parts, needs),
            needs=step.needs,
            timeout_s=step.timeout,
            retry=_tries(step.retry),
            why=", ".join(["its script", *on, *needs]),
            script=step.script,
            environment=dict(step.environment),
            user=step.user,
        )

    def _sync(self, step: SyncStep) -> PlannedStep:
        release = self._releases[step.sync]
        parts = {"release": f"{step.sync} {release.version} {release.digest[:DIGITS]}", "directory": step.to}
        return PlannedStep(
            step=step.step,
            kind="sync",
            **self._identity(step, parts, step.needs),
            needs=step.needs,
            timeout_s=step.timeout,
            retry=_tries(step.retry),
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
            **self._identity(step, {"url": step.check}, step.needs),
            needs=step.needs,
            timeout_s=step.timeout,
            why="checks always run",
            url=step.check.replace("{address}", self._address),
        )

    def _identity(self, step: Step, parts: dict[str, str], needs: Iterable[str]) -> _Identity:
        """Return all that a step depends on, and the digest of that."""
        parts |= {f"needs {need}": self._fingerprints[need][:DIGITS] for need in needs}
        text = json.dumps([type(step).__name__, step.step, parts], sort_keys=True, separators=(",", ":"))
        return {"parts": parts, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}

    def _directories(self, component: str) -> list[str]:
        return [step.to for step in self._syncs.values() if step.sync == component]


def _tries(retry: Retry | None) -> Tries:
    return Tries(tries=retry.tries, pause_s=retry.pause) if retry else Tries()


def _digest(text: str) -> str:
    """Return the beginning of a text's SHA-256, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
