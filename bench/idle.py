"""What a service costs when there is nothing to do: processor time and memory, over a minute of long polling."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import psutil

from bench.measurement import Measurement
from bench.ports import free_port
from ops.stack import Stack
from shared.names import SERVICES

COMMAND = "python -m bench idle"

SETTLE_S = 10.0
"""Imports, first polls and first ticks are over by then."""

WATCHED_S = 60.0


def measure() -> list[Measurement]:
    """Start the local cloud and the six services, without a fleet, and watch them."""
    return asyncio.run(_measure())


async def _measure() -> list[Measurement]:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "cloud", free_port())
        stack.enter()
        try:
            stack.start_cloud()
            await stack.start_services(print)
            await asyncio.sleep(SETTLE_S)
            return await _watch(stack)
        finally:
            stack.stop()


async def _watch(stack: Stack) -> list[Measurement]:
    services = [running for running in stack.processes.running() if running.name in SERVICES]
    before = {running.name: _cpu_s(running.process) for running in services}
    await asyncio.sleep(WATCHED_S)
    found = []
    for running in services:
        used = _cpu_s(running.process) - before[running.name]
        memory = running.process.memory_info().rss / 1e6
        found.append(_figure(f"{running.name}: idle processor", 100 * used / WATCHED_S, "% of a core", "below 1"))
        found.append(_figure(f"{running.name}: memory", memory, "MB", "at most 120"))
    return found


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _figure(name: str, measured: float, unit: str, goal: str) -> Measurement:
    return Measurement(name=name, measured=round(measured, 2), unit=unit, goal=goal, command=COMMAND)
