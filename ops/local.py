"""``up`` and ``down``: the whole system on this machine, started and left running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from deploy.fleet import read_fleet
from deploy.group import apply_group
from ops.example import first_releases
from ops.settings import OperatorSettings
from ops.stack import Stack
from shared.aws import open_cloud
from shared.clock import SystemClock

COMMANDS = """
The fleet {fleet} provisions three servers now; that takes a minute. Commands to try, from this folder:

  export AWS_ENDPOINT_URL={url} AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1
  export PATH=$PWD/.venv/bin:$PATH

  # who is there; who takes traffic
  aws autoscaling describe-auto-scaling-instances --output table
  aws s3 cp s3://{bucket}/fleets/{fleet}/membership.json -

  # bake a golden image; where the pointer is; go back to the image before
  aws sns publish --topic-arn {commands} \\
      --message '{{"type":"image.bake.requested","fleet":"{fleet}"}}'
  aws s3 cp s3://{bucket}/fleets/{fleet}/image.json -
  aws sns publish --topic-arn {commands} \\
      --message '{{"type":"image.rollback.requested","fleet":"{fleet}"}}'

  # see a server replaced
  aws sns publish --topic-arn {commands} \\
      --message '{{"type":"server.kill.requested","fleet":"{fleet}","server":"i-..."}}'

  # where the time of launches went; releases; dead letters
  python -m ops launch list {fleet}
  python -m ops release list --fleet {fleet}
  python -m ops queues list

Logs are in {logs}. End it with: make down
"""


async def bring_up(folder: Path, port: int, description: Path, say: Callable[[str], None]) -> None:
    """Start everything and print what to try.

    Raises:
        FleetError: the description is wrong; nothing was started.
        StartFailed: the local cloud did not start; nothing is left running.
    """
    fleet = read_fleet(description)
    stack = Stack(folder, port)
    stack.enter()
    say("starting the local cloud")
    stack.start_cloud()
    try:
        say("creating topics, queues and rules, and starting the six services")
        await stack.start_services(say)
        say("generating and publishing the first releases")
        clock = SystemClock()
        async with open_cloud(OperatorSettings.read(), "ops", clock) as cloud:
            await first_releases(cloud, clock, fleet, stack.folder / "releases")
        await apply_group(fleet)
    except BaseException:
        await asyncio.to_thread(stack.stop)
        raise
    commands = stack.topic_arn("autoprovisioner-commands")
    logs = stack.processes.folder
    say(COMMANDS.format(fleet=fleet.fleet, url=stack.url, bucket="autoprovisioner", commands=commands, logs=logs))


def take_down(folder: Path) -> list[str]:
    """End everything that runs in the folder; return the names of what ran."""
    return Stack(folder, port=0).stop()
