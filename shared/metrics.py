"""What is counted: messages handled, and what the messages that we publish say. Nothing, unless there is a meter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.messages import AlertRaised, ImageBakeFailed, ImageReady, Message, ServerProvisionFailed, ServerReady

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds that OpenTelemetry's conventions advise for durations of messaging."""

LAUNCH_SECONDS = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)


class _Instruments:
    def __init__(self, meter: Meter) -> None:
        self.consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Messages delivered to a handler"
        )
        self.duration = meter.create_histogram(
            "messaging.process.duration", "s", "Handling one message", explicit_bucket_boundaries_advisory=SECONDS
        )
        self.launches = meter.create_counter("autoprovisioner.launches", "{launch}", "Launches that ended")
        self.launch_duration = meter.create_histogram(
            "autoprovisioner.launch.duration",
            "s",
            "From the launch hook to service",
            explicit_bucket_boundaries_advisory=LAUNCH_SECONDS,
        )
        self.bakes = meter.create_counter("autoprovisioner.bakes", "{bake}", "Bakes that ended")
        self.alerts = meter.create_counter("autoprovisioner.alerts", "{alert}", "Alerts raised")
        self.disruptions = meter.create_counter(
            "autoprovisioner.disruptions", "{resource}", "Servers and images that we took out, as audited"
        )


_instruments: _Instruments | None = None


def measure_with(meter: Meter | None) -> None:
    """Let this meter count from now on; None: nothing is counted."""
    global _instruments  # noqa: PLW0603  one a process, as OpenTelemetry has it, but one that tests can take back
    _instruments = _Instruments(meter) if meter else None


def processed(queue: str, seconds: float, error: str | None) -> None:
    """Count a message that was handled; ``error`` is the type of what went wrong."""
    if _instruments is None:
        return
    attributes = {
        "messaging.system": "aws_sqs",
        "messaging.operation.name": "process",
        "messaging.destination.name": queue,
        **({} if error is None else {"error.type": error}),
    }
    _instruments.consumed.add(1, attributes)
    _instruments.duration.record(seconds, attributes)


def published(message: Message) -> None:
    """Count what a published message tells of. A message that is published again is counted again."""
    if _instruments is None:
        return
    match message:
        case ServerReady():
            _instruments.launches.add(1, {"autoprovisioner.fleet": message.fleet, "autoprovisioner.result": "ready"})
            _instruments.launch_duration.record(message.seconds, {"autoprovisioner.fleet": message.fleet})
        case ServerProvisionFailed():
            _instruments.launches.add(1, {"autoprovisioner.fleet": message.fleet, "autoprovisioner.result": "failed"})
        case ImageReady():
            _instruments.bakes.add(1, {"autoprovisioner.fleet": message.fleet, "autoprovisioner.result": "ready"})
        case ImageBakeFailed():
            _instruments.bakes.add(1, {"autoprovisioner.fleet": message.fleet, "autoprovisioner.result": "failed"})
        case AlertRaised():
            _instruments.alerts.add(1, {"autoprovisioner.fleet": message.fleet, "autoprovisioner.cause": message.cause})


def disrupted(fleet: str, action: str) -> None:
    """Count a server or an image that is about to be taken out."""
    if _instruments is not None:
        _instruments.disruptions.add(1, {"autoprovisioner.fleet": fleet, "autoprovisioner.action": action})
