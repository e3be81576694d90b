"""The example's releases: generated where they are needed, not committed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from examples.monolith import LIBRARIES_VERSION, Edition, write_libraries, write_monolith
from shared import releases
from shared.aws import Cloud
from shared.clock import Clock
from shared.components import Components
from shared.fleet import Fleet

BROKEN_VERSION = 3
"""The release of the monolith that does not compile."""


async def first_releases(cloud: Cloud, clock: Clock, fleet: Fleet, workspace: Path, scale: float = 1.0) -> None:
    """Publish the first release of each of the example's components and make them the fleet's.

    ``scale`` is how much there is of them: 1.0 is about 300 MB in 20,000 files.
    """
    components = Components(cloud.objects, cloud.publisher, clock)
    libraries = await asyncio.to_thread(_write_libraries, workspace, scale)
    monolith = await asyncio.to_thread(monolith_release, workspace, 1, scale)
    for component, version, folder in (("libraries", LIBRARIES_VERSION, libraries), ("monolith", "1", monolith)):
        await releases.publish(cloud.objects, component, version, folder)
        await components.point(fleet.fleet, component, version, by="ops")


def monolith_release(workspace: Path, version: int, scale: float = 1.0) -> Path:
    """Generate a version of the monolith and return its folder; each changes 2 % of the files of the one before."""
    out = workspace / f"monolith-{version}"
    if not (out / "monolith").exists():
        write_monolith(out, Edition(version=version, scale=scale, broken=version == BROKEN_VERSION))
    return out / "monolith"


def _write_libraries(workspace: Path, scale: float) -> Path:
    write_libraries(workspace, scale=scale)
    return workspace / "libraries"
