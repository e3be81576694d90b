"""``python -m services.reconciler``."""

from services.reconciler.handler import Reconciler
from shared.runtime import Services, run_service


def make(services: Services) -> Reconciler:
    """Wire the handler."""
    return Reconciler(
        groups=services.groups,
        servers=services.servers,
        publisher=services.publisher,
        alarms=services.alarms,
        health=services.health,
        clock=services.clock,
        documents=services.documents,
        fleets=services.fleets,
        alerts=services.alerts,
    )


if __name__ == "__main__":
    run_service("reconciler", make)
