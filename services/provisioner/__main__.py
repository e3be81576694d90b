"""``python -m services.provisioner``."""

from services.provisioner.handler import Provisioner
from shared.components import Components
from shared.runs import AGENT, Runs
from shared.runtime import Services, run_service


def make(services: Services) -> Provisioner:
    """Build the service from what the environment offers."""
    return Provisioner(
        groups=services.groups,
        servers=services.servers,
        documents=services.documents,
        fleets=services.fleets,
        components=Components(services.objects, services.publisher, services.clock),
        runs=Runs(services.commands, services.objects, services.clock, AGENT),
        publisher=services.publisher,
        alerts=services.alerts,
        clock=services.clock,
    )


if __name__ == "__main__":
    run_service("provisioner", make)
