"""``python -m services.provisioner``."""

from services.provisioner.handler import Provisioner
from services.provisioner.updates import Updates
from shared.components import Components
from shared.runs import AGENT, Runs
from shared.runtime import Services, run_service


def make(services: Services) -> Provisioner:
    """Build the service from what the environment offers."""
    components = Components(services.objects, services.publisher, services.clock)
    runs = Runs(services.commands, services.objects, services.clock, AGENT)
    updates = Updates(
        groups=services.groups,
        servers=services.servers,
        documents=services.documents,
        components=components,
        runs=runs,
        publisher=services.publisher,
        clock=services.clock,
    )
    return Provisioner(
        groups=services.groups,
        servers=services.servers,
        documents=services.documents,
        fleets=services.fleets,
        components=components,
        runs=runs,
        publisher=services.publisher,
        alerts=services.alerts,
        clock=services.clock,
        updates=updates,
    )


if __name__ == "__main__":
    run_service("provisioner", make)
