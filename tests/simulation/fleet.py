"""The fleet that is simulated, and the releases of its one component."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from shared.fleet import (
    Capacity,
    ChaosPolicy,
    CheckStep,
    DisruptionPolicy,
    DrainPolicy,
    Fleet,
    Health,
    LaunchPolicy,
    Policies,
    Quarantine,
    RetentionPolicy,
    RunStep,
    Scaling,
    SyncStep,
)
from shared.releases import publish
from tests.simulation.loop import START, VirtualLoop
from tests.simulation.machines import STOCK
from tests.simulation.objects import Bucket, DirectObjects

NAME = "web"
COMPONENT = "monolith"
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
INCIDENT = "web-incident"
VERSIONS = tuple(str(number) for number in range(1, 10))
"""Releases that build."""

BAD_VERSION = "13"
"""One that does not."""


def fleet(servers: int) -> Fleet:
    """Return the fleet: a legacy monolith that takes forty minutes to provision in full."""
    return Fleet(
        fleet=NAME,
        stock=STOCK,
        zones=ZONES,
        capacity=Capacity(min=max(1, servers // 2), desired=servers, max=min(1000, servers * 2)),
        plan=(
            RunStep(step="system", run="system.sh", script="apt-get install -y libfoo"),
            SyncStep(step="code", sync=COMPONENT, to="srv/monolith", needs=("system",)),
            RunStep(step="libraries", run="libraries.sh", script="pip", needs=("code",), inputs={COMPONENT: ("lock",)}),
            RunStep(step="build", run="build.sh", script="make", needs=("libraries",), inputs={COMPONENT: ("src/**",)}),
            CheckStep(step="healthy", check="http://{address}/health", needs=("build",)),
        ),
        health=Health(url="http://{address}/health"),
        scaling=Scaling(
            namespace="Web", metric="Load", high=75, low=35, step=min(100, max(1, servers // 5)), cooldown=600
        ),
        policies=Policies(
            launch=LaunchPolicy(attempts=2, deadline=7200, heartbeat=300, at_once=1000),
            disruption=DisruptionPolicy(
                floor=max(1, servers // 2), unavailable=max(1, servers // 4), hourly=max(4, servers // 2)
            ),
            drain=DrainPolicy(seconds=30),
            retention=RetentionPolicy(days=0.1, keep=1, quarantine_hours=0.5, builder_hours=4, records_days=20),
            chaos=ChaosPolicy(enabled=True, kills_per_day=3, hours=(6, 20), alarms=(INCIDENT,)),
            quarantine=Quarantine(hours=3),
        ),
    )


@lru_cache
def releases() -> Mapping[str, bytes]:
    """Return the objects of all releases, made by the real publisher from a tiny source tree."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_published())
    finally:
        loop.close()


async def _published() -> Mapping[str, bytes]:
    bucket = Bucket(lambda key, name: None, lambda: START)
    objects = DirectObjects(bucket)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        source.mkdir()
        for version in (*VERSIONS, BAD_VERSION):
            (source / "main.c").write_text(f"int version = {version};\n")
            (Path(folder) / "lock").write_text(f"libfoo {int(version) // 3}\n")
            await publish(objects, COMPONENT, version, Path(folder))
            await asyncio.sleep(0)
    return {key: stored.body for key in bucket.keys("") if (stored := bucket.get(key)) is not None}
