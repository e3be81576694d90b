"""``python -m ops.bootstrap examples/web/fleet.yaml``: makes all that the services need, then exits; run by compose.

Where, and as whom, follows from the environment, as for a service.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deploy.fleet import read_fleet
from deploy.group import apply_group
from deploy.messaging import DeployError, apply_messaging
from ops.example import first_releases
from ops.sentences import EXPECTED
from ops.settings import OperatorSettings
from shared.aws import open_cloud
from shared.clock import SystemClock
from shared.components import Components


async def bootstrap(description: Path, scale: float) -> None:
    """Apply the template, publish the example's first releases, and make the fleet. Safe to repeat.

    A fleet that runs releases already goes on running those.

    Raises:
        FleetError: the description is wrong; nothing was made.
        DeployError, CloudError: something could not be made; run it again to go on from there.
    """
    fleet = read_fleet(description)
    settings, clock = OperatorSettings.read(), SystemClock()
    await apply_messaging(settings.bucket)
    async with open_cloud(settings, "ops", clock) as cloud:
        if (await Components(cloud.objects, cloud.publisher, clock).standing(fleet.fleet, "monolith")).current is None:
            print("generating and publishing the first releases", flush=True)
            with tempfile.TemporaryDirectory() as workspace:
                await first_releases(cloud, clock, fleet, Path(workspace), scale)
    for change in await apply_group(fleet, settings.bucket):
        print(change, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Do it, and return the exit code: 0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ops.bootstrap", description=bootstrap.__doc__)
    parser.add_argument("description", type=Path, help="the fleet's description")
    parser.add_argument("--scale", type=float, default=1.0, help="of the example: 1.0 is about 300 MB in 20,000 files")
    asked = parser.parse_args(arguments)
    try:
        asyncio.run(bootstrap(asked.description, asked.scale))
    except (*EXPECTED, DeployError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
