"""``python -m services.reconciler``."""

from services.reconciler.handler import Reconciler
from services.reconciler.rollouts import Rollouts
from shared.components import Components
from shared.runtime import Services, run_service


def make(services: Services) -> Reconciler:
    """Wire the handler."""
    components = Components(services.objects, services.publisher, services.clock)
    rollouts = Rollouts(services.documents, components, services.publisher, services.alerts, services.clock)
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
        rollouts=rollouts,
    )


if __name__ == "__main__":
    run_service("reconciler", make)
