"""Going on with the last good release where the one that is set fails: launches and bakes do it alike.

Which release is to blame is found by trial. When a step has failed for good, those components are suspected whose
release changed since the last good one and that the step depends on, by the fingerprints that plans have anyway. The
plan runs again with their last good releases. If that goes well, the suspects are broken for this fleet, and that is
said once. If it fails too, no release is to blame. Where nothing changed, or nothing ever went well, nobody falls back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.clock import Clock
from shared.components import Components, Standings, chosen, shortened
from shared.fleet import Fleet, SyncStep
from shared.records import Attempt, Broken, Fallback
from shared.runs import NoPlan, Runs


def planned(standings: Standings, fallbacks: Iterable[Fallback]) -> dict[str, str]:
    """Return the releases to plan with: those chosen, but the good ones where these fallbacks stand. Pure.

    A fallback ends when a release is set anew.
    """
    releases = chosen(standings)
    for each in fallbacks:
        standing = standings.get(each.component)
        if standing and standing.current and standing.current.generation == each.setting:
            releases[each.component] = each.good
    return releases


def changed(standings: Standings, tried: Mapping[str, str]) -> dict[str, str]:
    """Return the components that were tried with the release that is set and not with the last good one. Pure.

    The values are the last good releases.
    """
    found = {}
    for name, each in standings.items():
        version = each.current.version if each.current else None
        if each.good is not None and version is not None and tried.get(name) == version != each.good:
            found[name] = each.good
    return found


async def suspects(
    runs: Runs, fleet: Fleet, tried: Mapping[str, str], changed_from: Mapping[str, str], step: str | None
) -> set[str]:
    """Return the components whose change to what was ``tried`` may have made a step fail.

    ``changed_from`` are those that changed, with the releases that went well. None is suspected for an unknown step:
    what failed outside of the plan is no release's fault. Raises CloudError.
    """
    planned_step = next((each for each in fleet.plan if each.step == step), None)
    if planned_step is None:
        return set()
    if isinstance(planned_step, SyncStep):
        return {planned_step.sync} & set(changed_from)
    found = set()
    for component, good in changed_from.items():
        try:
            now = await runs.fingerprints(fleet, tried)
            then = await runs.fingerprints(fleet, {**tried, component: good})
        except NoPlan:
            continue  # without its last good release there is no going back to it
        if now[planned_step.step] != then[planned_step.step]:
            found.add(component)
    return found


def fallbacks(
    standings: Standings, tried: Mapping[str, str], suspected: Iterable[str], failed: Attempt, after: int
) -> tuple[Fallback, ...]:
    """Return what to go on with instead of the suspects. ``after`` is the number of attempts made so far. Pure."""
    found = []
    goods = changed(standings, tried)
    for component in sorted(suspected):
        current = standings[component].current
        assert current is not None, "only a release that is set is suspected"
        found.append(
            Fallback(
                component=component,
                broken=current.version,
                setting=current.generation,
                good=goods[component],
                after=after,
                step=failed.step,
                reason=failed.reason,
                log_tail=failed.log_tail,
            )
        )
    return tuple(found)


def unplanned(
    fleet: Fleet, standings: Standings, there: Iterable[Fallback], component: str | None, reason: str, after: int
) -> Fallback | None:
    """Return what to go on with where a component's release cannot even be planned with; None: nothing. Pure.

    ``there`` are the fallbacks so far: a last good release that cannot be planned with either leads nowhere.
    """
    standing = standings.get(component or "")
    if standing is None or standing.current is None or standing.good in (None, standing.current.version):
        return None
    tried = any((each.component, each.setting) == (component, standing.current.generation) for each in there)
    if tried or standing.broken:
        return None
    step = next((each.step for each in fleet.plan if isinstance(each, SyncStep) and each.sync == component), None)
    return Fallback(
        component=standing.component,
        broken=standing.current.version,
        setting=standing.current.generation,
        good=standing.good or "",
        after=after,
        step=step,
        reason=reason,
    )


async def conclude(
    components: Components, clock: Clock, fleet: str, releases: Mapping[str, str], fell: Iterable[Fallback], what: str
) -> None:
    """All went well with ``releases``: prove them, and condemn those that were fallen back from.

    ``what`` names the launch or bake. Raises CorruptDocument and CloudError; may be repeated.
    """
    stood = [each for each in fell if releases.get(each.component) == each.good]
    for each in stood:
        broken = Broken(
            version=each.broken,
            setting=each.setting,
            at=clock.now(),
            by=what,
            reason=_blame(each, stood, what),
            step=each.step,
            log_tail=each.log_tail,
        )
        await components.condemn(fleet, each.component, shortened(broken), each.good)
    await components.prove(fleet, releases, what)


def _blame(one: Fallback, together: list[Fallback], what: str) -> str:
    others = [f"{each.component} {each.broken}" for each in together if each is not one and each.after == one.after]
    also = f", and {', '.join(others)} changed too: one of them is to blame" if others else ""
    return f"{what} failed with it and went well with {one.good}{also}: {one.reason}"
