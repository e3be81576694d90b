"""``python -m services.chaos``."""

from services.chaos.handler import Chaos
from shared.runtime import Services, run_service


def make(services: Services) -> Chaos:
    """Wire the handler."""
    return Chaos(
        groups=services.groups,
        publisher=services.publisher,
        alarms=services.alarms,
        clock=services.clock,
        randomness=services.random,
        documents=services.documents,
        fleets=services.fleets,
        alerts=services.alerts,
    )


if __name__ == "__main__":
    run_service("chaos", make)
