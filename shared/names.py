"""What things are called in AWS. The template in ``deploy/messaging.yaml`` uses the same names."""

from typing import Literal

ServiceName = Literal["reconciler", "provisioner", "baker", "registry", "janitor", "chaos"]
SERVICES: tuple[ServiceName, ...] = ("reconciler", "provisioner", "baker", "registry", "janitor", "chaos")

TopicName = Literal["events", "commands", "alarms", "alerts"]

LAUNCH_HOOK = "autoprovisioner-launch"
TERMINATE_HOOK = "autoprovisioner-terminate"

RUN_DOCUMENT = "AutoProvisioner-RunPlan"
"""The Systems Manager document that runs a plan: fixed commands, parameters as data."""


def queue_name(service: ServiceName) -> str:
    """Return the name of a service's queue; its dead-letter queue adds ``-dead``."""
    return f"autoprovisioner-{service}"


def topic_name(topic: TopicName) -> str:
    """Return the name of a topic."""
    return f"autoprovisioner-{topic}"
