"""What to type next when a plan has failed: the command that an alert carries."""

from __future__ import annotations

from shared.components import back_command
from shared.documents import Documents
from shared.fleet import Fleet, RunStep, SyncStep
from shared.hints import show_command
from shared.records import Release, current_release_key


async def next_command(documents: Documents, fleet: Fleet, step: str | None, record_key: str) -> str:
    """Return a command: back to the release that changed last and that the step reads, else show the record.

    Raises:
        CorruptDocument, CloudError: the current releases cannot be read.
    """
    keys = [current_release_key(fleet.fleet, component) for component in components_of(fleet, step)]
    releases = [await documents.get(Release, key) for key in keys]
    changed = [release for release in releases if release is not None and release.previous is not None]
    if not changed:
        return show_command(record_key)
    last = max(changed, key=lambda release: release.since)
    return back_command(fleet.fleet, last.component, str(last.previous), last.version)


def components_of(fleet: Fleet, step: str | None) -> tuple[str, ...]:
    """Return the components that a step depends on, itself or through what it needs; all for an unknown one. Pure."""
    steps = {each.step: each for each in fleet.plan}
    if step not in steps:
        return fleet.components
    found: dict[str, None] = {}
    waiting = [step]
    while waiting:
        each = steps[waiting.pop()]
        if isinstance(each, SyncStep):
            found[each.sync] = None
        elif isinstance(each, RunStep):
            found.update(dict.fromkeys(each.inputs))
        waiting.extend(each.needs)
    return tuple(found)
